"""Two daemons that a guest moves between, and the programs that move it."""

import json
import os
import signal

from daemon import Daemon, scaled, wait_until
from iovactl import Iovactl

HERE = 0x7F0000000000
THERE = 0x7E0000000000
BIND = ["--bind", f"0+2G={THERE:#x}", "--bind", f"0xfeda0000+128K={THERE + 0xA0000:#x}"]


class Follower:
    """An `iovactl migrate prepare` that follows."""

    def __init__(self, pair, *arguments):
        self._process = pair.here.start(
            "migrate", "prepare", "vm1", "--to", pair.there.socket, *arguments, "--output", "json")
        self.events = []

    def next(self):
        """The next thing that it says."""
        line = self._process.stdout.readline()
        assert line, f"it ended: {self._process.stderr.read()}"
        self.events.append(json.loads(line))
        return self.events[-1]

    def until(self, event):
        """The next event of this kind."""
        while True:
            seen = self.next()
            if seen["event"] == event:
                return seen

    def end(self):
        """Waits for its end; the exit code, what it said last, and its error."""
        out, err = self._process.communicate(timeout=scaled(30))
        self.events += [json.loads(line) for line in out.splitlines()]
        error = json.loads(err)["error"] if err else None
        return self._process.returncode, self.events[-1] if self.events else None, error

    def running(self):
        return self._process.poll() is None

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def kill(self):
        self._process.kill()
        self._process.communicate()


class Pair:
    """A source with a space vm1, and a destination that keeps its state."""

    def __init__(self, source, destination):
        self.source, self.destination = source, destination
        self.here, self.there = Iovactl(source.socket_path), Iovactl(destination.socket_path)
        self.here("device", "open", "sim0", "--simulated")
        self.there("device", "open", "sim1", "--simulated")
        self.here("space", "create", "vm1", "--attach", "sim0", "--label", "tenant=blue")
        self.here("map", "vm1", "--gpa", "0", "--hva", hex(HERE), "--size", "1M", "--label", "low")
        self.here("map", "vm1", "--gpa", "0xfeda0000", "--hva", hex(HERE + 0xA0000), "--size",
                  "128K", "--label", "smram")
        self.here("svq", "alloc", "vm1", "--queue", "0,size=256")
        self._followers = []

    def prepare(self, *arguments, code=0):
        """`migrate prepare --once`: what it reports."""
        run = self.here("migrate", "prepare", "vm1", "--to", self.there.socket, "--once",
                        *arguments, "--output", "json", code=code)
        if code != 0:
            return run.error
        events = [json.loads(line) for line in run.out.splitlines()]
        assert events[-1]["event"] == "ended" and events[-1]["why"] == "once"
        return next(e for e in events if e["event"] == "prepared")

    def follow(self, *arguments):
        """Starts `migrate prepare`."""
        self._followers.append(Follower(self, *arguments))
        return self._followers[-1]

    def switch(self, *arguments, space="vm1"):
        return self.there.json("migrate", "switch", "--to", self.there.socket, space, *arguments)

    def abort(self, *arguments, space="vm1"):
        return self.here.json("migrate", "abort", "--to", self.there.socket, space, *arguments)

    def status(self, ctl=None):
        """The one migration that there is."""
        report = (ctl or self.here).json("migrate", "status")
        assert len(report["migrations"]) == 1, report
        return report["migrations"][0]

    def guest(self, ctl, space="vm1"):
        """The guest's mappings as they are to be on both sides, with HVAs as offsets."""
        base = HERE if ctl is self.here else THERE
        return sorted((int(m["gpa"], 16), int(m["size"], 16), int(m["iova"], 16), m["access"],
                       m["label"], int(m["hva"], 16) - base)
                      for m in ctl.json("ls", space)["mappings"] if m["kind"] == "GUEST")

    def queues(self, ctl, space="vm1"):
        return sorted((q["queue_index"], q["queue_size"], q["control"])
                      for q in ctl.json("svq", "ls", space)["svqs"])

    def in_step(self, space="vm1"):
        """Whether the destination is as the source is."""
        return (self.guest(self.here) == self.guest(self.there, space) and
                set(self.queues(self.here)) <= set(self.queues(self.there, space)))

    def wait_in_step(self):
        wait_until(self.in_step, "the destination is as the source")

    def labels(self, ctl, space="vm1"):
        return ctl.json("space", "get", space)["space"]["labels"]

    def spaces(self, ctl):
        return [s["name"] for s in ctl.json("space", "ls")["spaces"]]

    def stop(self):
        for follower in self._followers:
            if follower.running():
                follower.kill()


def start(folder, *arguments):
    """A daemon that keeps its state, in a folder of its own."""
    os.makedirs(folder, exist_ok=True)
    return Daemon("--memory-paths", folder, *arguments, folder=folder, keeps=True).start()
