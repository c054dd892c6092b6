"""What comes back from systemd's file descriptor store after a restart: memory that came as
a descriptor, and that of the server's own."""

import fcntl
import os

import pytest

from daemon import Daemon
from fd_socket import FdSocket, open_files
from harness import HVA, MIB, PAGE, Client, refused
from relay_peer import REGISTERED, RelayPeer
from restarting import folder  # noqa: F401 pylint: disable=unused-import
from service_manager import (Kept, ManagedServer, ServiceManager, manager,  # noqa: F401
                             server)
from stubs import types_pb2 as types

READY, MISSING = types.MEMORY_STATE_READY, types.MEMORY_STATE_MISSING
SHRINK = 0x0002  # F_SEAL_SHRINK: linux/fcntl.h
QUEUES = [dict(queue_index=n, queue_size=64) for n in range(2)]


def make_file(size=MIB, seals=SHRINK):
    """A memfd that nobody else has."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def register(client, hva=HVA, space="vm", fd=None, size=MIB, label=""):
    """Registers memory by descriptor; what it is."""
    mine = make_file(size) if fd is None else fd
    with FdSocket(client.GetServerInfo().fd_socket) as fds:
        handle = fds.deposit(mine)
    memory = client.RegisterMemory(space=space, hva=hva, size=size, fd_handle=handle,
                                   label=label).memory
    if fd is None:
        os.close(mine)
    return memory


def file_of(client, memory_id, space="vm"):
    """Which file a memory is, as (device, inode)."""
    handle = client.GetMemoryHandle(space=space, memory_id=memory_id).fd_handle
    with FdSocket(client.GetServerInfo().fd_socket) as fds:
        fd = fds.withdraw(handle)
    status = os.fstat(fd)
    os.close(fd)
    return status.st_dev, status.st_ino


def states(client, space="vm"):
    """The state of each memory of a space, by HVA."""
    return [m.state for m in client.ListMemory(space=space).memory]


@pytest.fixture
def client(server):  # noqa: F811
    """A client, and a space 'vm'."""
    server.client.CreateSpace(space="vm")
    return server.client


# ---- Memory

def test_memory_that_came_as_a_descriptor_is_there_again(server, client):  # noqa: F811
    memory = register(client, label="ram")
    mapping = client.map("vm", HVA, MIB, gpa=0)
    before = file_of(client, memory.memory_id)
    for _ in range(2):
        client = server.restart()
        again = client.ListMemory(space="vm").memory[0]
        assert (again.memory_id, again.state, again.label) == (memory.memory_id, READY, "ram")
        assert client.mappings("vm") == [mapping]
        assert file_of(client, memory.memory_id) == before


def test_after_an_orderly_end_as_well(server, client):  # noqa: F811
    register(client)
    client.AllocSVQ(space="vm", queues=QUEUES)
    server.stop()
    client = server.start()
    assert states(client) == [READY, READY]


def test_a_relay_gets_the_same_memory(server, client):  # noqa: F811
    memory = register(client)
    client.map("vm", HVA + PAGE, PAGE, gpa=0)
    before = file_of(client, memory.memory_id)
    client = server.restart()
    with RelayPeer(client, space="vm", device="net0", uaddr_mode=REGISTERED) as peer:
        peer.attach()
        with FdSocket(client.GetServerInfo().fd_socket) as fds:
            fd = fds.withdraw(peer.memories[memory.memory_id].fd_handle)
        status = os.fstat(fd)
        os.close(fd)
        assert (status.st_dev, status.st_ino) == before
        entries = [(e.memory_id, e.offset) for e in peer.table.values()]
        assert entries == [(memory.memory_id, PAGE)]


def test_memory_that_the_server_made_is_there_again(server, client, manager):  # noqa: F811
    svq = client.AllocSVQ(space="vm", queues=QUEUES).svqs[0]
    before = file_of(client, svq.memory_id)
    client = server.restart()
    assert client.ListSVQs(space="vm").svqs[0] == svq
    assert states(client) == [READY]
    assert file_of(client, svq.memory_id) == before
    # A new one has memory of its own, and the old one's goes with its queues.
    other = client.AllocSVQ(space="vm", queues=QUEUES).svqs[0]
    assert file_of(client, other.memory_id) != before
    client.FreeSVQ(space="vm", svq_ids=[s.svq_id for s in client.ListSVQs(space="vm").svqs
                                        if s.memory_id == svq.memory_id])
    client.map("vm", HVA, PAGE, gpa=0)
    manager.wait_names("memory-")
    assert states(server.restart()) == [READY]


def test_what_is_unregistered_leaves_the_store(server, client, manager):  # noqa: F811
    client.CreateSpace(space="other")
    shared = make_file()
    first = register(client, fd=shared)
    second = register(client, HVA + MIB, fd=shared)
    elsewhere = register(client, space="other", fd=shared)
    register(client, HVA + 2 * MIB)
    os.close(shared)
    manager.wait_names("memory-", "memory-")
    for memory in (first, second):
        client.UnregisterMemory(space="vm", memory_id=memory.memory_id)
    assert len(manager.names()) == 2
    client = server.restart()
    assert states(client) == [READY] and states(client, "other") == [READY]
    client.UnregisterMemory(space="other", memory_id=elsewhere.memory_id)
    manager.wait_names("memory-")
    client.DeleteSpace(space="vm")
    manager.wait_names()
    assert not server.restart().ListMemory(space="other").memory


def test_reading_and_writing_are_told_apart(server, client, manager, tmp_path):  # noqa: F811
    path = tmp_path / "ram"
    path.write_bytes(b"")
    os.truncate(path, MIB)
    read_only = os.open(path, os.O_RDONLY)
    memory = register(client, fd=read_only)
    manager.wait_names("memory-")
    client = server.restart()
    assert states(client) == [READY] and manager.names()[0].endswith("-ro")
    assert file_of(client, memory.memory_id) == (os.stat(path).st_dev, os.stat(path).st_ino)
    client.OpenDevice(device="sim", simulated={})
    both = os.open(path, os.O_RDWR)
    register(client, HVA + MIB, fd=both)
    os.close(read_only)
    os.close(both)
    manager.wait_names("memory-", "memory-")
    assert states(server.restart()) == [READY, READY]


def test_nothing_is_open_twice(server, client):  # noqa: F811
    """A descriptor that came back is used, not copied."""
    register(client)
    client = server.restart()

    def memfds():
        return [f for f in open_files(server.daemon.process.pid) if f.startswith("/memfd:guest")]

    assert len(memfds()) == 1
    client.UnregisterMemory(space="vm", memory_id=1)
    assert not memfds()


# ---- What a service manager may do wrong

def missing_and_dropped(server, manager, *hints, left=0):  # noqa: F811
    """Restarts; memory is missing, named with each of the hints, and out of the store."""
    client = server.restart()
    assert MISSING in states(client)
    log = server.daemon.log()
    assert "memory 1 is MISSING" in log, log
    for hint in hints:
        assert hint in log, log
    manager.wait_names(*["memory-"] * left)
    memory = client.ListMemory(space="vm").memory[0]
    refused("MEMORY_UNSUITABLE", client.GetMemoryHandle, space="vm", memory_id=memory.memory_id)
    # It can be brought as ever, and is kept then.
    again = register(client, memory.hva, size=memory.size)
    assert (again.memory_id, again.state) == (memory.memory_id, READY)
    assert states(server.restart())[0] == READY


def replace(manager, fd):  # noqa: F811
    """Puts another file under the only name."""
    manager.wait_names("memory-")
    name, old = manager.kept[0]
    os.close(old)
    manager.kept[0] = Kept(name, fd)


@pytest.mark.parametrize("make", [
    make_file, lambda: os.open("/dev/null", os.O_RDWR), lambda: os.open("/", os.O_RDONLY),
    lambda: os.pipe()[0], lambda: os.memfd_create("other")],
    ids=["other memory", "a device", "a folder", "a pipe", "an empty file"])
def test_another_file_is_not_taken(server, client, manager, make):  # noqa: F811
    register(client)
    replace(manager, make())
    missing_and_dropped(server, manager, "is dropped", manager.names()[0])


def test_swapped_files_are_not_taken(server, client, manager):  # noqa: F811
    register(client)
    register(client, HVA + MIB)
    manager.wait_names("memory-", "memory-")
    (one, first), (other, second) = manager.kept
    manager.kept[:] = [Kept(one, second), Kept(other, first)]
    missing_and_dropped(server, manager, one, other)


def test_a_file_that_shrank_is_not_taken(server, client, manager, tmp_path):  # noqa: F811
    path = tmp_path / "ram"
    path.write_bytes(b"")
    os.truncate(path, MIB)
    fd = os.open(path, os.O_RDWR)
    register(client, fd=fd)
    os.close(fd)
    manager.wait_names("memory-")
    os.truncate(path, MIB - PAGE)
    missing_and_dropped(server, manager, hex(MIB - PAGE))


def test_a_name_that_comes_twice(server, client, manager):  # noqa: F811
    register(client)
    manager.wait_names("memory-")
    name, fd = manager.kept[0]
    manager.kept.append(Kept(name, os.dup(fd)))
    client = server.restart()
    assert states(client) == [READY]
    assert name in server.daemon.log()
    client.UnregisterMemory(space="vm", memory_id=1)
    manager.wait_names()


@pytest.mark.parametrize("place", [0, 1])
def test_a_name_that_comes_with_another_file_as_well(server, client, manager, place):  # noqa: F811
    register(client)
    manager.wait_names("memory-")
    manager.kept.insert(place, Kept(manager.kept[0].name, make_file()))
    assert states(server.restart()) == [READY]
    manager.wait_names("memory-")
    assert states(server.restart()) == [READY]


def test_what_nobody_knows_is_dropped(server, client, manager):  # noqa: F811
    register(client)
    manager.wait_names("memory-")
    manager.kept.insert(0, Kept("varlink", os.open("/dev/null", os.O_RDONLY)))
    manager.kept.append(Kept("x" * 255, make_file()))
    client = server.restart()
    assert states(client) == [READY]
    manager.wait_names("memory-")
    assert "varlink" in server.daemon.log()
    assert not [f for f in open_files(server.daemon.process.pid)[3:] if f == "/dev/null"]


def test_a_store_that_is_full(folder):  # noqa: F811
    with ServiceManager(folder, room=1) as small:
        server = ManagedServer(folder, small)  # pylint: disable=redefined-outer-name
        server.client.CreateSpace(space="vm")
        register(server.client)
        register(server.client, HVA + MIB, label="disk")
        client = server.restart()
        assert states(client) == [READY, MISSING]
        assert "memory 2 ('disk')" in server.daemon.log()
        server.stop()


def test_no_names_at_all(server, client, manager):  # noqa: F811
    register(client)
    manager.wait_names("memory-")
    manager.kept[:] = [Kept("", manager.kept[0].fd)]
    assert states(server.restart()) == [MISSING]


# ---- When it is killed in between, or told to keep nothing

def test_what_was_never_acknowledged_leaves_the_store(server, client, manager):  # noqa: F811
    server.restart(environment={"IOVAD_FAULT": "store.before_commit:kill:1"})
    fd = make_file()
    with pytest.raises(Exception, match="UNAVAILABLE|Socket closed"):
        register(server.client, fd=fd)
    os.close(fd)
    server.daemon.process.wait()
    manager.wait_names("memory-")
    server.client.close()
    client = server.start()
    assert not client.ListMemory(space="vm").memory
    manager.wait_names()


@pytest.mark.parametrize("arguments, keeps", [(["--fd-store", "off"], True), ([], False)])
def test_told_to_keep_nothing(folder, arguments, keeps):  # noqa: F811
    with ServiceManager(folder) as tidy:
        tidy.kept.append(Kept("memory-1-1-rw", make_file()))
        with Daemon(*arguments, folder=folder, keeps=keeps, manager=tidy) as daemon, \
                Client(daemon.target) as told:
            told.wait_ready().CreateSpace(space="vm")
            register(told)
            told.AllocSVQ(space="vm", queues=QUEUES)
            tidy.wait_names()


def test_without_a_service_manager(folder):  # noqa: F811
    """What somebody left in the environment is not taken for one."""
    with Daemon(folder=folder, keeps=True, environment={"NOTIFY_SOCKET": os.path.join(
            folder, "nobody")}) as daemon, Client(daemon.target) as alone:
        alone.wait_ready().CreateSpace(space="vm")
        assert register(alone).state == READY
        assert "cannot be told" in daemon.log()
