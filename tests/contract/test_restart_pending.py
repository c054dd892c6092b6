"""What was on its way to a device, or to the disk, when the server was killed."""

import grpc
import pytest

from daemon import Daemon
from device_table import device_log, replay, table_of_mappings
from harness import HVA, MIB, PAGE, refused, spec, state_of
from restarting import (Server, TRIES_WITH_RESERVE, folder,  # noqa: F401 pylint: disable=unused-import
                        full_disk)
from watching import Watcher, kinds


def test_a_full_disk_fails_the_request_and_nothing_else(folder):
    server = Server(folder)
    client = server.client
    client.CreateSpace(space="vm")
    client.map("vm", HVA, PAGE, gpa=0)
    server.kill()
    client = server.start(environment=full_disk(2))
    client.map("vm", HVA, PAGE, gpa=MIB)
    before = state_of(client, "vm")
    refused("STORE_FULL", client.map, "vm", HVA, PAGE, gpa=2 * MIB)
    assert state_of(client, "vm") == before
    mapping = client.map("vm", HVA, PAGE, gpa=2 * MIB)
    before = state_of(client, "vm")
    assert mapping in before[1]
    assert state_of(server.restart(), "vm") == before
    server.client.close()
    server.daemon.stop()


@pytest.mark.parametrize("fault", ["space.stored:kill:2", "space.refused:kill:1"])
def test_a_change_under_way_that_a_device_refuses_at_the_start_is_taken_back(folder, fault):
    server = Server(folder)
    client = server.client
    # What it is given when it is mapped again: one UPDATE more than before.
    client.OpenDevice(device="sim", simulated=dict(
        faults=[dict(op="OP_UPDATE", nth=3, os_errno=5)]))
    client.CreateSpace(space="vm", attachments=[dict(device="sim")])
    client.map("vm", HVA, PAGE, gpa=0)
    server.kill()
    client = server.start(environment={"IOVAD_FAULT": fault})
    client.map("vm", HVA, PAGE, gpa=MIB)
    before = state_of(client, "vm")
    with pytest.raises(grpc.RpcError):
        client.map("vm", HVA, PAGE, gpa=2 * MIB)
    server.daemon.wait()
    client.close()
    client = server.start()
    after = state_of(client, "vm")
    assert (after[1], after[2]) == (before[1], before[2])
    assert after[0].revision == before[0].revision
    assert after[0].attachments[0].state == 1
    client.close()
    server.daemon.stop()


def test_what_was_acknowledged_stays_where_a_device_refuses_it_at_the_start(folder):
    server = Server(folder)
    client = server.client
    # Refuses the second UPDATE that it gets, in each run.
    client.OpenDevice(device="sim", simulated=dict(
        faults=[dict(op="OP_UPDATE", nth=2, os_errno=5)]))
    client.CreateSpace(space="vm", attachments=[dict(device="sim")])
    client.map("vm", HVA, PAGE, gpa=0)
    refused("DEVICE_ERROR", client.map, "vm", HVA, PAGE, gpa=MIB)
    client.Map(space="vm", mapping=spec(HVA, PAGE, gpa=MIB), request_id="again")
    before = state_of(client, "vm")
    with Watcher(client, "vm", start_revision=2) as watcher:
        seen = [watcher.change() for _ in range(2)]
    client = server.restart()
    after = state_of(client, "vm")
    assert (after[1], after[0].revision) == (before[1], before[0].revision)
    assert after[0].attachments[0].state == 4
    with Watcher(client, "vm", start_revision=2) as watcher:
        assert [watcher.change() for _ in range(2)] == seen
    assert client.Map(space="vm", mapping=spec(HVA, PAGE, gpa=MIB),
                      request_id="again").mapping == before[1][1]
    client.ResetDevice(device="sim")
    tables = replay(device_log(client, "sim"), strict=False)
    assert tables[0] == table_of_mappings(before[1])
    server.stop()


def test_a_change_that_died_before_its_answer_is_there_for_good_once_it_is_settled(folder):
    server = Server(folder)
    client = server.client
    client.OpenDevice(device="sim", simulated=dict(
        faults=[dict(op="OP_UPDATE", nth=3, os_errno=5)]))
    client.CreateSpace(space="vm", attachments=[dict(device="sim")])
    client.map("vm", HVA, PAGE, gpa=0)
    server.kill()
    client = server.start(environment={"IOVAD_FAULT": "space.settled:kill:2"})
    client.map("vm", HVA, PAGE, gpa=MIB)
    refused("DEVICE_ERROR", client.map, "vm", HVA, PAGE, gpa=2 * MIB)
    request = dict(space="vm", mapping=spec(HVA, PAGE, gpa=2 * MIB), request_id="cut off")
    with pytest.raises(grpc.RpcError):
        client.Map(**request)
    server.daemon.wait()
    client.close()
    client = server.start()
    found = client.mappings("vm")
    assert len(found) == 3
    assert client.GetSpace(space="vm").space.attachments[0].state == 4
    assert client.Map(**request).mapping == found[2]
    server.stop()


def test_what_is_pending_at_the_start_is_settled_before_anybody_sees_it(folder):
    server = Server(folder)
    client = server.client
    client.OpenDevice(device="sim", simulated={})
    client.CreateSpace(space="vm", attachments=[dict(device="sim")])
    server.kill()
    client = server.start(environment={"IOVAD_FAULT": "space.pushed:kill:1"})
    with pytest.raises(grpc.RpcError):
        client.map("vm", HVA, PAGE, gpa=0)
    server.daemon.wait()
    client.close()
    full = Daemon(folder=folder, keeps=True,
                  environment={"IOVAD_FAULT": "store.before_commit:error:28"})
    with pytest.raises(AssertionError, match="space .vm.: the change in flight cannot be settled: no room"):
        full.start()
    client = server.start()
    assert len(client.mappings("vm")) == 1
    server.stop()


def test_a_change_that_cannot_be_settled_is_taken_back(folder):
    server = Server(folder)
    client = server.client
    client.OpenDevice(device="sim", simulated={})
    client.CreateSpace(space="vm", attachments=[dict(device="sim")])
    client.map("vm", HVA, PAGE, gpa=0)
    server.kill()
    # The first commit stores the change, the second is to settle it.
    client = server.start(environment=full_disk(2, TRIES_WITH_RESERVE))
    before = state_of(client, "vm")
    with Watcher(client, "vm", start_revision=before[0].revision + 1) as watcher:
        refused("STORE_FULL", client.map, "vm", HVA, PAGE, gpa=MIB)
        assert state_of(client, "vm") == before
        tables = replay(device_log(client, "sim"), strict=False)
        assert tables[0] == table_of_mappings(before[1])
        mapping = client.map("vm", HVA, PAGE, gpa=2 * MIB)
        events, revision = watcher.change()
        assert (kinds(events), revision) == (["mapped"], mapping.revision)
        assert events[0].mapped == mapping
    before = state_of(client, "vm")
    assert state_of(server.restart(), "vm") == before
    server.stop()


@pytest.mark.parametrize("dies", [False, True])
def test_an_undo_that_cannot_be_stored_is_owed(folder, dies):
    server = Server(folder)
    client = server.client
    # The second update of each run.
    client.OpenDevice(device="sim", simulated=dict(
        faults=[dict(op="OP_UPDATE", nth=2, os_errno=5)]))
    client.CreateSpace(space="vm", attachments=[dict(device="sim")])
    client.map("vm", HVA, PAGE, gpa=0)
    server.kill()
    # The first commit stores the change, the second is to take it out again.
    client = server.start(environment=full_disk(2, TRIES_WITH_RESERVE))
    before = state_of(client, "vm")
    refused("DEVICE_ERROR", client.map, "vm", HVA, PAGE, gpa=MIB)
    assert "could not be taken out of the store" in server.daemon.log()
    assert state_of(client, "vm") == before
    if dies:
        client = server.restart()
        assert state_of(client, "vm") == before
    # Paid before it.
    client.map("vm", HVA, PAGE, gpa=2 * MIB)
    after = state_of(client, "vm")
    assert len(after[1]) == 2
    tables = replay(device_log(client, "sim"), strict=False)
    assert tables[0] == table_of_mappings(after[1])
    # Which would refuse again.
    client.DetachDevice(space="vm", device="sim")
    after = state_of(client, "vm")
    client = server.restart()
    assert state_of(client, "vm") == after
    server.stop()
