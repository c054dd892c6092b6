"""Opening devices of the kernel's, as far as it goes without one: what is refused, in what
order, and that nothing is left behind. With real devices: tests/kernel."""

import concurrent.futures
import os

import pytest

from conftest import fresh_name
from fd_socket import DEVICE, EVENTFD, MEMORY, WITHDRAW, FdSocket, open_files
from harness import refused

NOTHING = "0" * 32


@pytest.fixture(scope="module")
def fds(client):
    """A connection to the fd socket."""
    with FdSocket(client.GetServerInfo().fd_socket) as connected:
        # Answered once, the server has all that it opens for a connection.
        assert not is_there(connected, NOTHING)
        yield connected


@pytest.fixture
def deposit(fds):
    """A handle for what a path leads to."""

    def make(path="/dev/null", kind=DEVICE, flags=os.O_RDWR):
        fd = os.open(path, flags)
        try:
            return fds.deposit(fd, kind)
        finally:
            os.close(fd)

    return make


def is_there(fds, handle):
    """Whether a handle can still be used. It cannot afterwards."""
    answer = fds.call(WITHDRAW, handle=handle)
    for fd in answer.fds:
        os.close(fd)
    return answer.reason is None


@pytest.mark.parametrize("reason, path", [
    ("MISSING_FIELD", ""),
    ("INVALID_VALUE", "dev/vhost-vdpa-0"),
    ("INVALID_VALUE", "/dev/null\0"),
    ("INVALID_VALUE", "/" + 5000 * "x"),
    ("DEVICE_NOT_FOUND", "/dev/no-such-device"),
    ("DEVICE_NOT_FOUND", "/dev/null/device"),
    ("INVALID_VALUE", "/dev/null"),
    ("INVALID_VALUE", "/dev/zero"),
    ("INVALID_VALUE", "/etc/passwd"),
    ("INVALID_VALUE", "/tmp"),
    ("INVALID_VALUE", "/proc/self/fd/0"),
])
def test_a_path_that_is_no_device(server, client, reason, path):
    before = open_files(server.process.pid)
    name = fresh_name("refused")
    refusal = refused(reason, client.OpenDevice, device=name, path=path)
    assert name in refusal.message
    assert reason != "DEVICE_NOT_FOUND" or refusal.detail.os_errno
    refused("DEVICE_NOT_FOUND", client.GetDevice, device=name)
    assert open_files(server.process.pid) == before


def test_the_servers_own_socket_is_no_device(server, client):
    refused("INVALID_VALUE", client.OpenDevice, device=fresh_name("s"), path=server.socket_path)


def test_a_handle_of_something_else_is_used_up_and_closed(server, client, fds, deposit):
    before = open_files(server.process.pid)
    handle = deposit("/dev/null")
    name = fresh_name("refused")
    assert name in refused("INVALID_VALUE", client.OpenDevice, device=name,
                           fd_handle=handle).message
    refused("HANDLE_NOT_FOUND", client.OpenDevice, device=name, fd_handle=handle)
    assert not is_there(fds, handle)
    assert open_files(server.process.pid) == before


@pytest.mark.parametrize("reason, handle", [
    ("MISSING_FIELD", ""), ("HANDLE_NOT_FOUND", NOTHING), ("HANDLE_NOT_FOUND", "x"),
    ("HANDLE_NOT_FOUND", 4096 * "0")])
def test_a_handle_that_is_none(client, reason, handle):
    refused(reason, client.OpenDevice, device=fresh_name("refused"), fd_handle=handle)


def test_a_handle_of_another_kind_stays(client, fds, deposit):
    memory = deposit("/etc/passwd", MEMORY, os.O_RDONLY)
    refused("HANDLE_NOT_FOUND", client.OpenDevice, device=fresh_name("refused"), fd_handle=memory)
    assert is_there(fds, memory)


def test_a_handle_is_taken_after_all_other_checks(client, fds, deposit, device):
    handle = deposit()
    refused("NAME_TAKEN", client.OpenDevice, device=device, fd_handle=handle)
    refused("INVALID_NAME", client.OpenDevice, device="No Name", fd_handle=handle)
    refused("INVALID_VALUE", client.OpenDevice, device=fresh_name("id"), fd_handle=handle,
            request_id="x" * 65)
    assert is_there(fds, handle)


def test_a_name_is_checked_before_the_path(client, device):
    refused("NAME_TAKEN", client.OpenDevice, device=device, path="/dev/null")
    refused("INVALID_NAME", client.OpenDevice, device="", path="/dev/null")


def test_a_failure_is_not_remembered(client):
    name = fresh_name("later")
    refused("DEVICE_NOT_FOUND", client.OpenDevice, device=name, path="/dev/none", request_id="a")
    assert client.OpenDevice(device=name, simulated={}, request_id="a").device.name == name


def test_many_at_once(server, client):
    before = open_files(server.process.pid)
    names = [fresh_name("many") for _ in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(refused, "INVALID_VALUE", client.OpenDevice, device=name,
                               path="/dev/null") for name in names]
        assert all(future.result() for future in futures)
    assert open_files(server.process.pid) == before


def test_a_device_without_queues_takes_no_handles(client, fds, device):
    event = os.eventfd(0)
    kick = fds.deposit(event, EVENTFD)
    os.close(event)
    refused("NO_DEVICE_CAPABILITY", client.StartDevice, device=device,
            vrings=[dict(index=0, size=1, kick_handle=kick)])
    refused("DEVICE_NOT_FOUND", client.StartDevice, device=fresh_name("none"),
            vrings=[dict(index=0, size=1, kick_handle=kick)])
    assert is_there(fds, kick)
