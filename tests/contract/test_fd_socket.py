"""Descriptors in and out: the protocol of server/fd_socket.md over the real socket."""

import os
import socket
import stat
import subprocess
import sys

import pytest

from daemon import Daemon, run_iovad, wait_until
from fd_socket import (ATTEST, DEPOSIT, DEVICE, EVENTFD, MEMORY, WITHDRAW, FdSocket, open_files,
                       request)
from harness import Client

NOTHING = "0" * 32


@pytest.fixture(scope="module")
def path(client):
    """Where the server says that its fd socket is."""
    return client.GetServerInfo().fd_socket


def path_of(daemon):
    """The same of another server. It is there once that one serves."""
    with Client(daemon.target) as client:
        return client.wait_ready().GetServerInfo().fd_socket


@pytest.fixture
def fds(path):
    """A connection to the fd socket."""
    with FdSocket(path) as connected:
        yield connected


@pytest.fixture
def memfd():
    """Memory with the word "memory" in it."""
    fd = os.memfd_create("test")
    os.write(fd, b"memory")
    yield fd
    os.close(fd)


def test_it_is_beside_the_other_socket(server, path):
    assert path == os.path.join(server.folder, "iovad.fd.sock")
    assert os.stat(path).st_mode == os.stat(server.socket_path).st_mode
    assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_what_was_deposited_can_be_withdrawn_once(fds, memfd):
    handle = fds.deposit(memfd, name="Gäste-RAM")
    assert len(handle) == 32 and int(handle, 16) >= 0
    answer = fds.call(WITHDRAW, handle=handle)
    assert (answer.reason, answer.kind, answer.name) == (None, MEMORY, "Gäste-RAM")
    [fd] = answer.fds
    assert os.fstat(fd).st_ino == os.fstat(memfd).st_ino
    assert os.pread(fd, 100, 0) == b"memory"
    os.close(fd)
    assert fds.call(WITHDRAW, handle=handle).reason == "HANDLE_NOT_FOUND"


def test_a_handle_is_not_bound_to_its_connection(fds, path, memfd):
    handle = fds.deposit(memfd)
    fds.close()
    with FdSocket(path) as other:
        os.close(other.withdraw(handle))


def test_every_kind_that_fits(fds, memfd, tmp_path):
    with open(tmp_path / "file", "w+b") as file, open("/dev/null", "r+b") as device:
        event = os.eventfd(0)
        for kind, fd in ((MEMORY, memfd), (MEMORY, file.fileno()), (DEVICE, device.fileno()),
                         (EVENTFD, event)):
            os.close(fds.withdraw(fds.deposit(fd, kind)))
        os.close(event)


def test_attest_names_the_process_that_connected(fds, path):
    answer = fds.call(ATTEST)
    assert (answer.reason, answer.pid, answer.uid) == (None, os.getpid(), os.getuid())
    # It stands for no descriptor.
    assert fds.call(WITHDRAW, handle=answer.handle).reason == "HANDLE_NOT_FOUND"
    # Not the one that happens to ask.
    script = ("import os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
              f"s.connect({path!r}); os.fork() and os.wait();"
              f"s.send({request(ATTEST)!r}); print(os.getpid(), int.from_bytes(s.recv(4096)"
              "[12:16], 'little'), flush=True)")
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                         check=True)
    [child, parent] = [line.split() for line in run.stdout.splitlines()]
    assert child[0] != parent[0]
    assert child[1] == parent[1] == parent[0]


def refused_cases():
    """Name, message, how many memfds with it, reason."""
    deposit = request(DEPOSIT, kind=MEMORY)

    def changed(offset, byte):
        return deposit[:offset] + bytes([byte]) + deposit[offset + 1:]

    return [
        ("no descriptor", deposit, 0, "MISSING_FIELD"),
        ("two descriptors", deposit, 2, "INVALID_VALUE"),
        ("a cut list of descriptors", deposit, 100, "INVALID_VALUE"),
        ("wrong kind", request(DEPOSIT, kind=EVENTFD), 1, "INVALID_VALUE"),
        ("wrong kind, too", request(DEPOSIT, kind=DEVICE), 1, "INVALID_VALUE"),
        ("no kind", request(DEPOSIT), 1, "INVALID_VALUE"),
        ("unknown kind", request(DEPOSIT, kind=4), 1, "INVALID_VALUE"),
        ("short", deposit[:-1], 1, "INVALID_VALUE"),
        ("one byte", b"I", 1, "INVALID_VALUE"),
        ("long", deposit + b"\0", 1, "INVALID_VALUE"),
        ("very long", deposit + bytes(60000), 1, "INVALID_VALUE"),
        ("garbage", os.urandom(104), 1, "INVALID_VALUE"),
        ("http", b"GET / HTTP/1.1\r\n\r\n", 0, "INVALID_VALUE"),
        ("another version", changed(4, 2), 1, "INVALID_VALUE"),
        ("no operation", changed(5, 0), 1, "INVALID_VALUE"),
        ("unknown operation", changed(5, 9), 1, "INVALID_VALUE"),
        ("byte 7", changed(7, 1), 1, "INVALID_VALUE"),
        ("a handle to deposit", request(DEPOSIT, kind=MEMORY, handle=NOTHING), 1, "INVALID_VALUE"),
        ("a name that is no UTF-8", changed(40, 0xFF), 1, "INVALID_LABEL"),
        ("a name with control characters", changed(40, 7), 1, "INVALID_LABEL"),
        ("a name with a hole", changed(50, 65), 1, "INVALID_VALUE"),
        ("withdraw nothing", request(WITHDRAW), 0, "MISSING_FIELD"),
        ("withdraw what never was", request(WITHDRAW, handle=NOTHING), 0, "HANDLE_NOT_FOUND"),
        ("withdraw no handle", request(WITHDRAW, handle="../" * 10), 0, "INVALID_VALUE"),
        ("withdraw and bring", request(WITHDRAW, handle=NOTHING), 1, "INVALID_VALUE"),
        ("attest and bring", request(ATTEST), 1, "INVALID_VALUE"),
        ("attest a kind", request(ATTEST, kind=MEMORY), 0, "INVALID_VALUE"),
    ]


@pytest.mark.parametrize("message,count,reason", [case[1:] for case in refused_cases()],
                         ids=[case[0] for case in refused_cases()])
def test_refusals_leave_nothing_behind(server, fds, memfd, message, count, reason):
    fds.call(WITHDRAW, handle=NOTHING)  # the server has the connection now
    before = open_files(server.process.pid)
    fds.send(message, *[memfd] * count)
    answer = fds.receive()
    assert answer.reason == reason
    assert answer.text and not answer.handle and not answer.fds
    assert open_files(server.process.pid) == before
    # The connection goes on.
    os.close(fds.withdraw(fds.deposit(memfd)))


def test_descriptors_of_the_wrong_kind(server, fds):
    reading, writing = os.pipe()
    here, there = socket.socketpair()
    folder = os.open("/tmp", os.O_RDONLY)
    unreadable = os.open("/dev/null", os.O_PATH)
    fds.call(WITHDRAW, handle=NOTHING)
    before = open_files(server.process.pid)
    for fd in (reading, writing, here.fileno(), folder, unreadable, fds.socket.fileno()):
        assert fds.call(DEPOSIT, fd, kind=MEMORY).reason == "MEMORY_UNSUITABLE"
        assert fds.call(DEPOSIT, fd, kind=DEVICE).reason == "INVALID_VALUE"
        assert fds.call(DEPOSIT, fd, kind=EVENTFD).reason == "INVALID_VALUE"
    assert open_files(server.process.pid) == before
    for fd in (reading, writing, folder, unreadable):
        os.close(fd)
    here.close()
    there.close()


def test_an_empty_message_ends_the_connection(fds):
    fds.send(b"")
    assert fds.receive() is None


def test_clients_that_vanish_leave_nothing(server, path, memfd):
    before = open_files(server.process.pid)
    for _ in range(50):
        vanishing = FdSocket(path)
        vanishing.send(request(DEPOSIT, kind=EVENTFD), memfd)
        vanishing.close()
    wait_until(lambda: open_files(server.process.pid) == before, "all is closed again")


def test_a_client_that_never_reads_is_dropped(path, memfd):
    with FdSocket(path) as deaf, FdSocket(path) as other:
        with pytest.raises(OSError) as end:
            while True:
                deaf.send(request(WITHDRAW, handle=NOTHING))
        assert not isinstance(end.value, TimeoutError)
        os.close(other.withdraw(other.deposit(memfd)))


def test_handles_expire(memfd):
    with Daemon("--limits.fd-handle-ttl", "1") as daemon:
        with FdSocket(path_of(daemon)) as fds:
            handle = fds.deposit(memfd)

            def is_held():
                return any("memfd:test" in link for link in open_files(daemon.process.pid))

            assert is_held()
            # Closed by itself, with nobody asking.
            wait_until(lambda: not is_held(), "the memfd is closed")
            assert fds.call(WITHDRAW, handle=handle).reason == "HANDLE_NOT_FOUND"


def test_limits(memfd):
    with Daemon("--limits.max-fd-handles-per-user", "3", "--limits.max-fd-connections-per-user",
                "2") as daemon:
        path = path_of(daemon)
        with FdSocket(path) as fds:
            handles = [fds.deposit(memfd) for _ in range(3)]
            assert fds.call(DEPOSIT, memfd, kind=MEMORY).reason == "OVERLOADED"
            assert fds.call(ATTEST).reason == "OVERLOADED"
            os.close(fds.withdraw(handles[0]))
            assert fds.call(ATTEST).reason is None

            with FdSocket(path) as second, FdSocket(path) as third:
                answer = third.receive()
                assert (answer.operation, answer.reason) == (0, "OVERLOADED")
                assert third.receive() is None
                os.close(second.withdraw(handles[1]))


def test_the_socket_can_be_elsewhere_and_goes_away(tmp_path, memfd):
    path = str(tmp_path / "fds")
    with Daemon("--fd-socket", path) as daemon:
        assert path_of(daemon) == path
        with FdSocket(path) as fds:
            fds.deposit(memfd)
            daemon.terminate()
            assert daemon.wait() == 0
            assert fds.receive() is None
        assert os.listdir(tmp_path) == []
        assert os.listdir(daemon.folder) == ["stderr.log"]


def test_a_killed_server_leaves_the_path_to_the_next(memfd):
    with Daemon() as daemon:
        path = path_of(daemon)
        daemon.kill()
        assert os.path.exists(path)
        daemon.start()
        assert path_of(daemon) == path
        with FdSocket(path) as fds:
            os.close(fds.withdraw(fds.deposit(memfd)))


def test_two_servers_do_not_share_it(server, path, tmp_path):
    # Not started as a server is: its own socket accepts for a moment.
    second = run_iovad("--socket", str(tmp_path / "s"), "--fd-socket", path, "--ephemeral")
    assert second.returncode == 1
    assert "--fd-socket" in second.stderr and path in second.stderr
    assert server.process.poll() is None
