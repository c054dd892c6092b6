"""What QEMU is not to start with, and what it does without the plugin's work."""

import socket
import subprocess

import pytest

from daemon import wait_until
from vm import PLUGIN, Vm, exists, needs_qemu, wait_until_followed

pytestmark = needs_qemu


@pytest.mark.parametrize("arguments, text", [
    ({"space": "VM"}, "space=VM: has to be"),
    ({}, "space= is missing"),
    ({"space": "vm", "sapce": "vm"}, "sapce=vm: is not known"),
    ({"space": "vm", "socket": "192.0.2.1:7000"}, "loopback"),
    ({"space": "vm", "private": "no"}, "is map or omit"),
    ({"space": "vm", "qmp": "/nowhere/qmp"}, "give QEMU a monitor for the plugin"),
    ({"space": "vm", "relay": "/nowhere"}, "relay=/nowhere: "),
    ({"space": "vm", "relay": "/dev/null"}, "relay=/dev/null: "),
])
def test_bad_arguments(server, arguments, text):
    vm = Vm(server.socket_path, plugins=[arguments])
    assert vm.run() == 1
    (line,) = vm.plugin_said()
    assert text in line, line


def test_anothers_monitor(server, client):
    """Its guest's memory is not this QEMU's."""
    with Vm(server.socket_path, plugins=[]) as other:
        vm = Vm(server.socket_path, plugins=[{"space": "vm", "qmp": other.path("test.qmp")}])
        assert vm.run() == 1
        (line,) = vm.plugin_said()
        assert f"served by process {other.process.pid}" in line, line
        assert other.qmp("query-status")["running"]
    assert not exists(client)


def test_private_memory(server, client):
    """QEMU runs on, and there is no space."""
    with Vm(server.socket_path, share=False) as vm:
        wait_until(vm.plugin_said, "the plugin says why")
        (line,) = vm.plugin_said()
        assert "'pc.ram' is private to QEMU" in line and "share=on" in line, line
        assert vm.qmp("query-status")["running"]

        def has_ended():
            tasks = subprocess.run(f"cat /proc/{vm.process.pid}/task/*/comm", shell=True,
                                   capture_output=True, text=True, check=False).stdout
            return "iovad-plugin" not in tasks

        wait_until(has_ended, "the plugin's thread has ended")
    assert not exists(client)


def test_a_monitor_that_another_program_has(server, client):
    """QEMU serves one client a monitor, and lets others wait."""
    vm = Vm(server.socket_path)
    vm.command = [word.replace("plugin0.qmp,server=on,wait=off", "plugin0.qmp,server=on,wait=on")
                  for word in vm.command]
    with socket.socket(socket.AF_UNIX) as first:
        # QEMU waits for a client here, before it loads the plugin.
        vm.begin()
        vm.connect(first, "plugin0.qmp")
        with vm:
            (line,) = wait_until(vm.plugin_said, "the plugin says so", 60)
            assert "has to be the plugin's alone" in line, line
            assert not exists(client)
            # And when that client goes, it is the plugin's turn.
            first.close()
            wait_until_followed(vm, client)


def test_nothing_else_is_exported():
    """What is inside cannot meet what QEMU's libraries have."""
    symbols = subprocess.run(["nm", "-D", "--defined-only", PLUGIN], capture_output=True,
                             text=True, check=True).stdout.split()[2::3]
    assert sorted(symbols) == ["qemu_plugin_install", "qemu_plugin_version"]
