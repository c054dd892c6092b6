"""A device that ran on while the server was away: its space can be read, and changed again
after ResetDevice."""

import pytest

from device_table import device_log, replay, table_of_mappings
from harness import HVA, MIB, PAGE, refused, unchanged
from restarting import folder, server  # noqa: F401 pylint: disable=unused-import
from stubs import types_pb2 as types
from watching import Watcher

LIVE, FROZEN = types.ATTACHMENT_STATE_LIVE, types.ATTACHMENT_STATE_FROZEN


@pytest.fixture
def client(server):  # noqa: F811
    """A space 'vm' with a mapping on a device 'net0', which runs on."""
    client = server.client
    client.OpenDevice(device="net0", simulated=dict(as_num=2, group_num=2, outlives_server=True))
    client.CreateSpace(space="vm", attachments=[dict(device="net0", asid=1, groups=[1])])
    client.map("vm", HVA, MIB, gpa=0)
    return client


@pytest.fixture
def frozen(server, client):  # noqa: F811
    """The same after a restart."""
    del client
    return server.restart()


def state(client, space="vm"):
    """That of the one attachment."""
    return client.space(space).attachments[0].state


def table(client, device="net0", asid=1):
    """What the device has been told since it was opened anew."""
    return replay(device_log(client, device), strict=False).get(asid, {})


def test_it_is_readable_and_not_writable(frozen):
    attachment = frozen.space("vm").attachments[0]
    assert attachment.state == FROZEN and "net0" in attachment.last_error
    assert attachment.applied_revision == frozen.space("vm").revision
    assert [(a.space, a.state) for a in
            frozen.GetDevice(device="net0").device.attachments] == [("vm", FROZEN)]
    assert len(frozen.mappings("vm")) == 1 and frozen.translate("vm", gpa=0).segments
    with unchanged(frozen, "vm"):
        for call, fields in (
                (frozen.map, dict(hva=HVA, size=PAGE, gpa=4 * MIB)),
                (frozen.unmap, dict(at_gpa=0)),
                (frozen.AllocSVQ, dict(queues=[dict(queue_index=0, queue_size=64)]))):
            refusal = refused("SPACE_FROZEN", call, space="vm", **fields)
            assert refusal.detail.device == "net0"
            for name in ("'vm'", "'net0'", "ResetDevice"):
                assert name in refusal.message
    assert not table(frozen)


def test_reset_device_lifts_it(server, frozen):  # noqa: F811
    with Watcher(frozen, "vm") as watcher:
        assert [e.attached.state for e in watcher.snapshot()[0] if e.HasField("attached")] == \
            [FROZEN]
        assert frozen.ResetDevice(device="net0").device.attachments[0].state == LIVE
        states = []
        while LIVE not in states:
            states += [e.attachment_state.state for e in watcher.next().events]
    assert state(frozen) == LIVE
    assert not frozen.space("vm").attachments[0].last_error
    assert table(frozen) == table_of_mappings(frozen.mappings("vm"))
    frozen.map("vm", HVA, MIB, gpa=MIB)
    frozen.unmap("vm", at_gpa=0)
    assert table(frozen) == table_of_mappings(frozen.mappings("vm"))
    # And freezes again with the next restart.
    assert state(server.restart()) == FROZEN


def test_it_stays_so_until_then(server, frozen):  # noqa: F811
    before = frozen.mappings("vm"), frozen.space("vm")
    for _ in range(2):
        frozen = server.restart()
        assert (frozen.mappings("vm"), frozen.space("vm")) == before


def test_detaching_ends_it(frozen):
    frozen.DetachDevice(space="vm", device="net0", asid=1)
    assert not frozen.space("vm").attachments
    frozen.map("vm", HVA, MIB, gpa=MIB)
    # It was opened anew, and can be used at once.
    frozen.AttachDevice(space="vm", device="net0", asid=0)
    assert table(frozen, asid=0) == table_of_mappings(frozen.mappings("vm"))
    frozen.DetachDevice(space="vm", device="net0", asid=0)
    frozen.CloseDevice(device="net0")


def test_deleting_the_space_ends_it(frozen):
    refused("IN_USE", frozen.CloseDevice, device="net0")
    refused("SPACE_NOT_EMPTY", frozen.DeleteSpace, space="vm")
    frozen.DeleteSpace(space="vm", force=True)
    frozen.CreateSpace(space="vm", attachments=[dict(device="net0")])
    frozen.map("vm", HVA, PAGE, gpa=0)
    assert state(frozen) == LIVE


def test_no_other_space_is_attached_to_it(frozen):
    frozen.CreateSpace(space="other")
    with unchanged(frozen, "other"):
        refusal = refused("SPACE_FROZEN", frozen.AttachDevice, space="other", device="net0")
    assert "'other'" in refusal.message and "ResetDevice" in refusal.message
    refused("SPACE_FROZEN", frozen.CreateSpace, space="third",
            attachments=[dict(device="net0")])
    frozen.ResetDevice(device="net0")
    frozen.AttachDevice(space="other", device="net0")


def test_its_other_spaces(server, client):  # noqa: F811
    client.CreateSpace(space="control", attachments=[dict(device="net0", asid=0)])
    client.map("control", HVA, PAGE, gpa=0)
    client.CreateSpace(space="ledger")
    client = server.restart()
    assert state(client) == state(client, "control") == FROZEN
    client.map("ledger", HVA, PAGE, gpa=0)
    # Detached from one, it is stopped for the other as well, which does not know it.
    client.DetachDevice(space="control", device="net0", asid=0)
    assert "opened anew" in refused("SPACE_FROZEN", client.unmap, "vm", at_gpa=0).message
    client.ResetDevice(device="net0")
    assert table(client) == table_of_mappings(client.mappings("vm"))
    client.unmap("vm", at_gpa=0)


def test_another_device_of_the_space_is_brought_up_to_date(server, client):  # noqa: F811
    client.OpenDevice(device="net1", simulated={})
    client.AttachDevice(space="vm", device="net1")
    client = server.restart()
    assert [a.state for a in client.space("vm").attachments] == [FROZEN, LIVE]
    assert table(client, "net1", 0) == table_of_mappings(client.mappings("vm"))
    refused("SPACE_FROZEN", client.map, "vm", HVA, PAGE, gpa=4 * MIB)
    client.ResetDevice(device="net0")
    client.map("vm", HVA, PAGE, gpa=4 * MIB)
    for device, asid in (("net0", 1), ("net1", 0)):
        assert table(client, device, asid) == table_of_mappings(client.mappings("vm"))


def test_a_device_that_no_space_follows_is_opened_anew(server, client):  # noqa: F811
    client.DetachDevice(space="vm", device="net0", asid=1)
    client = server.restart()
    client.AttachDevice(space="vm", device="net0")
    assert state(client) == LIVE


def test_what_it_refuses_then_leaves_it_failed(server, client):  # noqa: F811
    client.OpenDevice(device="bad", simulated=dict(
        outlives_server=True, faults=[dict(op="OP_UPDATE", nth=2, os_errno=5)]))
    client.CreateSpace(space="sad", attachments=[dict(device="bad")])
    client.map("sad", HVA, PAGE, gpa=0)
    server.restart()
    client = server.client
    client.ResetDevice(device="bad")
    refused("DEVICE_ERROR", client.map, "sad", HVA, PAGE, gpa=MIB)
    client.map("sad", HVA, PAGE, gpa=MIB)
    client = server.restart()
    refused("DEVICE_ERROR", client.ResetDevice, device="bad")
    assert state(client, "sad") == types.ATTACHMENT_STATE_FAILED
    client.ResetDevice(device="bad")
    assert state(client, "sad") == LIVE
    assert table(client, "bad", 0) == table_of_mappings(client.mappings("sad"))
