"""Relays beside the VMM: they are sent registered memory and offsets into it."""

import fcntl
import os

import pytest

from conftest import fresh_name
from fd_socket import FdSocket
from harness import GIB, HVA, MIB, PAGE, refused, unchanged
from relay_peer import CLIENT_HVA, REGISTERED, RelayPeer
from stubs import types_pb2 as types
from test_relay import do_map, name_of, refusal_of, start_map

SIZE = 64 * PAGE
SHRINK = 0x0002  # F_SEAL_SHRINK: linux/fcntl.h


@pytest.fixture
def fds(client):
    """A connection to the fd socket."""
    with FdSocket(client.GetServerInfo().fd_socket) as connected:
        yield connected


@pytest.fixture
def register(client, space, fds):
    """Registers a part of a new memfd; returns the Memory and the memfd."""
    made = []

    def call(hva=HVA, size=SIZE, offset=0):
        fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        made.append(fd)
        os.truncate(fd, offset + size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SHRINK)
        memory = client.RegisterMemory(space=space, hva=hva, size=size, offset=offset,
                                       fd_handle=fds.deposit(fd)).memory
        return memory, fd

    yield call
    for fd in made:
        os.close(fd)


@pytest.fixture
def make_peer(client, space):
    """Makes peers that compute addresses by themselves."""
    peers = []

    def make(**fields):
        fields = {"device": fresh_name("relay"), "uaddr_mode": REGISTERED, **fields}
        peers.append(RelayPeer(client, space=space, **fields))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


def test_memory_comes_before_its_first_use(client, space, register, fds, make_peer):
    memory, fd = register(offset=4 * PAGE)
    peer = make_peer()
    assert not peer.attach().updates and not peer.memories
    mapping = do_map(client, peer, space, 2 * PAGE)
    assert mapping.memory_id == memory.memory_id
    sent = peer.memories[memory.memory_id]
    assert (sent.size, sent.offset) == (SIZE, 4 * PAGE)
    got = fds.withdraw(sent.fd_handle)
    assert os.path.sameopenfile(got, fd)
    os.close(got)
    entry = peer.table[mapping.iova]
    assert (entry.memory_id, entry.offset, entry.uaddr) == (memory.memory_id, 2 * PAGE, 0)
    # And once only.
    do_map(client, peer, space, 8 * PAGE)
    assert len(peer.responses) == 4  # two batches, the memory, a batch


def test_the_whole_state_brings_its_memory(client, space, register, make_peer):
    one, _ = register(HVA)
    two, _ = register(HVA + GIB)
    for n, hva in enumerate((HVA, HVA + GIB, HVA + PAGE)):
        client.map(space, hva, PAGE, gpa=n * MIB)
    peer = make_peer()
    peer.attach()
    assert peer.memories.keys() == {one.memory_id, two.memory_id}
    assert sorted((e.memory_id, e.offset) for e in peer.table.values()) == \
        [(one.memory_id, 0), (one.memory_id, PAGE), (two.memory_id, 0)]


def test_memory_is_sent_anew_after_a_refused_batch(client, space, register, make_peer):
    memory, _ = register()
    peer = make_peer()
    peer.attach()
    running = start_map(client, space)
    peer.refuse(peer.batch())
    refusal_of(running)
    first = peer.memories.pop(memory.memory_id)
    do_map(client, peer, space)
    assert peer.memories[memory.memory_id].fd_handle != first.fd_handle


def test_memory_that_is_not_registered(client, space, register, make_peer):
    register()
    peer = make_peer()
    peer.attach()
    with unchanged(client, space):
        refusal = refused("MEMORY_NOT_REGISTERED", client.map, space, HVA + GIB, PAGE, gpa=0)
        assert refusal.detail.device == name_of(peer)
    do_map(client, peer, space)


def test_a_space_that_the_relay_cannot_reach(client, space, make_peer):
    client.map(space, HVA, PAGE, gpa=0)
    peer = make_peer()
    with unchanged(client, space):
        peer.hello()
        assert peer.refusal().reason == "MEMORY_NOT_REGISTERED"


def test_memory_that_is_gone(client, space, register, make_peer):
    memory, _ = register()
    register(HVA + GIB)
    peer = make_peer()
    peer.attach()
    do_map(client, peer, space)
    refused("IN_USE", client.UnregisterMemory, space=space, memory_id=memory.memory_id)
    running = client.future("Unmap", space=space, target=dict(at_gpa=0))
    peer.apply()
    running.result()
    client.UnregisterMemory(space=space, memory_id=memory.memory_id)
    running = client.future("Map", space=space,
                            mapping=dict(hva=HVA + GIB, size=PAGE, gpa=0,
                                         access=types.ACCESS_READ_WRITE))
    peer.apply()
    running.result()
    assert peer.gone == [memory.memory_id]


def test_queues_in_memory_of_the_server(client, space, fds, make_peer):
    peer = make_peer()
    peer.attach()
    running = client.future("AllocSVQ", space=space, queues=[dict(queue_index=0, queue_size=256)])
    peer.apply()
    svq, = running.result().svqs
    assert {e.memory_id for e in peer.table.values()} == {svq.memory_id} == set(peer.memories)
    os.close(fds.withdraw(peer.memories[svq.memory_id].fd_handle))


def test_queues_of_a_client_with_a_relay_inside(client, space, make_peer):
    peer = make_peer(uaddr_mode=CLIENT_HVA)
    peer.attach()
    refused("MISSING_FIELD", client.AllocSVQ, space=space,
            queues=[dict(queue_index=0, queue_size=256)])


def test_the_owner_can_be_attested(client, space, fds, make_peer):
    answer = fds.call(3)
    peer = make_peer(owner_handle=answer.handle)
    peer.attach()
    again = make_peer(owner_handle=answer.handle)
    again.hello()
    assert again.refusal().reason == "HANDLE_NOT_FOUND"
    other = make_peer(owner_handle=fds.call(3).handle)
    other.hello(pid=1)
    assert other.refusal().reason == "INVALID_VALUE"
