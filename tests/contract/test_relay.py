"""RelayService: a device that another process owns follows a space."""

import subprocess
import time

import grpc
import pytest

from conftest import fresh_name
from daemon import Daemon, scaled, wait_until
from device_table import assert_in_step
from harness import (HVA, IDENTITY, MIB, PAGE, TOP, Client, Refusal, refused, span, spec,
                     unchanged)
from relay_peer import (CLIENT_HVA, INVALIDATE, REGISTERED, UPDATE, RelayPeer, attachment_of,
                        table_of)
from stubs import device_pb2 as api
from stubs import types_pb2 as types
from watching import Watcher

LIVE = types.ATTACHMENT_STATE_LIVE
DISCONNECTED = types.ATTACHMENT_STATE_DISCONNECTED
FAILED = types.ATTACHMENT_STATE_FAILED
EFAULT = 14


@pytest.fixture
def make_peer(client):
    """Makes peers and closes them in the end."""
    peers = []

    def make(space, device=None, **fields):
        peers.append(RelayPeer(client, space=space, device=device or fresh_name("relay"), **fields))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


@pytest.fixture
def peer(make_peer, space):
    """A peer that is attached to an empty space."""
    made = make_peer(space)
    made.attach()
    return made


def name_of(peer):
    """The device's name."""
    return peer.hello_fields["device"]


def start_map(client, space, gpa=0, size=PAGE, **fields):
    """A Map on its way."""
    return client.future("Map", space=space, mapping=spec(HVA + gpa, size, gpa=gpa, **fields))


def do_map(client, peer, space, gpa=0, **fields):
    """A Map, applied by the peer; returns the Mapping."""
    running = start_map(client, space, gpa, **fields)
    peer.apply()
    return running.result().mapping


def refusal_of(future):
    """What a future was refused for."""
    with pytest.raises(grpc.RpcError) as raised:
        future.result()
    return Refusal.from_rpc(raised.value)


# ---- Attaching

def test_the_device_appears_and_is_attached(client, space, make_peer):
    mapped = [client.map(space, HVA + n * MIB, PAGE, gpa=n * MIB) for n in range(3)]
    peer = make_peer(space)
    first = peer.attach(backend_features=0xE, iova_range=span(0, TOP), entry_budget=100,
                        memory_model=types.MEMORY_MODEL_USE_VA)
    assert first.reset and first.seq > 0 and first.revision == 4
    assert [u.type for u in first.updates] == [UPDATE] * 3
    assert first.space_uid == client.space(space).uid
    assert first.epoch == client.GetServerInfo().epoch
    assert peer.table == table_of(mapped)
    attachment = peer.wait_live()
    assert attachment.applied_revision == client.space(space).revision == 5
    device = client.GetDevice(device=name_of(peer)).device
    assert device.backend == types.DEVICE_BACKEND_RELAY
    assert (device.iova_range, device.entry_budget) == (span(0, TOP), 100)
    assert (device.backend_features, device.memory_model) == (0xE, types.MEMORY_MODEL_USE_VA)
    assert {"IOTLB_BATCH", "IOTLB_ASID"} <= set(device.capabilities)
    assert [(a.space, a.asid, a.entries, a.state) for a in device.attachments] == \
        [(space, 0, 3, LIVE)]
    assert_in_step(client, space, name_of(peer))


def test_the_whole_state_of_an_empty_space_is_a_reset(client, space, peer):
    assert peer.table == {} and peer.applied_seq > 0
    assert peer.wait_live().applied_revision == 2


def test_changes_are_answered_when_they_are_on_the_device(client, space, peer):
    running = start_map(client, space)
    batch = peer.batch()
    assert not batch.reset and batch.revision == 3
    update, = batch.updates
    assert (update.type, update.size, update.uaddr, update.access) == \
        (UPDATE, PAGE, HVA, types.ACCESS_READ_WRITE)
    assert (update.memory_id, update.offset, update.asid) == (0, 0, 0)
    # Not seen by anybody before.
    assert not running.done() and client.mappings(space) == []
    peer.apply(batch)
    mapping = running.result().mapping
    assert mapping.iova == update.iova and peer.table == table_of([mapping])
    assert attachment_of(client, space, name_of(peer)).applied_revision == 3

    running = client.future("Unmap", space=space, target=dict(at_gpa=0))
    batch = peer.apply()
    assert [(u.type, u.iova, u.size) for u in batch.updates] == \
        [(INVALIDATE, mapping.iova, PAGE)]
    assert running.result().revision == 4 and peer.table == {}


def test_sequences_rise(client, space, peer):
    seen = [peer.applied_seq]
    for n in range(5):
        do_map(client, peer, space, n * MIB)
        seen.append(peer.applied_seq)
    assert seen == sorted(set(seen))


def test_the_server_sends_heartbeats(peer):
    for _ in range(2):
        peer.heartbeat()


def test_a_large_batch_comes_in_parts(make_peer):
    with Daemon("--limits.max-message-bytes", "65536") as small, Client(small.target) as there:
        there.wait_ready()
        there.CreateSpace(space="parts")
        with RelayPeer(there, space="parts", device="net0", entry_budget=5000) as peer:
            peer.attach()
            ops = [spec(HVA + n * PAGE, PAGE, gpa=n * 2 * PAGE) for n in range(500)]
            for _ in range(4):
                running = there.future("Update", space="parts", ops=[dict(map=op) for op in ops])
                peer.apply()
                running.result()
                for op in ops:
                    op.gpa += 1000 * PAGE
            with RelayPeer(there, space="parts", device="net1", entry_budget=5000) as second:
                batch = second.attach()
                assert batch.parts > 1 and len(batch.updates) == 2000
                assert second.table == peer.table == table_of(there.mappings("parts"))


@pytest.mark.parametrize("reason, fields", [
    ("SPACE_NOT_FOUND", dict(space="no-such-space")),
    ("SPACE_NOT_FOUND", dict(space_uid="0" * 32)),
    ("INVALID_NAME", dict(space="No Name")),
    ("INVALID_NAME", dict(device="")),
    ("INVALID_NAME", dict(device="No Name")),
    ("INVALID_VALUE", dict(uaddr_mode=0)),
    ("INVALID_VALUE", dict(uaddr_mode=77)),
    ("INVALID_VALUE", dict(memory_model=77)),
    ("INVALID_VALUE", dict(asid=2, as_num=2)),
    ("EMPTY_RANGE", dict(iova_range=span(2, 1))),
    ("HANDLE_NOT_FOUND", dict(owner_handle="0" * 32)),
    ("DEVICE_RANGE_CONFLICT", dict(iova_range=span(0, 0xFFF))),
    ("DEVICE_RANGE_CONFLICT", dict(iova_range=span(1 << 60, TOP))),
    ("ENTRY_BUDGET", dict(entry_budget=1)),
])
def test_hello_that_is_refused(client, space, make_peer, reason, fields):
    for n in range(2):
        client.map(space, HVA + n * MIB, PAGE, gpa=n * MIB)
    peer = make_peer(space)
    with unchanged(client, space):
        peer.hello(**fields)
        refusal = peer.refusal()
        assert refusal.reason == reason, refusal
    # The refusal is told first.
    wait_until(lambda: name_of(peer) not in
               [d.name for d in client.ListDevices(page_size=1000).devices],
               "the device is gone")


def test_hello_comes_first(client, space, make_peer):
    for message in (dict(ack=dict(batch_seq=1)), dict(heartbeat={}), dict(goodbye={}), {}):
        peer = make_peer(space)
        peer.send(**message)
        assert peer.refusal().reason == "MISSING_FIELD"


def test_the_name_of_another_device(client, space, device, make_peer):
    peer = make_peer(space, device)
    peer.hello()
    refusal = peer.refusal()
    assert refusal.reason == "NAME_TAKEN" and device in refusal.message


def test_an_attachment_that_the_device_refuses(client, space, make_peer):
    client.map(space, HVA, PAGE, gpa=0)
    peer = make_peer(space)
    with unchanged(client, space):
        peer.hello()
        peer.refuse(peer.batch())
        refusal = peer.refusal()
        assert (refusal.reason, refusal.detail.os_errno) == ("DEVICE_ERROR", EFAULT)
    # The peer is told first.
    wait_until(lambda: name_of(peer) not in {d.name for d in client.ListDevices().devices},
               "the device is gone")


def test_the_second_peer_is_refused(client, space, peer, make_space, make_peer):
    for other in (space, make_space()):
        second = make_peer(other, name_of(peer))
        second.hello()
        assert second.refusal().reason == "DEVICE_BUSY"
    do_map(client, peer, space)


def test_another_device_under_the_same_name(client, space, peer, make_space, make_peer):
    second = make_peer(make_space(), name_of(peer))
    second.hello(asid=1, as_num=2)
    # The device was said to have one address space.
    assert second.refusal().reason == "INVALID_VALUE"
    peer.close()
    wait_until(lambda: attachment_of(client, space, name_of(peer)).state == DISCONNECTED,
               "the loss is noticed")
    third = make_peer(space, name_of(peer))
    third.hello(entry_budget=77)
    refusal = third.refusal()
    assert refusal.reason == "DEVICE_BUSY" and "entry_budget" in refusal.message


def test_two_address_spaces_of_one_device(client, make_space, make_peer):
    spaces, device = [make_space(), make_space()], fresh_name("asids")
    peers = []
    for asid, space in enumerate(spaces):
        peers.append(make_peer(space, device))
        peers[-1].attach(asid=asid, as_num=2)
    for asid, space in enumerate(spaces):
        mapping = do_map(client, peers[asid], space, (asid + 1) * MIB)
        assert peers[asid].table == table_of([mapping])
    attached = client.GetDevice(device=device).device.attachments
    assert [(a.space, a.asid, a.entries) for a in attached] == \
        [(spaces[0], 0, 1), (spaces[1], 1, 1)]


def test_one_process_is_a_spaces_client(client, space, peer, make_peer):
    with subprocess.Popen(["sleep", "1000"]) as other:
        try:
            stranger = make_peer(space)
            stranger.hello(pid=other.pid)
            assert stranger.refusal().reason == "IN_USE"
            # Another device of the same process is welcome, and so is one that computes
            # addresses by itself.
            same = make_peer(space)
            same.attach()
            registered = make_peer(space)
            registered.attach(pid=other.pid, uaddr_mode=REGISTERED)
        finally:
            other.kill()
    assert len(client.space(space).attachments) == 3


def test_bounds_of_the_device_hold(client, space, make_peer):
    peer = make_peer(space)
    peer.attach(entry_budget=2, iova_range=span(0x10000, 0x1FFFF))
    for n in range(2):
        assert do_map(client, peer, space, n * MIB).iova >= 0x10000
    with unchanged(client, space):
        refusal = refused("ENTRY_BUDGET", client.map, space, HVA, PAGE, gpa=9 * MIB)
        assert refusal.detail.device == name_of(peer)
        refused("OUTSIDE_IOVA_RANGE", client.map, space, HVA, PAGE, gpa=9 * MIB, iova=0x20000)


# ---- What the device refuses

def test_a_refused_batch_changes_nothing(client, space, peer):
    do_map(client, peer, space)
    with unchanged(client, space):
        running = start_map(client, space, MIB)
        batch = peer.batch()
        peer.refuse(batch)
        refusal = refusal_of(running)
        assert (refusal.reason, refusal.detail.os_errno) == ("DEVICE_ERROR", EFAULT)
        assert refusal.detail.device == name_of(peer)
        assert f"{batch.updates[0].iova:#x}" in refusal.message
    assert do_map(client, peer, space, 2 * MIB).gpa == 2 * MIB
    assert client.GetDevice(device=name_of(peer)).device.push_errors == 1
    assert_in_step(client, space, name_of(peer))


def test_the_cause_reaches_the_client(client, space, peer):
    with unchanged(client, space):
        running = start_map(client, space)
        peer.refuse(peer.batch(), os_errno=12, message="4096 bytes over the limit",
                    cause=dict(reason=types.REASON_MEMLOCK_LIMIT, limit=65536, needed=69632))
        refusal = refusal_of(running)
    assert refusal.reason == "MEMLOCK_LIMIT" and "over the limit" in refusal.message
    detail = refusal.detail
    assert (detail.limit, detail.needed, detail.os_errno) == (65536, 69632, 12)


def test_a_peer_cannot_speak_for_the_server(client, space, peer):
    running = start_map(client, space)
    peer.refuse(peer.batch(), cause=dict(reason=types.REASON_REVISION_MISMATCH))
    assert refusal_of(running).reason == "DEVICE_ERROR"


def test_what_cannot_be_taken_back_fails_the_attachment(client, space, peer):
    kept = do_map(client, peer, space)
    running = start_map(client, space, MIB)
    batch = peer.batch()
    peer.refuse(batch, reverted=False)
    assert refusal_of(running).reason == "DEVICE_ERROR"
    attachment = attachment_of(client, space, name_of(peer))
    assert attachment.state == FAILED and "errno 14" in attachment.last_error
    iova = batch.updates[0].iova
    assert list(attachment.quarantined.ranges) == [span(iova, iova + PAGE - 1)]
    refused("ATTACHMENT_FAILED", client.map, space, HVA, PAGE, gpa=2 * MIB)
    # The peer is still there to be reset.
    running = client.future("ResetDevice", device=name_of(peer))
    batch = peer.apply()
    assert batch.reset and peer.table == table_of([kept])
    running.result()
    attachment = attachment_of(client, space, name_of(peer))
    assert attachment.state == LIVE and not attachment.quarantined.ranges
    do_map(client, peer, space, 2 * MIB)


def test_a_failure_at_iova_0_is_mended(client, make_space, make_peer):
    space = make_space(placement=IDENTITY)
    peer = make_peer(space)
    peer.attach()
    kept = do_map(client, peer, space, MIB)
    running = start_map(client, space, 0)
    batch = peer.batch()
    peer.table.clear()  # as the kernel does
    peer.refuse(batch, reverted=False)
    assert peer.apply().reset
    again = peer.apply()
    assert not again.reset and peer.table == table_of([kept])
    assert refusal_of(running).reason == "DEVICE_ERROR"
    assert attachment_of(client, space, name_of(peer)).state == LIVE


def test_what_another_device_refuses_is_taken_back(client, space, peer, make_device, attach):
    kept = do_map(client, peer, space)
    device = make_device(faults=[dict(op=api.SimulatedDevice.Fault.OP_UPDATE, nth=2,
                                      os_errno=EFAULT)])
    attach(space, device)
    with unchanged(client, space):
        running = start_map(client, space, MIB)
        batch = peer.apply()
        undo = peer.apply()
        assert undo.seq > batch.seq and undo.revision == 0
        assert [u.type for u in undo.updates] == [INVALIDATE]
        assert refusal_of(running).detail.device == device
    assert peer.table == table_of([kept])
    assert_in_step(client, space, device)


# ---- Leaving

def test_detaching_empties_the_device(client, space, peer):
    for n in range(2):
        do_map(client, peer, space, n * MIB)
    running = client.future("DetachDevice", space=space, device=name_of(peer))
    batch = peer.apply()
    assert [u.type for u in batch.updates] == [INVALIDATE] * 2 and peer.table == {}
    assert not running.result().space.attachments
    assert peer.end() is None
    refused("DEVICE_NOT_FOUND", client.GetDevice, device=name_of(peer))
    client.map(space, HVA, PAGE, gpa=9 * MIB)


def test_deleting_the_space_ends_the_stream(client, space, peer):
    do_map(client, peer, space)
    running = client.future("DeleteSpace", space=space, force=True)
    peer.apply()
    running.result()
    assert peer.table == {} and peer.refusal().reason == "SPACE_NOT_FOUND"
    refused("DEVICE_NOT_FOUND", client.GetDevice, device=name_of(peer))


def test_goodbye(client, space, peer):
    do_map(client, peer, space)
    peer.send(goodbye={})
    assert peer.end() is None
    assert not client.space(space).attachments
    refused("DEVICE_NOT_FOUND", client.GetDevice, device=name_of(peer))
    assert len(client.mappings(space)) == 1
    client.map(space, HVA, PAGE, gpa=MIB)


def test_goodbye_while_a_batch_waits(client, space, peer):
    running = start_map(client, space)
    peer.batch()
    peer.send(goodbye={})
    assert peer.end() is None
    assert running.result().mapping in client.mappings(space)
    assert not client.space(space).attachments


def test_an_attached_device_is_not_closed(client, space, peer):
    refused("IN_USE", client.CloseDevice, device=name_of(peer))


# ---- Peers that do not keep to the protocol

@pytest.mark.parametrize("reason, message", [
    ("INVALID_VALUE", dict(ack=dict(batch_seq=999999))),
    ("INVALID_VALUE", dict(hello=dict(device="again"))),
    ("MISSING_FIELD", {}),
])
def test_nonsense_ends_the_stream(client, space, peer, reason, message):
    peer.send(**message)
    assert peer.refusal().reason == reason
    assert attachment_of(client, space, name_of(peer)).state == DISCONNECTED


@pytest.mark.parametrize("ack", [
    dict(os_errno=-1), dict(os_errno=99999), dict(os_errno=14, failed_index=2),
])
def test_nonsense_acknowledgements_lose_the_batch(client, space, peer, ack):
    running = start_map(client, space)
    batch = peer.batch()
    peer.send(ack=dict(batch_seq=batch.seq, **ack))
    assert peer.refusal().reason == "INVALID_VALUE"
    assert refusal_of(running).reason == "RELAY_DISCONNECTED"
    assert attachment_of(client, space, name_of(peer)).state == DISCONNECTED


def test_acknowledging_twice(client, space, peer):
    do_map(client, peer, space)
    peer.send(ack=dict(batch_seq=peer.applied_seq))
    assert peer.refusal().reason == "INVALID_VALUE"


def test_bytes_that_are_no_message(client, space):
    call = client.channel.stream_stream("/iovad.v1.RelayService/Attach")
    with pytest.raises(grpc.RpcError):
        list(call(iter([b"\xff\xff\xff\xff"]), timeout=scaled(20)))
    client.map(space, HVA, PAGE, gpa=0)


# ---- Others

def test_a_slow_peer_holds_up_nobody_else(client, space, peer, make_space, make_peer):
    running = start_map(client, space)
    batch = peer.batch()
    begin = time.monotonic()
    other = make_space()
    client.map(other, HVA, PAGE, gpa=0)
    neighbour = make_peer(other)
    neighbour.attach()
    do_map(client, neighbour, other, MIB)
    assert client.translate(space, gpa=0).HasField("fault")
    assert client.mappings(space) == []
    client.Dump(space=space)
    client.GetDevice(device=name_of(peer))
    assert time.monotonic() - begin < scaled(5) and not running.done()
    peer.apply(batch)
    running.result()


def test_watchers_see_it_come_and_go(client, space, make_peer):
    with Watcher(client, space) as watcher:
        watcher.snapshot()
        peer = make_peer(space)
        peer.attach()
        (event,), revision = watcher.change()
        assert (event.attached.device, event.attached.state, revision) == (name_of(peer), LIVE, 2)
        peer.close()
        (event,), revision = watcher.change()
        assert (event.attachment_state.state, revision) == (DISCONNECTED, 2)


def test_draining(make_peer):
    with Daemon() as daemon, Client(daemon.target) as there:
        there.wait_ready()
        there.CreateSpace(space="ends")
        with RelayPeer(there, space="ends", device="net0") as peer:
            peer.attach()
            running = start_map(there, "ends")
            batch = peer.batch()
            daemon.terminate()
            there.wait_until_draining()
            # What runs may still need its device.
            peer.apply(batch)
            assert running.result().revision == 3
            assert peer.refusal().reason == "DRAINING"


def test_modes_are_named(client, space, peer):
    assert peer.hello_fields["uaddr_mode"] == CLIENT_HVA
    assert client.GetDevice(device=name_of(peer)).device.attachments[0].state == LIVE
