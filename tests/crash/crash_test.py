"""Kills iovad again and again, and looks for what it lost.

usage: crash_test.py [--kills N] [--seed N]

Several clients change their spaces at random, with simulated devices attached, with
those of relays, or without; one watches each. The server is killed with SIGKILL at a random moment, or
kills itself at a random passing of a critical step (IOVAD_FAULT), is started again on
the same state, and everything is compared: see driver.py.
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
from daemon import Daemon, wait_until  # noqa: E402
from device_table import replay, device_log, table_of_mappings  # noqa: E402
from driver import Driver, Follower  # noqa: E402
from harness import Client  # noqa: E402
from relays import Relay  # noqa: E402

POINTS = ["store.begin", "store.before_commit", "store.after_commit", "space.stored",
          "space.pushed", "space.settled"]


def check_devices(client, drivers):
    """Every device holds exactly what its space maps."""
    for driver in drivers:
        for device in driver.devices:
            table = replay(device_log(client, device), strict=False).get(0, {})
            expected = table_of_mappings(driver.mappings.values())
            assert table == expected, f"device {device}: {table} instead of {expected}"
        if driver.relay is not None and driver.relay.attached:
            driver.relay.check(driver.mappings.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=int(os.environ.get("IOVAD_CRASH_KILLS", 200)))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    rng = random.Random(arguments.seed)
    folder = tempfile.mkdtemp(prefix="iovad-crash-")
    # A space of its own for each, and names of devices that it is attached to.
    drivers = [Driver("ledger", rng.random()), Driver("one-device", rng.random(), ["sim-a"]),
               Driver("two-devices", rng.random(), ["sim-b", "sim-c"]),
               Driver("relay", rng.random(), relay=Relay("relay", "net-a", rng.random())),
               Driver("relay-and-device", rng.random(), ["sim-d"],
                      Relay("relay-and-device", "net-b", rng.random()))]
    followers = {d.name: Follower(d.name) for d in drivers}
    deaths = collections.Counter()
    begin = time.monotonic()
    devices_open = False
    try:
        for kill in range(arguments.kills + 1):
            last = kill == arguments.kills
            point = None
            environment = {}
            if kill > 0 and not last and rng.random() < 0.5:
                point = rng.choice(POINTS)
                environment = {"IOVAD_FAULT": f"{point}:kill:{rng.randrange(1, 80)}"}
            # Checking must not be what the fault hits: it is armed in the next one.
            daemon = Daemon(folder=folder, keeps=True).start()
            with Client(daemon.target) as client:
                client.wait_ready()
                if not devices_open:
                    for name in ("sim-a", "sim-b", "sim-c", "sim-d"):
                        client.OpenDevice(device=name, simulated={}, request_id=name)
                    devices_open = True
                for driver in drivers:
                    if driver.created and driver.relay is not None:
                        assert driver.attach(client), f"{driver.name}: the relay cannot come back"
                    driver.check(client)
                check_devices(client, drivers)
                for driver in drivers:
                    follower = followers[driver.name]
                    if driver.created:
                        follower.start(client)
                        follower.check(driver, wait_until)
            if last:
                daemon.stop()
                break
            if environment:
                # In order, so that nothing is under way.
                daemon.stop()
                daemon = Daemon(folder=folder, keeps=True, environment=environment)
                try:
                    daemon.start()
                except AssertionError:
                    # Died while it took up what there was.
                    deaths[point + " at start"] += 1
                    daemon.dispose()
                    continue
            with Client(daemon.target) as client:
                for driver in drivers:
                    if environment and driver.created and driver.relay is not None:
                        driver.attach(client)
                    driver.start(client)
                if point is None:
                    time.sleep(rng.uniform(0.001, 0.08))
                else:
                    deadline = time.monotonic() + 5
                    while daemon.process.poll() is None and time.monotonic() < deadline:
                        time.sleep(0.002)
                    if daemon.process.poll() is not None:
                        deaths[point] += 1
                daemon.kill()
                for driver in drivers:
                    driver.join()
            for driver in drivers:
                if driver.relay is not None:
                    driver.relay.join()
                if followers[driver.name].revision:
                    followers[driver.name].join()
    except BaseException:
        print(f"failed after {kill} kills; seed {arguments.seed}; the state is in {folder}")
        raise
    shutil.rmtree(folder)
    total = sum(d.acknowledged for d in drivers)
    relays = [d.relay for d in drivers if d.relay is not None]
    assert total > arguments.kills, f"only {total} changes in all"
    print(f"{arguments.kills} kills in {time.monotonic() - begin:.0f} s: {total} changes "
          f"acknowledged, none lost; {sum(d.repeated for d in drivers)} under way, each whole or "
          f"not there; {sum(f.resumed for f in followers.values())} watches resumed; "
          f"relays went on {sum(r.resumed for r in relays)} times, and had everything anew "
          f"{sum(r.replayed for r in relays)} times; "
          f"by fault point: {dict(sorted(deaths.items()))}")


if __name__ == "__main__":
    main()
