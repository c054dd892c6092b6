#!/usr/bin/env python3
"""How much later a guest's memory is mapped than its QEMU is up.

usage: qemu_start.py [--smoke] --json FILE

Starts a QEMU without the plugin, until it answers its first QMP command, and one with it,
until iovad has acknowledged the first change, in turns; everything else on the command
line is the same. The figures are medians of 9 (with --smoke: of 1), in milliseconds from
the moment that the program was started. Where no QEMU is installed it says so, and writes
no figures.
"""
import json
import os
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
os.environ.setdefault("IOVAD_BIN_DIR", os.path.join(ROOT, "build", "release", "bin"))
sys.path += [os.path.join(ROOT, "tests", "contract"), os.path.join(ROOT, "tests", "qemu")]

# pylint: disable=wrong-import-position
from daemon import Daemon, wait_until  # noqa: E402
from harness import Client  # noqa: E402
from vm import QEMU, Vm, exists  # noqa: E402


def plain(socket):
    """Milliseconds until QEMU answers."""
    vm = Vm(socket)
    at = vm.command.index("-plugin")
    del vm.command[at:at + 2]
    start = time.monotonic()
    with vm:
        # Asked for its capabilities, it has answered.
        return (time.monotonic() - start) * 1000


def with_plugin(socket, client):
    """Milliseconds until the first change is made."""
    spaces = client.WatchSpaces(timeout=60)
    next(event for event in spaces if event.snapshot_end)
    vm = Vm(socket)
    start = time.monotonic()
    vm.begin()
    next(event for event in spaces if event.created.name == "vm")
    next(iter(client.Watch(space="vm", start_revision=2, timeout=60)))
    taken = (time.monotonic() - start) * 1000
    with vm:
        pass
    wait_until(lambda: not exists(client), "the space is gone")
    return taken


def main(arguments):
    rounds = 1 if "--smoke" in arguments else 9
    figures = {}
    if QEMU is None:
        print("qemu_start: NOT MEASURED: qemu-system-x86_64 is not installed")
    else:
        times = {"plain_ms": [], "plugin_ms": []}
        with Daemon() as daemon, Client(daemon.target) as client:
            for _ in range(rounds):
                times["plain_ms"].append(plain(daemon.socket_path))
                times["plugin_ms"].append(with_plugin(daemon.socket_path, client))
        figures = {name: statistics.median(all_of) for name, all_of in times.items()}
        figures["more_ms"] = figures["plugin_ms"] - figures["plain_ms"]
        figures["rounds"] = times
        print(f"QEMU answers after {figures['plain_ms']:.0f} ms, the guest's memory is mapped "
              f"after {figures['plugin_ms']:.0f} ms")
    with open(arguments[arguments.index("--json") + 1], "w", encoding="utf-8") as file:
        json.dump(figures, file)


if __name__ == "__main__":
    main(sys.argv[1:])
