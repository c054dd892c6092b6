"""Kills iovad again and again, and looks for what it lost.

usage: crash_test.py [--kills N] [--seed N]

Drivers change spaces at random: one alone or several beside each other, with simulated
devices attached, with those of relays, or without; a watcher follows each space. The
server is killed with SIGKILL at a random moment, or kills itself at a random passing of a
critical step (IOVAD_FAULT), is started again on the same state, and everything is
compared: space.py, indexes.py, follower.py, importer.py. Every critical step has killed at the
end.
"""

import argparse
import collections
import os
import random
import shutil
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "contract"))

# pylint: disable=wrong-import-position
from daemon import Daemon, scaled  # noqa: E402
from follower import Follower  # noqa: E402
from harness import Client  # noqa: E402
from importer import DEVICE, Importer  # noqa: E402
from relays import Relay  # noqa: E402
from space import Space  # noqa: E402

# Every critical step, and at which of its passings, at most, it is to kill: they are rarer
# in that order.
POINTS = {
    "store.begin": 80, "store.before_commit": 80, "store.after_commit": 80,
    "space.stored": 40, "space.half_pushed": 10, "space.pushed": 40, "space.settled": 40,
    "store.fold": 4, "store.fold_commit": 4, "store.meta_page": 4, "store.folded": 4,
    "space.attached": 3, "space.refused": 2,
}
# How long a step is waited for.
PATIENCE = 3
# So small that it is folded often.
JOURNAL_BYTES = 16384

SIMULATED = {name: {} for name in ("sim-a", "sim-b", "sim-c", "sim-d", "spare-a", "spare-b",
                                   DEVICE)}
# Refuses now and then, after a restart, too.
SIMULATED["sim-r"] = dict(faults=[dict(op="OP_UPDATE", nth=n, os_errno=5) for n in (40, 110, 500)]
                          + [dict(op="OP_INVALIDATE", nth=30, os_errno=5)])


class Run:
    """The state in a folder, and all who use it."""

    def __init__(self, seed):
        self.random = rng = random.Random(seed)
        self.folder = tempfile.mkdtemp(prefix="iovad-crash-")
        ram = os.path.join(self.folder, "ram")
        with open(ram, "wb") as made:
            made.truncate(4 << 20)
        relays = [Relay("relay", "net-a", rng.random()),
                  Relay("relay-and-device", "net-b", rng.random())]
        self.spaces = [
            Space("ledger", rng, ram),
            Space("one-device", rng, ram, devices=("sim-a",), spare=("spare-a",)),
            Space("crowd", rng, ram, drivers=4, devices=("sim-b", "sim-c"), spare=("spare-b",)),
            Space("refusing", rng, ram, devices=("sim-r",), refuses=True),
            Space("relay", rng, ram, refuses=True, relay=relays[0]),
            Space("relay-and-device", rng, ram, devices=("sim-d",), refuses=True,
                  relay=relays[1])]
        self.importer = Importer(ram)
        self.followers = {s.name: Follower(s.name) for s in self.spaces}
        self.deaths = collections.Counter()
        self.kills = 0

    def start(self, environment=None):
        """The server on what there is."""
        return Daemon("--memory-paths", self.folder, "--limits.journal-bytes", str(JOURNAL_BYTES),
                      folder=self.folder, keeps=True, environment=environment).start()

    def drivers(self):
        return [driver for space in self.spaces for driver in space.drivers] + [self.importer]

    def not_died_at(self):
        """Critical steps that have not killed yet."""
        return [p for p in POINTS if not self.deaths[p]]

    def next_point(self, kills):
        """At which step to kill, if at one."""
        left = self.not_died_at()
        if kills - self.kills <= 2 * len(left) or self.random.random() < 0.5:
            return self.random.choice(left or list(POINTS))
        return None

    def check(self, client):
        """Compares everything, and has everybody watch again."""
        for space in self.spaces:
            space.check(client)
        self.importer.check(client)
        for space in self.spaces:
            if space.exists:
                follower = self.followers[space.name]
                follower.start(client)
                follower.check(space)

    def change(self, daemon, client, point):
        """Has everybody change what there is until the server has died."""
        for driver in self.drivers():
            driver.start(client)
        if point is None:
            time.sleep(self.random.uniform(0.001, 0.08))
        else:
            deadline = time.monotonic() + scaled(PATIENCE)
            while daemon.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            self.deaths[point] += daemon.process.poll() is not None
        daemon.kill()
        for driver in self.drivers():
            driver.join()

    def kill_once(self, point):
        """Starts, compares, changes and kills."""
        daemon = self.start()
        with Client(daemon.target) as client:
            client.wait_ready()
            if self.kills == 0:
                for name, simulated in SIMULATED.items():
                    client.OpenDevice(device=name, simulated=simulated, request_id=name)
                self.importer.prepare(client)
            self.check(client)
            if point is None:
                self.change(daemon, client, None)
        if point is not None:
            # Checking must not be what the fault hits, so it is armed in another one. What is
            # in the journals is folded when this one stops in order, or the other begins.
            if self.random.random() < 0.5:
                daemon.stop()
            else:
                daemon.kill()
            passing = self.random.randrange(1, POINTS[point] + 1)
            self.die_at(point, {"IOVAD_FAULT": f"{point}:kill:{passing}"})
        for space in self.spaces:
            if space.relay is not None:
                space.relay.join()
            self.followers[space.name].join()
        self.kills += 1

    def die_at(self, point, environment):
        """Has it change what there is until it dies at the step."""
        try:
            daemon = self.start(environment)
        except AssertionError:
            # While it took up what there was.
            self.deaths[point] += 1
            return
        with Client(daemon.target) as client:
            self.change(daemon, client, point)

    def end(self):
        """Compares for the last time."""
        daemon = self.start()
        with Client(daemon.target) as client:
            client.wait_ready()
            self.check(client)
        daemon.stop()
        shutil.rmtree(self.folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=int(os.environ.get("IOVAD_CRASH_KILLS", 200)))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    random.seed(arguments.seed)
    run = Run(arguments.seed)
    begin = time.monotonic()
    try:
        # A few more, where a step was not met.
        most = arguments.kills + 2 * len(POINTS)
        while run.kills < arguments.kills or (run.not_died_at() and run.kills < most):
            run.kill_once(run.next_point(arguments.kills))
        run.end()
    except BaseException:
        print(f"failed after {run.kills} kills; seed {arguments.seed}; the state is in "
              f"{run.folder}")
        raise
    acknowledged = sum(d.acknowledged for d in run.drivers())
    assert acknowledged > run.kills, f"only {acknowledged} requests in all"
    assert not run.not_died_at(), f"it never died at {run.not_died_at()}"
    relays = [s.relay for s in run.spaces if s.relay is not None]
    print(f"{run.kills} kills in {time.monotonic() - begin:.0f} s: {acknowledged} requests "
          f"acknowledged, none lost; {sum(d.refused for d in run.drivers())} refused; "
          f"{sum(s.in_flight for s in run.spaces) + run.importer.in_flight} in flight, each wholly "
          f"there or not at all; {run.importer.imports} imports; "
          f"{sum(f.resumed for f in run.followers.values())} watches resumed; "
          f"relays went on {sum(r.resumed for r in relays)} times, and had everything anew "
          f"{sum(r.replayed for r in relays)} times; by step: {dict(sorted(run.deaths.items()))}")


if __name__ == "__main__":
    main()
