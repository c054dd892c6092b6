"""That an attachment begins or ends is stored before anybody is told of it."""

import grpc
import pytest

from daemon import wait_until
from device_table import device_log, replay, table_of_mappings
from harness import HVA, PAGE, Refusal, refused
from relay_peer import DISCONNECTED, INVALIDATE, LIVE, RelayPeer, table_of
from restarting import (Server, TRIES_WITH_RESERVE, folder,  # noqa: F401 pylint: disable=unused-import
                        full_disk)
from watching import Watcher, kinds

FAILED = 4


def start_with_a_mapping(folder, **space):
    """A server with a space that has a mapping, and a device."""
    server = Server(folder)
    server.client.OpenDevice(device="sim", simulated=dict(as_num=2, group_num=2))
    server.client.CreateSpace(space="vm", **space)
    server.client.map("vm", HVA, PAGE, gpa=0)
    return server


def table(client, asid=0):
    """What the device maps."""
    return replay(device_log(client, "sim"), strict=False).get(asid, {})


def revisions(watcher, count):
    """What the next revisions did: (kind, revision). States are no revisions of their own."""
    changes = []
    while len(changes) < count:
        events, revision = watcher.change()
        if kinds(events) != ["attachment_state"]:
            changes.append((kinds(events)[0], revision))
    return changes


def test_one_that_cannot_be_stored_has_not_begun(folder):
    server = start_with_a_mapping(folder)
    client = server.restart(environment=full_disk())
    before = client.space("vm")
    with Watcher(client, "vm", start_revision=before.revision + 1) as watcher:
        refused("STORE_FULL", client.AttachDevice, space="vm", device="sim", asid=1, groups=[1])
        assert client.space("vm") == before
        assert not table(client, 1)
        assert not client.GetDevice(device="sim").device.attachments
        attached = client.AttachDevice(space="vm", device="sim", asid=1, groups=[1]).space
        assert attached == client.space("vm")
        # Nobody was told of the one that was refused.
        assert revisions(watcher, 1) == [("attached", before.revision + 1)]
    assert table(client, 1) == table_of_mappings(client.mappings("vm"))
    assert server.restart().space("vm") == attached
    server.stop()


def test_one_whose_end_cannot_be_stored_goes_on(folder):
    server = start_with_a_mapping(folder, attachments=[dict(device="sim")])
    client = server.restart(environment=full_disk(tries=TRIES_WITH_RESERVE))
    before = client.space("vm")
    with Watcher(client, "vm", start_revision=before.revision + 1) as watcher:
        refused("STORE_FULL", client.DetachDevice, space="vm", device="sim")
        assert client.space("vm") == before
        assert before.attachments[0].state == LIVE
        assert table(client) == table_of_mappings(client.mappings("vm"))
        detached = client.DetachDevice(space="vm", device="sim").space
        assert detached == client.space("vm") and not detached.attachments
        assert revisions(watcher, 1) == [("detached", before.revision + 1)]
    assert not table(client)
    assert server.restart().space("vm") == detached
    server.stop()


@pytest.mark.parametrize("fault, stored", [("store.before_commit:kill:1", False),
                                           ("space.attached:kill:1", True)])
@pytest.mark.parametrize("rpc", ["AttachDevice", "DetachDevice"])
def test_killed_when_it_is_stored(folder, rpc, fault, stored):
    attachments = [dict(device="sim")] if rpc == "DetachDevice" else []
    server = start_with_a_mapping(folder, attachments=attachments)
    client = server.restart(environment={"IOVAD_FAULT": fault})
    before = client.space("vm")
    request = dict(space="vm", device="sim", request_id="cut off")
    with Watcher(client, "vm", start_revision=before.revision + 1) as watcher:
        with pytest.raises(grpc.RpcError):
            getattr(client, rpc)(**request)
        server.daemon.wait()
        assert watcher.rest() == []
    client.close()
    client = server.start()
    after = client.space("vm")
    kind = "attached" if rpc == "AttachDevice" else "detached"
    assert after.revision == before.revision + stored
    assert len(after.attachments) == len(attachments) - (stored and rpc == "DetachDevice") + (
        stored and rpc == "AttachDevice")
    with Watcher(client, "vm", start_revision=before.revision + 1) as watcher:
        answer = getattr(client, rpc)(**request).space
        assert answer.revision == before.revision + 1
        client.map("vm", HVA, PAGE, gpa=PAGE)
        assert revisions(watcher, 2) == [(kind, before.revision + 1),
                                                  ("mapped", before.revision + 2)]
    expected = {} if kind == "detached" else table_of_mappings(client.mappings("vm"))
    assert table(client) == expected
    server.stop()


def test_a_relay_s_that_cannot_be_stored_has_not_begun(folder):
    server = start_with_a_mapping(folder)
    # It is kept before it gets anything, and then takes its revision.
    client = server.restart(environment=full_disk())
    before = client.space("vm")
    with RelayPeer(client, space="vm", device="net0") as peer:
        peer.hello()
        assert peer.refusal().reason == "STORE_FULL"
    client = server.restart(environment=full_disk(2, TRIES_WITH_RESERVE))
    with RelayPeer(client, space="vm", device="net0") as peer:
        peer.hello()
        peer.apply()
        taken_back = peer.apply()
        assert [u.type for u in taken_back.updates] == [INVALIDATE]
        assert peer.refusal().reason == "STORE_FULL"
        assert not peer.table
    assert client.space("vm") == before
    assert server.restart().space("vm") == before
    with RelayPeer(server.client, space="vm", device="net0") as peer:
        peer.attach()
    server.stop()


def test_a_relay_s_end_that_cannot_be_stored(folder):
    server = start_with_a_mapping(folder)
    client = server.restart(environment=full_disk(3, TRIES_WITH_RESERVE))
    with RelayPeer(client, space="vm", device="net0") as peer:
        peer.attach()
        before = client.space("vm")
        detaching = client.future("DetachDevice", space="vm", device="net0")
        peer.apply()
        assert not peer.table
        assert peer.apply().reset
        with pytest.raises(grpc.RpcError) as raised:
            detaching.result()
        assert Refusal.from_rpc(raised.value).reason == "STORE_FULL"
        assert client.space("vm") == before
        assert peer.table == table_of(client.mappings("vm"))
        detaching = client.future("DetachDevice", space="vm", device="net0")
        peer.apply()
        detaching.result()
        assert peer.end() is None
    server.stop()


def test_a_relay_s_that_began_before_a_restart_and_cannot_be_stored(folder):
    server = start_with_a_mapping(folder)
    client = server.client
    with RelayPeer(client, space="vm", device="net0") as peer:
        peer.hello()
        peer.batch()
        server.kill()
    client = server.start(environment=full_disk(tries=TRIES_WITH_RESERVE))
    before = client.space("vm")
    assert before.attachments[0].state == DISCONNECTED
    with RelayPeer(client, space="vm", device="net0") as peer:
        peer.hello()
        peer.apply()
        wait_until(lambda: client.space("vm").attachments[0].state == FAILED, "it is FAILED")
        assert client.space("vm").revision == before.revision
        resetting = client.future("ResetDevice", device="net0")
        peer.apply()
        resetting.result()
        assert client.space("vm").revision == before.revision + 1
        assert peer.wait_live().applied_revision == before.revision + 1
    server.stop()
