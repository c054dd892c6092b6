"""Relays' peers that fall silent, break off, die and come back."""

import contextlib
import subprocess

import pytest

from conftest import fresh_name
from daemon import TIMEOUT_SCALE, Daemon, wait_until
from harness import HVA, MIB, PAGE, Client, refused, span, spec, unchanged
from relay_peer import INVALIDATE, RelayPeer, attachment_of, table_of
from stubs import device_pb2 as api
from stubs import types_pb2 as types
from test_relay import do_map, name_of, refusal_of, start_map
from watching import Watcher, seconds

LIVE = types.ATTACHMENT_STATE_LIVE
DISCONNECTED = types.ATTACHMENT_STATE_DISCONNECTED

# Long enough for heartbeats every 0.1 s, short enough to be waited for.
SILENCE = 1.0
ACK = 1.5


@pytest.fixture(scope="module")
def server():
    """An iovad with little patience."""
    with Daemon("--relay.silence-timeout", f"{SILENCE * TIMEOUT_SCALE}s",
                "--relay.ack-timeout", f"{ACK * TIMEOUT_SCALE}s",
                "--relay.heartbeat-interval", "100ms") as daemon:
        yield daemon


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
def process():
    """A process that may be said to own a device."""
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        yield sleeper
        sleeper.kill()


@pytest.fixture
def peer(client, make_peer, space):
    """A peer on a space with one mapping."""
    made = make_peer(space)
    made.attach()
    do_map(client, made, space)
    return made


def lose(client, space, peer):
    """Breaks the stream and waits until that was noticed."""
    peer.close()
    return wait_until(lambda: disconnected(client, space, peer), "the loss is noticed")


def disconnected(client, space, peer):
    """The attachment when it is DISCONNECTED."""
    found = attachment_of(client, space, name_of(peer))
    return found if found.state == DISCONNECTED else None


def come_back(peer, make_peer, **fields):
    """A peer that goes on where another one was, with its table."""
    said = peer.standing()
    again = make_peer(peer.hello_fields["space"], name_of(peer), table=dict(peer.table))
    again.epoch, again.space_uid, again.applied_seq = said.values()
    again.hello(**{**said, **fields})
    return again


@contextlib.contextmanager
def unchanged_mappings(client, space):
    """Checks that mappings and revision stay; the attachment may change."""
    before = (client.mappings(space), client.space(space).revision)
    yield
    assert (client.mappings(space), client.space(space).revision) == before


def nothing_is_sent(client, space, peer):
    """Checks that the peer gets nothing but what belongs to the next change."""
    running = start_map(client, space, 77 * MIB)
    batch = peer.apply()
    mapping = running.result().mapping
    assert [u.iova for u in batch.updates] == [mapping.iova] and not batch.reset


def assert_equal_tables(client, space, peer):
    """The peer's device maps what the space says."""
    assert peer.table == table_of(client.mappings(space))


# ---- Loss

def test_silence(client, space, peer):
    peer.fall_silent()
    refusal = peer.refusal()
    assert refusal.reason == "RELAY_DISCONNECTED" and "silent" in refusal.message
    attachment = attachment_of(client, space, name_of(peer))
    assert attachment.state == DISCONNECTED and "silent" in attachment.last_error
    with unchanged(client, space):
        refusal = refused("RELAY_DISCONNECTED", client.map, space, HVA, PAGE, gpa=MIB)
        assert refusal.detail.device == name_of(peer)
        refused("RELAY_DISCONNECTED", client.unmap, space, at_gpa=0)
        refused("RELAY_DISCONNECTED", client.update, space, spec(HVA, PAGE, gpa=MIB))
        assert client.translate(space, gpa=0).segments


def test_silence_before_hello(make_peer, space):
    peer = make_peer(space, silent=True)
    assert peer.refusal().reason == "RELAY_DISCONNECTED"


def test_silence_while_a_batch_waits(client, space, peer):
    running = start_map(client, space, MIB)
    batch = peer.batch()
    peer.fall_silent()
    assert peer.refusal().reason == "RELAY_DISCONNECTED"
    assert refusal_of(running).reason == "RELAY_DISCONNECTED"
    attachment = attachment_of(client, space, name_of(peer))
    iova = batch.updates[0].iova
    assert attachment.state == DISCONNECTED
    assert list(attachment.quarantined.ranges) == [span(iova, iova + PAGE - 1)]


def test_a_batch_that_is_not_acknowledged(client, space, peer):
    running = start_map(client, space, MIB)
    peer.batch()
    assert peer.refusal().reason == "ACK_TIMEOUT"
    refusal = refusal_of(running)
    assert refusal.reason == "ACK_TIMEOUT" and refusal.detail.device == name_of(peer)
    refused("RELAY_DISCONNECTED", client.map, space, HVA, PAGE, gpa=2 * MIB)
    assert len(client.mappings(space)) == 1


def test_a_peer_that_does_not_read(client, make_space, make_peer):
    space = make_space()
    peer = make_peer(space)
    peer.attach(entry_budget=1 << 20)
    ops = [dict(map=spec(HVA + n * PAGE, PAGE, gpa=2 * n * PAGE)) for n in range(20000)]
    assert refusal_of(client.future("Update", space=space, ops=ops)).reason == "ACK_TIMEOUT"
    assert client.mappings(space) == []


def test_what_is_lost_while_it_was_to_go_stays(client, space, peer):
    running = client.future("Unmap", space=space, target=dict(at_gpa=0))
    with unchanged_mappings(client, space):
        peer.take(peer.batch())
        lose(client, space, peer)
        assert refusal_of(running).reason == "RELAY_DISCONNECTED"
    assert not attachment_of(client, space, name_of(peer)).quarantined.ranges


def test_those_that_wait_behind_are_told_too(client, space, peer):
    running = [start_map(client, space, n * MIB) for n in range(1, 6)]
    peer.batch()
    peer.close()
    for future in running:
        assert refusal_of(future).reason == "RELAY_DISCONNECTED"


def test_other_spaces_go_on(client, space, peer, make_space, make_peer):
    other = make_space()
    neighbour = make_peer(other)
    neighbour.attach()
    lose(client, space, peer)
    do_map(client, neighbour, other)
    assert_equal_tables(client, other, neighbour)


def test_other_devices_of_the_space_are_put_back(client, space, peer, device, attach):
    lose_me = peer
    attach(space, device)
    before = client.GetDevice(device=device).device.attachments[0].entries
    running = start_map(client, space, MIB)
    lose_me.batch()
    lose(client, space, lose_me)
    assert refusal_of(running).reason == "RELAY_DISCONNECTED"
    assert client.GetDevice(device=device).device.attachments[0].entries == before


# ---- Coming back

def test_back_where_it_was(client, space, peer, make_peer):
    lose(client, space, peer)
    again = come_back(peer, make_peer)
    again.wait_live()
    nothing_is_sent(client, space, again)
    assert_equal_tables(client, space, again)


def test_back_without_the_batch_that_was_lost(client, space, peer, make_peer):
    running = start_map(client, space, MIB)
    peer.batch()  # and not applied
    lose(client, space, peer)
    refusal_of(running)
    again = come_back(peer, make_peer)
    assert not again.wait_live().quarantined.ranges
    nothing_is_sent(client, space, again)
    assert_equal_tables(client, space, again)


def test_back_with_the_batch_that_was_lost(client, space, peer, make_peer):
    running = start_map(client, space, MIB)
    lost = peer.batch()
    peer.take(lost)  # and not acknowledged
    lose(client, space, peer)
    refusal_of(running)
    again = come_back(peer, make_peer)
    batch = again.apply()
    assert not batch.reset and batch.seq > lost.seq
    assert [(u.type, u.iova) for u in batch.updates] == [(INVALIDATE, lost.updates[0].iova)]
    assert not again.wait_live().quarantined.ranges
    nothing_is_sent(client, space, again)
    assert_equal_tables(client, space, again)


@pytest.mark.parametrize("fields", [
    dict(applied_seq=0),
    dict(epoch="of another run"),
    dict(epoch=""),
    dict(applied_seq=1 << 60),
    dict(space_uid=""),
], ids=str)
def test_back_from_nobody_knows_where(client, space, peer, make_peer, fields):
    lose(client, space, peer)
    again = come_back(peer, make_peer, **fields)
    batch = again.apply()
    assert batch.reset and len(batch.updates) == 1
    again.wait_live()
    assert_equal_tables(client, space, again)


def test_back_in_another_space(client, space, peer, make_space, make_peer):
    lose(client, space, peer)
    other = make_peer(make_space(), name_of(peer))
    other.hello(**peer.standing())
    assert other.refusal().reason == "SPACE_NOT_FOUND"


def test_back_after_a_reset_was_lost(client, space, make_peer):
    client.map(space, HVA, PAGE, gpa=0)
    first = make_peer(space)
    first.attach()
    first.wait_live()
    lose(client, space, first)
    second = make_peer(space, name_of(first))
    second.hello()
    second.take(second.batch())
    lose(client, space, second)
    third = come_back(second, make_peer)
    assert third.apply().reset
    third.wait_live()
    assert_equal_tables(client, space, third)


@pytest.mark.parametrize("applied", [False, True])
def test_back_after_an_undo_was_lost(client, space, peer, make_peer, make_device, attach, applied):
    attach(space, make_device(faults=[dict(op=api.SimulatedDevice.Fault.OP_UPDATE, nth=2,
                                           os_errno=14)]))
    running = start_map(client, space, MIB)
    peer.apply()
    undo = peer.batch()
    if applied:
        peer.take(undo)
    lose(client, space, peer)
    assert refusal_of(running).reason == "DEVICE_ERROR"
    again = come_back(peer, make_peer)
    if not applied:
        batch = again.apply()
        assert not batch.reset and batch.seq > undo.seq
        assert [u.iova for u in batch.updates] == [u.iova for u in undo.updates]
    again.wait_live()
    nothing_is_sent(client, space, again)
    assert_equal_tables(client, space, again)


def test_quarantine_keeps_iovas_from_being_handed_out(client, space, peer, make_peer, process):
    running = start_map(client, space, MIB)
    lost = peer.batch().updates[0].iova
    lose(client, space, peer)
    refusal_of(running)
    # Whose table is gone is no danger: a hello from nowhere resets it.
    again = make_peer(space, name_of(peer))
    again.attach(pid=process.pid)
    again.wait_live()
    assert do_map(client, again, space, 3 * MIB).iova == lost


def test_detaching_a_lost_one(client, space, peer):
    lose(client, space, peer)
    assert not client.DetachDevice(space=space, device=name_of(peer)).space.attachments
    refused("DEVICE_NOT_FOUND", client.GetDevice, device=name_of(peer))
    client.map(space, HVA, PAGE, gpa=MIB)


@pytest.mark.parametrize("rpc", ["DetachDevice", "DeleteSpace"])
def test_lost_while_it_is_being_detached(client, space, peer, device, attach, rpc):
    attach(space, device)
    fields = dict(device=name_of(peer)) if rpc == "DetachDevice" else dict(force=True)
    running = client.future(rpc, space=space, **fields)
    peer.batch()
    peer.close()
    running.result()
    refused("DEVICE_NOT_FOUND", client.GetDevice, device=name_of(peer))
    entries = [a.entries for a in client.GetDevice(device=device).device.attachments]
    assert entries == ([1] if rpc == "DetachDevice" else [])


def test_deleting_a_space_with_a_lost_one(client, space, peer):
    lose(client, space, peer)
    client.DeleteSpace(space=space, force=True)
    refused("DEVICE_NOT_FOUND", client.GetDevice, device=name_of(peer))


def test_resetting_a_lost_one(client, space, peer, make_peer):
    lose(client, space, peer)
    refused("RELAY_DISCONNECTED", client.ResetDevice, device=name_of(peer))
    assert disconnected(client, space, peer)
    again = come_back(peer, make_peer)
    again.wait_live()
    nothing_is_sent(client, space, again)


# ---- Death

def test_changes_go_on_when_the_process_has_ended(client, space, make_peer, process):
    peer = make_peer(space)
    peer.attach(pid=process.pid)
    do_map(client, peer, space)
    running = start_map(client, space, MIB)
    peer.batch()
    lose(client, space, peer)
    refusal_of(running)
    refused("RELAY_DISCONNECTED", client.map, space, HVA, PAGE, gpa=2 * MIB)
    with Watcher(client, space, progress_interval=seconds(0.1)) as watcher:
        watcher.snapshot()
        process.kill()
        (event,), _ = watcher.change()
    state = event.attachment_state
    assert state.state == DISCONNECTED and "has ended" in state.last_error
    assert not state.quarantined.ranges
    client.map(space, HVA, PAGE, gpa=2 * MIB)
    client.unmap(space, at_gpa=0)
    # Whoever comes gets all of it, whatever it says.
    again = come_back(peer, make_peer, pid=0)
    assert again.apply().reset
    again.wait_live()
    assert_equal_tables(client, space, again)


def test_a_dead_process_is_no_rival(client, space, make_peer, process):
    first = make_peer(space)
    first.attach(pid=process.pid)
    first.wait_live()
    lose(client, space, first)
    second = make_peer(space)
    second.hello()
    assert second.refusal().reason == "IN_USE"
    process.kill()
    wait_until(lambda: "has ended" in attachment_of(client, space, name_of(first)).last_error,
               "the death is noticed")
    make_peer(space).attach()


def test_who_is_not_known_is_waited_for(client, space, make_peer):
    peer = make_peer(space)
    peer.attach(pid=0)
    peer.wait_live()
    lose(client, space, peer)
    refused("RELAY_DISCONNECTED", client.map, space, HVA, PAGE, gpa=MIB)


def test_many_come_and_go(client, make_space, make_peer):
    """Streams that break at any moment leave spaces that can be used."""
    space = make_space()
    table = {}
    name = fresh_name("restless")
    for n in range(20):
        peer = make_peer(space, name, table=table)
        peer.hello()
        if n % 3 == 0:
            peer.close()
        else:
            peer.apply()
            peer.wait_live()
            running = start_map(client, space, n * MIB)
            batch = peer.batch()
            if n % 3 == 1:
                peer.apply(batch)
                running.result()
            else:
                peer.take(batch)
            peer.close()
            if n % 3 == 2:
                refusal_of(running)

        def settled():
            found = attachment_of(client, space, name)
            return found is None or found.state == DISCONNECTED

        wait_until(settled, "the stream's end is noticed")
        table = dict(peer.table)
    last = make_peer(space, name)
    last.attach()
    last.wait_live()
    assert_equal_tables(client, space, last)


def test_a_server_of_its_own_restarts(make_peer):
    with Daemon(keeps=False) as daemon:
        with Client(daemon.target) as there:
            there.wait_ready()
            there.CreateSpace(space="again")
            with RelayPeer(there, space="again", device="net0") as peer:
                peer.attach()
                do_map(there, peer, "again")
                daemon.kill()
                peer.end()
                standing = {k: v for k, v in peer.standing().items() if k != "space_uid"}
        daemon.start()
        with Client(daemon.target) as there:
            there.wait_ready()
            there.CreateSpace(space="again")
            there.map("again", HVA + MIB, PAGE, gpa=MIB)
            with RelayPeer(there, space="again", device="net0", table=peer.table) as again:
                assert again.attach(**standing).reset
                again.wait_live()
                assert again.table == table_of(there.mappings("again"))
