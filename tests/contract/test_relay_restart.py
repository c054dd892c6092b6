"""Relays across a restart of the server: their devices go on mapping what they did, and get
what they lack."""

import pytest

from daemon import wait_until
from device_table import device_log, replay, table_of_mappings
from harness import HVA, MIB, PAGE, refused, spec
from relay_guest import Guest, died, guest  # noqa: F401 pylint: disable=unused-import
from relay_peer import DISCONNECTED, INVALIDATE, RelayPeer
from restarting import Server, folder, server  # noqa: F401 pylint: disable=unused-import
from test_relay import refusal_of, start_map


def arm(guest, point, times=1):
    """Starts the server anew, to die when it passes `point`."""
    guest.server.restart(environment={"IOVAD_FAULT": f"{point}:kill:{times}"})
    guest.connect()
    guest.peer.wait_live()


# ---- Between batches

def test_it_is_waited_for(server, guest):
    before = guest.client.mappings("vm"), guest.client.space("vm")
    server.restart()
    attachment = guest.attachment()
    assert attachment.state == DISCONNECTED and "not back yet" in attachment.last_error
    device = guest.client.GetDevice(device="net0").device
    assert [(a.space, a.state) for a in device.attachments] == [("vm", DISCONNECTED)]
    # Its device still maps all that: nothing may take the place of it.
    refused("RELAY_DISCONNECTED", guest.client.map, "vm", HVA, PAGE, gpa=2 * MIB)
    refused("RELAY_DISCONNECTED", guest.client.unmap, "vm", at_gpa=0)
    assert guest.client.mappings("vm") == before[0]
    assert guest.client.space("vm").revision == before[1].revision
    assert guest.client.translate("vm", gpa=0).segments


def test_back_where_it_was(server, guest):
    device = guest.client.GetDevice(device="net0").device
    for _ in range(3):
        server.restart()
        guest.connect()
        guest.nothing_is_sent()
    again = guest.client.GetDevice(device="net0").device
    for counter in ("updates_pushed", "batches_pushed"):
        setattr(again, counter, getattr(device, counter))
    assert again == device


def test_not_back_before_the_next_restart(server, guest):
    for _ in range(3):
        server.restart()
    guest.connect()
    guest.nothing_is_sent()


def test_back_without_having_been_sent_anything_since(server, guest):
    for _ in range(2):
        server.restart()
        guest.connect()
        guest.peer.wait_live()
    guest.nothing_is_sent()


@pytest.mark.parametrize("fields", [
    dict(applied_seq=0),
    dict(epoch="of another store"),
    dict(epoch=""),
    dict(applied_seq=1 << 60),
    dict(applied_seq=1),
    dict(space_uid=""),
], ids=str)
def test_back_from_nobody_knows_where(server, guest, fields):
    server.restart()
    guest.connect(**fields)
    batch = guest.peer.apply()
    assert batch.reset and len(batch.updates) == 2
    guest.nothing_is_sent()


def test_a_peer_that_lost_its_table_too(server, guest):
    server.restart()
    guest.peer.table.clear()
    guest.peer.applied_seq = 0
    guest.connect()
    assert guest.peer.apply().reset
    guest.nothing_is_sent()


def test_another_space_of_that_name(server, guest):
    server.restart()
    guest.client.DeleteSpace(space="vm", force=True)
    guest.client.CreateSpace(space="vm")
    guest.connect()
    assert guest.peer.refusal().reason == "SPACE_NOT_FOUND"


def test_another_device_of_that_name(server, guest):
    server.restart()
    refused("NAME_TAKEN", guest.client.OpenDevice, device="net0", simulated={})
    guest.connect(entry_budget=100)
    assert guest.peer.refusal().reason == "DEVICE_BUSY"
    guest.client.CreateSpace(space="other")
    with RelayPeer(guest.client, space="other", device="net0") as rival:
        rival.hello()
        assert rival.refusal().reason == "DEVICE_BUSY"


# ---- Inside a batch

def test_it_was_not_sent_what_was_stored(server, guest):
    arm(guest, "space.stored")
    running = guest.client.future("Map", space="vm", mapping=spec(HVA, PAGE, gpa=8 * MIB),
                                  request_id="1")
    died(server, running)
    server.start()
    # Whoever asked was not answered: here it is there.
    assert len(guest.client.mappings("vm")) == 3
    guest.connect()
    batch = guest.apply()
    assert not batch.reset and len(batch.updates) == 1
    assert batch.revision == guest.client.space("vm").revision
    guest.check()
    mapping = guest.client.Map(space="vm", mapping=spec(HVA, PAGE, gpa=8 * MIB),
                               request_id="1").mapping
    assert mapping in guest.client.mappings("vm")
    guest.nothing_is_sent()


def test_it_was_sent_several_revisions_at_once(server, guest):
    arm(guest, "space.stored", times=2)
    running = [start_map(guest.client, "vm", 10 * MIB)]
    batch = guest.peer.batch()
    # It is stored, and the others wait for it: they go together then.
    running += [start_map(guest.client, "vm", n * MIB) for n in range(11, 20)]
    running.append(guest.client.future("Unmap", space="vm", target=dict(at_gpa=0)))
    guest.apply(batch)
    for request in running[1:]:
        died(server, request)
    server.start()
    maps = len(guest.client.mappings("vm"))
    if maps == 3:  # nothing waited when the first was done
        return
    guest.connect()
    batch = guest.apply()
    assert not batch.reset and batch.revision == guest.client.space("vm").revision
    guest.check()
    guest.nothing_is_sent()


def test_it_acknowledged_what_nobody_was_told(server, guest):
    arm(guest, "space.pushed")
    running = guest.client.future("Unmap", space="vm", target=dict(at_gpa=0), request_id="1")
    batch = guest.apply()
    assert [u.type for u in batch.updates] == [INVALIDATE]
    died(server, running)
    server.start()
    assert [m.gpa for m in guest.client.mappings("vm")] == [MIB]
    guest.connect()
    guest.nothing_is_sent()
    assert guest.client.Unmap(space="vm", target=dict(at_gpa=0),
                              request_id="1").result.removed_count == 1


@pytest.mark.parametrize("applied", [False, True])
def test_killed_while_it_applies(server, guest, applied):
    running = guest.client.future("Update", space="vm", ops=[
        dict(unmap=dict(at_gpa=0)), dict(map=spec(HVA, 2 * PAGE, gpa=0))])
    if applied:
        guest.take()
    else:
        guest.peer.batch()
    server.kill()
    died(server, running)
    server.start()
    assert [m.size for m in guest.client.mappings("vm")].count(2 * PAGE) == 1
    guest.connect()
    if not applied:
        batch = guest.apply()
        assert not batch.reset and len(batch.updates) == 2
    guest.nothing_is_sent()


@pytest.mark.parametrize("applied", [False, True])
def test_in_doubt_for_several_restarts(server, guest, applied):
    running = start_map(guest.client, "vm", 5 * MIB)
    if applied:
        guest.take()
    else:
        guest.peer.batch()
    server.kill()
    died(server, running)
    server.start()
    # Kept anew by something else than a change of mappings.
    guest.client.OpenDevice(device="sim", simulated={})
    guest.client.AttachDevice(space="vm", device="sim")
    server.restart()
    guest.connect()
    if not applied:
        # The attachment of the other one took a revision, too.
        batch = guest.apply()
        assert not batch.reset and len(batch.updates) == 1
    guest.nothing_is_sent()
    table = replay(device_log(guest.client, "sim"), strict=False)[0]
    assert table == table_of_mappings(guest.client.mappings("vm"))


def test_lost_again_while_it_gets_what_it_lacks(server, guest):
    running = start_map(guest.client, "vm", 5 * MIB)
    guest.peer.batch()
    server.kill()
    died(server, running)
    server.start()
    for _ in range(3):
        guest.connect()
        assert len(guest.peer.batch().updates) == 1  # and not applied
        guest.peer.close()
        wait_until(lambda: guest.attachment().state == DISCONNECTED, "the loss is noticed")
    guest.connect()
    guest.take()
    guest.peer.close()
    wait_until(lambda: guest.attachment().state == DISCONNECTED, "the loss is noticed")
    guest.connect()
    guest.nothing_is_sent()


def test_it_refuses_what_it_lacks(server, guest):
    running = start_map(guest.client, "vm", 5 * MIB)
    guest.peer.batch()
    server.kill()
    died(server, running)
    server.start()
    guest.connect()
    guest.peer.refuse(guest.peer.batch())
    wait_until(lambda: guest.attachment().state == 4, "the attachment is FAILED")
    refused("ATTACHMENT_FAILED", guest.client.map, "vm", HVA, PAGE, gpa=6 * MIB)
    running = guest.client.future("ResetDevice", device="net0")
    assert guest.peer.apply().reset
    running.result()
    guest.nothing_is_sent()


def test_what_was_given_up_before(server, guest):
    running = start_map(guest.client, "vm", 5 * MIB)
    lost = guest.peer.batch()
    guest.peer.take(lost)
    guest.peer.close()
    refusal_of(running)
    server.restart()
    assert len(guest.client.mappings("vm")) == 2
    guest.connect()
    # It has what is not there any more.
    assert guest.peer.apply().reset
    guest.nothing_is_sent()


def test_what_was_taken_back_before(server, guest):
    client = guest.client
    client.OpenDevice(device="sim", simulated=dict(
        faults=[dict(op="OP_UPDATE", nth=4, os_errno=14)]))
    client.AttachDevice(space="vm", device="sim")
    guest.map(4 * MIB)
    guest.unmap(4 * MIB)
    running = start_map(client, "vm", 5 * MIB)
    guest.peer.apply()
    guest.peer.apply()  # the undo
    assert refusal_of(running).reason == "DEVICE_ERROR"
    server.restart()
    guest.connect()
    guest.nothing_is_sent()


def test_a_history_that_does_not_reach_back(folder):
    server = Server(folder, "--limits.history-bytes", "65536")
    server.client.CreateSpace(space="vm")
    guest = Guest(server)
    guest.begin()
    ops = [dict(map=spec(HVA + n * PAGE, PAGE, gpa=2 * n * PAGE)) for n in range(2000)]
    running = server.client.future("Update", space="vm", ops=ops)
    guest.peer.batch()
    server.kill()
    died(server, running)
    server.start()
    guest.connect()
    batch = guest.apply()
    assert batch.reset and len(batch.updates) == 2000
    guest.nothing_is_sent()
    guest.close()
    server.stop()
