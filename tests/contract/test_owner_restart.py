"""Spaces that are tied to a process, and a server that is killed and started again."""

import time

import grpc
import pytest

from daemon import scaled, wait_until
from device_table import device_log, replay
from harness import HVA, MIB, PAGE, refused
from owner_process import OWNER_PROCESS, PERMANENT, OwnerProcess
from restarting import (TRIES_WITH_RESERVE, folder, full_disk,  # noqa: F401 pylint: disable=unused-import
                        server)
from test_owner_process import LONG, SHORT, gone, is_there, moment, removed
from watching import seconds


@pytest.fixture
def owner(server):
    """A process."""
    with OwnerProcess(server.client) as process:
        yield process


@pytest.fixture
def other(server):
    """Another one."""
    with OwnerProcess(server.client) as process:
        yield process


def make(server, owner, name="vm", grace=SHORT, **fields):
    """A space of the owner's, with something in it."""
    client = server.client
    client.CreateSpace(space=name, lifetime=OWNER_PROCESS, grace=seconds(grace),
                       owner_handle=owner.handle(), **fields)
    client.map(name, HVA, MIB, gpa=0)
    client.AllocSVQ(space=name, queues=[dict(queue_index=0, queue_size=16)])
    return client.space(name)


def test_it_is_found_again(server, owner, other):
    before = make(server, owner, grace=0)
    server.client.CreateSpace(space="noted", owner_handle=other.handle())
    noted = server.client.space("noted")
    client = server.restart()
    assert client.space("vm") == before and client.space("noted") == noted
    assert noted.lifetime == PERMANENT and noted.owner_process.pid == other.pid
    # And its end is noticed.
    other.kill()
    gone(client, "noted")
    owner.kill()
    removed(client, "vm")
    client = server.restart()
    assert [space.name for space in client.ListSpaces().spaces] == ["noted"]
    assert not client.space("noted").HasField("remove_time")


def test_who_executes_is_the_same(server, owner):
    make(server, owner, grace=0)
    owner.execute()
    client = server.restart()
    client.map("vm", HVA, PAGE, gpa=4 * MIB)
    owner.kill()
    removed(client, "vm")


@pytest.mark.parametrize("end", ["kill", "bury"])
def test_it_ended_while_no_server_ran(server, owner, end):
    before = make(server, owner)
    server.kill()
    getattr(owner, end)()
    time_of_start, since = time.time(), time.monotonic()
    client = server.start()
    found = gone(client, "vm")
    # The whole grace time begins with the server.
    assert moment(found.owner_gone_time) >= time_of_start - 0.1
    assert moment(found.remove_time) >= time_of_start + scaled(SHORT) - 0.1
    for field in ("owner_gone_time", "remove_time"):
        found.ClearField(field)
    assert found == before
    removed(client, "vm")
    assert time.monotonic() - since >= scaled(SHORT)
    assert not server.restart().ListSpaces().spaces


def test_it_ended_before_the_server_did(server, owner):
    make(server, owner, grace=LONG)
    make(server, owner, name="short")
    owner.bury()
    first = gone(server.client, "vm")
    # It is seen before it is stored, but whatever is stored afterwards says so.
    server.client.UpdateSpace(space="vm", labels={"a": "b"})
    server.kill()
    time_of_start = time.time()
    client = server.start()
    second = gone(client, "vm")
    # When it ended is known still; the grace time begins anew.
    assert second.owner_gone_time == first.owner_gone_time
    assert moment(second.remove_time) >= time_of_start + scaled(LONG) - 0.1
    removed(client, "short")
    assert is_there(client, "vm")


def test_taken_over_after_the_restart(server, owner, other):
    before = make(server, owner, grace=LONG)
    server.kill()
    owner.bury()
    client = server.start()
    assert gone(client, "vm").HasField("remove_time")
    after = client.TransferSpace(space="vm", owner_handle=other.handle()).space
    assert after.owner_process.pid == other.pid
    assert not after.HasField("owner_gone_time") and not after.HasField("remove_time")
    assert after.uid == before.uid
    client = server.restart()
    assert client.space("vm") == after
    other.bury()
    assert gone(client, "vm").HasField("remove_time")


def test_a_transfer_is_repeated_after_a_restart(server, owner, other):
    make(server, owner)
    request = dict(space="vm", owner_handle=other.handle(), request_id="mine")
    first = server.client.raw("TransferSpace", **request)
    client = server.restart()
    assert client.raw("TransferSpace", **request) == first
    owner.kill()
    assert client.space("vm").owner_process.pid == other.pid
    assert not client.space("vm").HasField("owner_gone_time")


@pytest.mark.parametrize("point", ["store.before_commit", "store.after_commit"])
def test_a_transfer_that_a_kill_cut_off(server, owner, other, point):
    before = make(server, owner)
    client = server.restart(environment={"IOVAD_FAULT": f"{point}:kill:1"})
    request = dict(space="vm", owner_handle=other.handle(), request_id="mine")
    with pytest.raises(grpc.RpcError):
        client.TransferSpace(**request)
    client = server.restart()
    if point == "store.before_commit":
        assert client.space("vm") == before
        # Handles are gone with the server: it takes a new one.
        refused("HANDLE_NOT_FOUND", client.TransferSpace, **request)
        request["owner_handle"] = other.handle()
    assert client.TransferSpace(**request).space.owner_process.pid == other.pid
    assert client.space("vm").owner_process.pid == other.pid


def test_removed_when_the_device_is_mapped_again(server, owner):
    client = server.client
    client.OpenDevice(device="sim", simulated={})
    make(server, owner, grace=0, attachments=[dict(device="sim")])
    server.kill()
    owner.bury()
    client = server.start()
    removed(client, "vm")
    assert not replay(device_log(client, "sim")).get(0)
    client.CloseDevice(device="sim")


@pytest.mark.parametrize("fault, whole", [
    ("store.before_commit:kill:1", True),  # that the owner has ended
    ("store.after_commit:kill:1", True),
    ("store.before_commit:kill:2", True),  # that the space has
    ("store.after_commit:kill:2", False),
])
def test_killed_while_it_is_removed(server, owner, fault, whole):
    before = make(server, owner)
    mappings = server.client.mappings("vm")
    client = server.restart(environment={"IOVAD_FAULT": fault})
    before_end = client.space("vm")
    owner.bury()
    wait_until(lambda: server.daemon.process.poll() is not None, "the server dies")
    client = server.restart()
    # All of it is there, or nothing.
    assert is_there(client, "vm") == whole
    if whole:
        found = gone(client, "vm")
        assert client.mappings("vm") == mappings
        assert (found.revision, found.svq_count) == (before.revision, before.svq_count)
        assert found.owner_process == before_end.owner_process
    removed(client, "vm")
    client.CreateSpace(space="vm")
    assert not client.mappings("vm")


def test_a_full_disk_leaves_the_owner_as_it_was(server, owner, other):
    make(server, owner, grace=0)
    client = server.restart(environment=full_disk())
    before = client.space("vm")
    refused("STORE_FULL", client.TransferSpace, space="vm", owner_handle=other.handle())
    assert client.space("vm") == before
    # Whose end still counts; that of the other one does not.
    other.bury()
    client.map("vm", HVA, PAGE, gpa=4 * MIB)
    owner.kill()
    removed(client, "vm")


def test_a_removal_that_is_not_stored_is_tried_again(server, owner):
    client = server.client
    client.OpenDevice(device="sim", simulated={})
    make(server, owner, grace=0, attachments=[dict(device="sim")])
    # The first is that the owner has ended.
    client = server.restart(environment=full_disk(2, TRIES_WITH_RESERVE))
    before = replay(device_log(client, "sim"))[0]
    owner.kill()
    wait_until(lambda: server.daemon.log().count("cannot be removed") == 1, "a removal fails")
    # It goes on, with its device.
    assert replay(device_log(client, "sim"))[0] == before
    removed(client, "vm")
    assert not server.restart().ListSpaces().spaces


def test_an_end_in_order_does_not_wait_for_a_grace_time(server, owner):
    make(server, owner, grace=LONG)
    owner.kill()
    gone(server.client, "vm")
    server.stop()
    client = server.start()
    assert client.space("vm").HasField("remove_time")


def test_nothing_is_removed_for_nobody(server):
    """Spaces of no owner pass through all of this untouched."""
    server.client.CreateSpace(space="vm")
    client = server.restart()
    assert not client.space("vm").owner
    refused("MISSING_FIELD", client.TransferSpace, space="vm")
