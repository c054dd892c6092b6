"""Registered memory: what is taken and what is not, who holds it, and queues whose memory the
server makes."""

import fcntl
import os

import pytest

from daemon import Daemon, wait_until
from fd_socket import DEVICE, FdSocket, open_files
from harness import GIB, HVA, MIB, PAGE, TOP, Client, refused, unchanged
from stubs import address_space_pb2 as api
from stubs import types_pb2 as types

SIZE = 16 * PAGE
SHRINK = 0x0002  # F_SEAL_SHRINK, F_SEAL_GROW: linux/fcntl.h
GROW = 0x0004


@pytest.fixture
def fds(client):
    """A connection to the fd socket."""
    with FdSocket(client.GetServerInfo().fd_socket) as connected:
        yield connected


@pytest.fixture
def make_memory():
    """Makes memfds."""
    made = []

    def make(size=SIZE, seals=SHRINK):
        fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        made.append(fd)
        os.truncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return fd

    yield make
    for fd in made:
        os.close(fd)


@pytest.fixture
def register(client, space, fds, make_memory):
    """Registers a memfd."""

    def call(hva=HVA, size=SIZE, fd=None, **fields):
        handle = fds.deposit(make_memory(size) if fd is None else fd)
        return client.RegisterMemory(space=space, hva=hva, size=size, fd_handle=handle,
                                     **fields).memory

    return call


def same_file(a, b):
    """Whether two descriptors are of one file."""
    return os.path.sameopenfile(a, b)


def test_memory_is_registered_and_listed(client, space, register):
    high = register(hva=HVA + GIB, label="pc.ram")
    low = register(hva=HVA, size=4 * PAGE)
    assert (high.memory_id, low.memory_id) == (1, 2)
    assert (high.hva, high.size, high.offset, high.label) == (HVA + GIB, SIZE, 0, "pc.ram")
    assert (high.path, high.state, high.mapping_count) == ("", types.MEMORY_STATE_READY, 0)
    assert list(client.ListMemory(space=space).memory) == [low, high]


def test_registering_takes_no_revision(client, space, register):
    with unchanged(client, space):
        register()


def test_mappings_carry_their_memory(client, space, register):
    memory = register()
    inside = client.map(space, HVA + PAGE, 2 * PAGE, gpa=0, label="kept")
    across = client.map(space, HVA + SIZE - PAGE, 2 * PAGE, gpa=MIB)
    outside = client.map(space, HVA + GIB, PAGE, gpa=2 * MIB)
    assert (inside.memory_id, inside.label) == (memory.memory_id, "kept")
    assert (across.memory_id, outside.memory_id) == (0, 0)
    listed, = client.ListMemory(space=space).memory
    assert listed.mapping_count == 2


def test_an_offset_into_the_file(register, make_memory):
    fd = make_memory(4 * SIZE)
    memory = register(fd=fd, offset=3 * SIZE)
    assert memory.offset == 3 * SIZE


def test_a_file_that_ends_too_early(client, space, fds, make_memory):
    for fields in (dict(size=SIZE + PAGE), dict(size=SIZE, offset=PAGE)):
        handle = fds.deposit(make_memory())
        error = refused("MEMORY_UNSUITABLE", client.RegisterMemory, space=space, hva=HVA,
                        fd_handle=handle, **fields)
        assert "0x10000" in error.message
    assert not client.ListMemory(space=space).memory


def test_a_memfd_must_be_sealed_against_shrinking(client, space, fds, make_memory):
    for seals in (0, GROW):
        handle = fds.deposit(make_memory(seals=seals))
        error = refused("MEMORY_UNSUITABLE", client.RegisterMemory, space=space, hva=HVA,
                        size=SIZE, fd_handle=handle)
        assert "F_SEAL_SHRINK" in error.message


def test_memory_does_not_overlap_other_memory(client, space, fds, register, make_memory):
    first = register(hva=HVA + MIB)
    handle = fds.deposit(make_memory(2 * MIB))
    for at, size in ((HVA + MIB, SIZE), (HVA + MIB - PAGE, 2 * PAGE), (HVA, 2 * MIB),
                     (HVA + MIB + SIZE - PAGE, SIZE)):
        error = refused("HOST_HVA_OVERLAP", client.RegisterMemory, space=space, hva=at, size=size,
                        fd_handle=handle)
        assert f"memory {first.memory_id}" in error.message
    # None of these used the handle up.
    client.RegisterMemory(space=space, hva=HVA, size=MIB, fd_handle=handle)


@pytest.mark.parametrize("reason, fields", [
    ("EMPTY_RANGE", dict(size=0)),
    ("RANGE_WRAPS", dict(hva=TOP - 0xFFF, size=MIB)),
    ("RANGE_WRAPS", dict(offset=TOP - 0xFFF)),
    ("UNALIGNED", dict(hva=HVA + 1)),
    ("UNALIGNED", dict(size=SIZE + 1)),
    ("UNALIGNED", dict(offset=512)),
    ("INVALID_LABEL", dict(label="x" * 65)),
    ("MISSING_FIELD", dict(fd_handle="")),
    ("HANDLE_NOT_FOUND", dict(fd_handle="0" * 32)),
    ("HANDLE_NOT_FOUND", dict(fd_handle="no handle")),
    ("REVISION_MISMATCH", dict(expected_revision=7)),
])
def test_refusals(client, space, fds, make_memory, reason, fields):
    handle = fds.deposit(make_memory())
    request = dict(dict(space=space, hva=HVA, size=SIZE, fd_handle=handle), **fields)
    with unchanged(client, space):
        refused(reason, client.RegisterMemory, **request)
        assert not client.ListMemory(space=space).memory


def test_a_handle_of_another_kind(client, space, fds):
    with open("/dev/null", "rb") as device:
        handle = fds.deposit(device.fileno(), kind=DEVICE)
    refused("HANDLE_NOT_FOUND", client.RegisterMemory, space=space, hva=HVA, size=SIZE,
            fd_handle=handle)


def test_unregistering(client, space, register):
    memory = register()
    client.map(space, HVA, PAGE, gpa=0)
    refused("IN_USE", client.UnregisterMemory, space=space, memory_id=memory.memory_id)
    client.unmap(space, at_gpa=0)
    client.UnregisterMemory(space=space, memory_id=memory.memory_id)
    refused("MEMORY_NOT_FOUND", client.UnregisterMemory, space=space, memory_id=memory.memory_id)
    assert register().memory_id == memory.memory_id + 1


def test_a_repeat_gets_the_first_answer(client, space, fds, make_memory):
    request = dict(space=space, hva=HVA, size=SIZE, fd_handle=fds.deposit(make_memory()),
                   request_id="once")
    assert client.RegisterMemory(**request) == client.RegisterMemory(**request)
    assert len(client.ListMemory(space=space).memory) == 1


def test_the_descriptor_comes_back(client, space, fds, register, make_memory):
    fd = make_memory()
    memory = register(fd=fd)
    for _ in range(2):
        handle = client.GetMemoryHandle(space=space, memory_id=memory.memory_id).fd_handle
        back = fds.withdraw(handle)
        assert same_file(back, fd)
        os.close(back)
    refused("MEMORY_NOT_FOUND", client.GetMemoryHandle, space=space, memory_id=99)


def maps_of(pid, word):
    """The lines of a process's /proc/PID/maps with a word in them."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return [line for line in maps if word in line]


def test_one_file_is_mapped_once_and_let_go(tmp_path):
    with Daemon(folder=str(tmp_path)) as daemon, Client(daemon.target) as client:
        info = client.wait_ready().GetServerInfo()
        before = open_files(daemon.process.pid)
        client.CreateSpace(space="a")
        client.CreateSpace(space="b")
        fd = os.memfd_create("shared-by-two", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.truncate(fd, 4 * SIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SHRINK)
        with FdSocket(info.fd_socket) as fds:
            for space, hva, offset in (("a", HVA, 0), ("a", HVA + GIB, SIZE), ("b", HVA, 0)):
                client.RegisterMemory(space=space, hva=hva, size=SIZE, offset=offset,
                                      fd_handle=fds.deposit(fd))
        os.close(fd)
        assert len(maps_of(daemon.process.pid, "shared-by-two")) == 1
        # Contents are not looked at: nothing of it is resident.
        client.DeleteSpace(space="a", force=True)
        assert len(maps_of(daemon.process.pid, "shared-by-two")) == 1
        client.DeleteSpace(space="b")
        wait_until(lambda: not maps_of(daemon.process.pid, "shared-by-two"), "the file to be let go")
        wait_until(lambda: open_files(daemon.process.pid) == before, "descriptors to be closed")


def test_paths_must_be_allowed(client, space):
    for path in ("/etc/passwd", "/dev/shm/x", "relative", "/"):
        refused("PATH_NOT_ALLOWED", client.RegisterMemory, space=space, hva=HVA, size=PAGE,
                path=path)


def test_memory_by_path(tmp_path):
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    memory = allowed / "ram"
    memory.write_bytes(bytes(SIZE))
    elsewhere = tmp_path / "secret"
    elsewhere.write_bytes(bytes(SIZE))
    (allowed / "link").symlink_to(elsewhere)
    (allowed / "folder").mkdir()
    os.mkfifo(allowed / "fifo")
    with Daemon("--memory-paths", f"{allowed}:/nowhere/at/all", folder=str(tmp_path)) as daemon, \
            Client(daemon.target) as client:
        client.wait_ready()
        client.CreateSpace(space="vm")
        request = dict(space="vm", hva=HVA, size=SIZE)
        for path, reason in ((elsewhere, "PATH_NOT_ALLOWED"),
                             (allowed / "link", "PATH_NOT_ALLOWED"),
                             (f"{allowed}/../secret", "PATH_NOT_ALLOWED"),
                             (f"{allowed}-not/ram", "PATH_NOT_ALLOWED"),
                             (allowed / "missing", "MEMORY_NOT_FOUND"),
                             (allowed / "folder", "MEMORY_UNSUITABLE"),
                             (allowed / "fifo", "MEMORY_UNSUITABLE")):
            error = refused(reason, client.RegisterMemory, path=str(path), **request)
            assert str(path) in error.message or reason == "MEMORY_UNSUITABLE"
        assert client.RegisterMemory(path=str(memory), **request).memory.path == str(memory)


# --- Queues whose memory the server makes ---


def bare(size, **fields):
    """A queue without addresses."""
    return api.SvqSpec(queue_size=size, format=api.RING_FORMAT_SPLIT, **fields)


def test_the_server_makes_the_memory(client, space, fds):
    answer = client.AllocSVQ(space=space, queues=[bare(256), bare(1024, queue_index=1),
                                                  bare(64, queue_index=2, control=True)])
    first, second, control = answer.svqs
    memory, = client.ListMemory(space=space).memory
    assert {s.memory_id for s in answer.svqs} == {memory.memory_id}
    assert memory.mapping_count == sum(len(s.mappings) for s in answer.svqs) == 8
    # Virtio spec 2.7: descriptors 16 n and avail ring 6 + 2 n, used ring 6 + 8 n.
    assert (first.desc_offset, first.driver_offset, first.device_offset) == (0, 4096, 0x2000)
    assert (second.desc_offset, second.driver_offset, second.device_offset) == \
        (0x3000, 0x3000 + 16384, 0x8000)
    assert (control.desc_offset, control.control_out_offset, control.control_in_offset) == \
        (0xD000, 0xB000, 0xC000)
    assert first.driver_iova == first.desc_iova + 4096
    assert memory.size == 0xF000
    for svq in answer.svqs:
        for mapping in svq.mappings:
            assert mapping.memory_id == memory.memory_id and mapping.hva >= 1 << 63

    back = fds.withdraw(client.GetMemoryHandle(space=space,
                                               memory_id=memory.memory_id).fd_handle)
    assert os.fstat(back).st_size == memory.size
    assert fcntl.fcntl(back, fcntl.F_GET_SEALS) & SHRINK
    assert os.pread(back, memory.size, 0) == bytes(memory.size)
    os.close(back)

    refused("IN_USE", client.UnregisterMemory, space=space, memory_id=memory.memory_id)
    client.FreeSVQ(space=space, svq_ids=[first.svq_id])
    assert len(client.ListMemory(space=space).memory) == 1
    client.FreeSVQ(space=space)
    assert not client.ListMemory(space=space).memory


def test_some_queues_bring_their_own(client, space):
    own = api.SvqSpec(queue_size=8, queue_index=1, format=api.RING_FORMAT_SPLIT, driver_hva=HVA,
                      device_hva=HVA + MIB)
    made, brought = client.AllocSVQ(space=space, queues=[bare(8), own]).svqs
    assert (made.memory_id, brought.memory_id) == (1, 0)
    assert {m.hva for m in brought.mappings} == {HVA, HVA + MIB}


def test_no_memory_is_left_by_what_is_refused(client, space):
    with unchanged(client, space):
        refused("INVALID_QUEUE_SIZE", client.AllocSVQ, space=space, queues=[bare(8), bare(7)])
        refused("INVALID_QUEUE_SIZE", client.AllocSVQ, space=space, queues=[bare(0)])
        refused("REVISION_MISMATCH", client.AllocSVQ, space=space, queues=[bare(8)],
                expected_revision=9)
        answer = client.AllocSVQ(space=space, queues=[bare(8)], validate_only=True)
        assert answer.svqs[0].memory_id == 0
        assert not client.ListMemory(space=space).memory


def test_a_refused_push_leaves_no_memory(client, space, make_device, attach):
    device = make_device(faults=[dict(op=1, nth=2, os_errno=14)])
    attach(space, device)
    with unchanged(client, space):
        refused("DEVICE_ERROR", client.AllocSVQ, space=space, queues=[bare(8)])
        assert not client.ListMemory(space=space).memory
    client.AllocSVQ(space=space, queues=[bare(8)])
    assert len(client.ListMemory(space=space).memory) == 1
