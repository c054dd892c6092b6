"""Memory that comes and goes while the guest runs is followed within a second."""

import statistics
import time

import pytest

from daemon import scaled, wait_until
from vm import EJECTOR, MIB, Vm, needs_qemu, wait_until_followed

pytestmark = needs_qemu

DIMM = 0x100000000


def plug(vm, number, size=64):
    """A DIMM in slot 0."""
    vm.qmp("object-add", qom_type="memory-backend-memfd", id=f"dimm{number}", size=size * MIB,
           share=True)
    vm.qmp("device_add", driver="pc-dimm", id="d0", memdev=f"dimm{number}", slot=0)


def unplug(vm, number):
    """Asks the guest for it, which ejects it."""
    vm.qmp("device_del", id="d0")
    wait_until_gone(vm, "d0")
    vm.qmp("object-del", id=f"dimm{number}")


def wait_until_gone(vm, device):
    """Not until DEVICE_DELETED: QEMU 7.2 does not always tell."""
    wait_until(lambda: device not in [entry["name"] for entry in
                                      vm.qmp("qom-list", path="/machine/peripheral")],
               "QEMU removes the device")


class Stopwatch:
    """Waits until changes are followed, and knows how long that took."""

    def __init__(self, vm, client):
        self._vm, self._client = vm, client
        self.seconds = []

    def follow(self, having):
        start = time.monotonic()
        memory = wait_until_followed(self._vm, self._client, having=having)
        self.seconds.append(time.monotonic() - start)
        return memory


def registered(client):
    return {m.label: m.memory_id for m in client.ListMemory(space="vm").memory}


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_dimms(server, client, machine):
    with Vm(server.socket_path, machine=machine, slots=True, boot=EJECTOR) as vm:
        watch = Stopwatch(vm, client)
        plug(vm, 0)
        watch.follow(lambda memory: DIMM in memory)
        # The guest has to be up for this.
        unplug(vm, 0)
        watch.follow(lambda memory: DIMM not in memory)
        assert set(registered(client)) == {"ram0"}
        plug(vm, 1)
        memory = watch.follow(lambda memory: DIMM in memory)
        assert memory[DIMM][0] == 64 * MIB
        assert set(registered(client)) == {"ram0", "dimm1"}
        # Another one of the same size in the same place, sooner than is looked.
        unplug(vm, 1)
        plug(vm, 2)
        wait_until_followed(vm, client, having=lambda memory: set(registered(client)) ==
                            {"ram0", "dimm2"})
        (mapping,) = [m for m in client.mappings("vm") if m.gpa == DIMM]
        assert mapping.memory_id == registered(client)["dimm2"]
        # Within a second, on a machine that has other things to do now and then.
        assert statistics.median(watch.seconds) < scaled(1), watch.seconds
        assert not vm.plugin_said()


def test_a_device_with_memory(server, client):
    """A PCI device whose BAR is memory; it is removed when the machine is reset."""
    with Vm(server.socket_path, "-device", "ivshmem-plain,memdev=shm0,id=iv0", "-object",
            "memory-backend-memfd,id=shm0,size=4M,share=on", machine="pc") as vm:
        def has_bar(memory):
            return any(size == 4 * MIB for size, _, _ in memory.values())

        wait_until_followed(vm, client, having=has_bar)
        assert set(registered(client)) == {"ram0", "shm0"}
        vm.qmp("device_del", id="iv0")
        vm.qmp("system_reset")
        wait_until_gone(vm, "iv0")
        wait_until_followed(vm, client, having=lambda memory: not has_bar(memory))
        assert set(registered(client)) == {"ram0"}


def test_private_memory_is_told_of(server, client):
    """The guest has it, and the space too; devices of others cannot."""
    with Vm(server.socket_path, slots=True) as vm:
        wait_until_followed(vm, client)
        vm.qmp("object-add", qom_type="memory-backend-ram", id="dimm0", size=64 * MIB)
        vm.qmp("device_add", driver="pc-dimm", id="d0", memdev="dimm0")
        wait_until_followed(vm, client, having=lambda memory: DIMM in memory)
        assert set(registered(client)) == {"ram0"}
        (line,) = vm.plugin_said()
        assert "'dimm0' is private" in line, line


def test_memory_without_a_descriptor_is_told_of(server, client):
    """Shared, but of no file that QEMU has open."""
    with Vm(server.socket_path, slots=True) as vm:
        wait_until_followed(vm, client)
        vm.qmp("object-add", qom_type="memory-backend-ram", id="dimm0", size=64 * MIB, share=True)
        vm.qmp("device_add", driver="pc-dimm", id="d0", memdev="dimm0")
        wait_until_followed(vm, client, having=lambda memory: DIMM in memory)
        assert set(registered(client)) == {"ram0"}
        (line,) = vm.plugin_said()
        assert "no descriptor" in line and "'dimm0'" in line, line
