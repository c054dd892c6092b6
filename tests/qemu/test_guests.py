"""What the firmware of real machines maps, the space has."""

import pytest

from daemon import wait_until
from harness import READ
from stubs import types_pb2 as types
from vm import MIB, Vm, exists, has_kvm, needs_qemu, wait_until_followed

pytestmark = needs_qemu


def is_booted(firmware):
    """Whether a guest's memory is that of one whose firmware is done setting it up."""
    # The BIOS locks its own memory last. OVMF shows its flash for reading by then, and has
    # given the display an address.
    if firmware == "seabios":
        return lambda memory: any(0xc0000 < gpa < 0x100000 and access == READ
                                  for gpa, (_, _, access) in memory.items())
    return lambda memory: (0xffc00000 in memory and
                           any(size == 16 * MIB for size, _, _ in memory.values()))


@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize("firmware", ["seabios", "ovmf"])
def test_the_space_is_the_flat_view(server, client, machine, firmware):
    with Vm(server.socket_path, "-vga", "std", machine=machine, firmware=firmware) as vm:
        memory = wait_until_followed(vm, client, having=is_booted(firmware), seconds=120)
        # Low memory, what is above the first megabyte, and the firmware's ROM.
        assert {0, 0x100000} <= set(memory) and max(memory) > 0xff000000, memory
        space = client.space("vm")
        assert space.lifetime == types.LIFETIME_OWNER_PROCESS
        assert space.owner_process.pid == vm.process.pid
        assert space.labels["iovad.qemu/pid"] == str(vm.process.pid)
        assert not vm.plugin_said()

        # Registered is what others can have.
        listed = client.ListMemory(space="vm").memory
        assert [(m.label, m.size, m.offset) for m in listed] == [("ram0", 128 * MIB, 0)]
        assert listed[0].state == types.MEMORY_STATE_READY
        assert listed[0].hva == memory[0][1]
        assert {m.memory_id for m in client.mappings("vm") if m.label == "ram0"} == {
            listed[0].memory_id}
        # A reset: the firmware does it all again. OVMF takes its time.
        if firmware == "ovmf":
            return
        vm.qmp("system_reset")
        vm.qmp.wait_for("RESET")
        wait_until_followed(vm, client, having=is_booted(firmware), seconds=120)


# The plugin looks at no instruction: it does not matter who executes them.
@pytest.mark.parametrize("accel", ["tcg", "kvm"] if has_kvm() else ["tcg"])
def test_the_first_change_has_all(server, client, accel):
    """The guest does not run yet, and so nothing changes."""
    with Vm(server.socket_path, "-S", accel=accel) as vm:
        memory = wait_until_followed(vm, client)
        assert client.space("vm").revision == 2
        first = next(iter(client.Watch(space="vm", start_revision=2, timeout=10)))
        assert {event.mapped.gpa for event in first.events} == set(memory)


def test_in_a_sandbox(server, client):
    """Nothing that libvirt's QEMUs are forbidden: they would be killed."""
    with Vm(server.socket_path, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,"
            "spawn=deny,resourcecontrol=deny") as vm:
        wait_until_followed(vm, client)
        vm.quit()
        assert not exists(client)


def test_private_memory_can_be_left_out(server, client):
    """So that devices of other processes can be attached. And a QEMU may have two plugins."""
    plugins = [{"space": "vm"}, {"space": "shared", "private": "omit"}]
    with Vm(server.socket_path, "-vga", "std", "-S", plugins=plugins) as vm:
        memory = wait_until_followed(vm, client)
        wait_until(lambda: exists(client, "shared") and client.mappings("shared"),
                   "the other space is made")
        shared = client.mappings("shared")
        assert {m.label for m in shared} == {"ram0"} and all(m.memory_id for m in shared)
        assert {m.gpa for m in shared} < set(memory)
        # ROMs are nobody else's.
        assert not all(m.memory_id for m in client.mappings("vm"))
