#!/usr/bin/env python3
"""How long it takes until all spaces of a process are gone that has ended.

usage: IOVAD_BIN_DIR=build/release/bin tests/bench/owners.py [SPACES]

Each space has 16 mappings and an address space of a simulated device of its own, grace time 0;
the state is kept in a file. Once they belong to one process, once to 64 that end together.
"""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                "contract"))

# pylint: disable=wrong-import-position
from daemon import Daemon  # noqa: E402
from harness import HVA, PAGE, Client, spec  # noqa: E402
from owner_process import OWNER_PROCESS, OwnerProcess  # noqa: E402

ASIDS = 64
MAPPINGS = 16


def processor_seconds(pid):
    """What a process has used."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def measure(spaces, processes):
    """One line of figures."""
    with Daemon("--limits.max-spaces", str(spaces), keeps=True) as daemon, \
            Client(daemon.target) as client:
        client.wait_ready()
        owners = [OwnerProcess(client) for _ in range(processes)]
        for number in range(spaces):
            name, device = f"vm{number}", f"sim{number // ASIDS}"
            if number % ASIDS == 0:
                client.OpenDevice(device=device, simulated=dict(as_num=ASIDS))
            client.CreateSpace(space=name, lifetime=OWNER_PROCESS, grace={},
                               owner_handle=owners[number % processes].handle(),
                               attachments=[dict(device=device, asid=number % ASIDS)])
            client.update(name, *(spec(HVA + n * PAGE, PAGE, gpa=n * PAGE)
                                  for n in range(MAPPINGS)))
        begin, used = time.monotonic(), processor_seconds(daemon.process.pid)
        for owner in owners:
            owner.kill()
        while client.ListSpaces(page_size=1).spaces:
            time.sleep(0.005)
        took = time.monotonic() - begin
        used = processor_seconds(daemon.process.pid) - used
        for owner in owners:
            owner.bury()
    print(f"{spaces} spaces of {processes} processes: gone after {took:.2f} s, "
          f"of which iovad used {used:.2f} s of a processor", flush=True)


if __name__ == "__main__":
    COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    measure(COUNT, 1)
    measure(COUNT, 64)
