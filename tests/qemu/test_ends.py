"""When QEMU ends, the space does; and QEMU ends as ever."""

import signal
import subprocess
import time

import pytest

from daemon import scaled, wait_until
from vm import Vm, exists, needs_qemu, wait_until_followed

pytestmark = needs_qemu


def test_quit(server, client):
    """At once, and again and again: nothing that ends with the process may hang or crash."""
    for _ in range(10):
        with Vm(server.socket_path, "-S") as vm:
            wait_until_followed(vm, client)
            start = time.monotonic()
            vm.quit()
            assert time.monotonic() - start < scaled(5)
            assert not exists(client)
            assert not vm.plugin_said()


def test_quit_at_once(server, client):
    """Wherever the plugin is with its work."""
    for _ in range(10):
        with Vm(server.socket_path, "-S") as vm:
            vm.quit()
        wait_until(lambda: not exists(client), "the space is gone")


def test_sigterm(server, client):
    with Vm(server.socket_path) as vm:
        wait_until_followed(vm, client)
        vm.process.send_signal(signal.SIGTERM)
        assert vm.process.wait(scaled(30)) == 0
        assert not exists(client)


def test_killed(server, client):
    """iovad notices, and removes the space when the grace time (of a second) is over."""
    with Vm(server.socket_path) as vm:
        wait_until_followed(vm, client)
        vm.kill()
        wait_until(lambda: not exists(client), "the space is gone")


def test_quit_while_iovad_hangs(server, client):
    """Calls have their time limits, and so has QEMU's end."""
    with Vm(server.socket_path) as vm:
        wait_until_followed(vm, client)
        server.process.send_signal(signal.SIGSTOP)
        try:
            start = time.monotonic()
            vm.quit()
            assert time.monotonic() - start < scaled(15)
        finally:
            server.process.send_signal(signal.SIGCONT)
    wait_until(lambda: not exists(client), "the space is gone")


def test_a_daemon(server, client):
    """QEMU forks before it loads plugins."""
    vm = Vm(server.socket_path, "-daemonize")
    vm.command += ["-pidfile", vm.path("pid")]
    run = subprocess.run(vm.command, timeout=scaled(60), check=False)
    assert run.returncode == 0
    with open(vm.path("pid"), encoding="utf-8") as file:
        pid = int(file.read())
    wait_until(lambda: exists(client) and client.mappings("vm"), "the space is made")
    assert client.space("vm").owner_process.pid == pid
    subprocess.run(["kill", str(pid)], check=True)
    wait_until(lambda: not exists(client), "the space is gone")


def test_signals_are_qemus(server, client):
    """The plugin's threads block them all but those that a thread causes itself."""
    with Vm(server.socket_path) as vm:
        wait_until_followed(vm, client)
        masks = {}
        folder = f"/proc/{vm.process.pid}/task"
        listing = subprocess.run(["ls", folder], capture_output=True, text=True, check=True)
        for task in listing.stdout.split():
            with open(f"{folder}/{task}/status", encoding="utf-8") as file:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
            masks.setdefault(status["Name"], set()).add(int(status["SigBlk"], 16))
        ours = {name: masks[name] for name in masks
                if name in ("iovad-plugin", "default-executo", "resolver-execut", "grpc_global_tim")
                or name.startswith(("grpc", "event_engine"))}
        assert "iovad-plugin" in ours and len(ours) > 1, masks
        for name, values in ours.items():
            for mask in values:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGIO,
                               signal.SIGCHLD, signal.SIGALRM, signal.SIGPIPE):
                    assert mask >> (number - 1) & 1, f"{name} takes {number}"
