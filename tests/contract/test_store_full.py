"""A store that takes no more: the request fails, and nothing has changed."""

import os
import subprocess

import grpc
import pytest

from device_table import device_log, replay, table_of_mappings
from harness import HVA, MIB, PAGE, Refusal, refused, spec
from migrating import bind, export, header, import_
from restarting import (Server, TRIES, TRIES_WITH_RESERVE, folder,  # noqa: F401 pylint: disable=unused-import
                        full_disk)

# What each RPC is asked, after `begin`, and whether it makes room.
REQUESTS = {
    "Map": (dict(space="vm", mapping=spec(HVA, PAGE, gpa=64 * MIB)), False),
    "Unmap": (dict(space="vm", target=dict(at_gpa=0)), False),
    "Update": (dict(space="vm", ops=[dict(unmap=dict(at_gpa=0)),
                                     dict(map=spec(HVA, PAGE, gpa=64 * MIB))]), False),
    "AllocSVQ": (dict(space="vm", queues=[dict(queue_index=1, queue_size=16)]), False),
    "FreeSVQ": (dict(space="vm"), False),
    "UpdateSpace": (dict(space="vm", labels={"b": "2"}, remove_labels=["a"]), False),
    "AttachDevice": (dict(space="vm", device="sim", asid=1, groups=[1]), False),
    "DetachDevice": (dict(space="vm", device="sim"), True),
    "RegisterMemory": (dict(space="vm", hva=HVA + 64 * MIB, size=MIB), False),
    "UnregisterMemory": (dict(space="vm", memory_id=1), True),
    "CreateSpace": (dict(space="new", attachments=[dict(device="sim", asid=1, groups=[1])]), False),
    "DeleteSpace": (dict(space="vm", force=True), True),
    "OpenDevice": (dict(device="new", simulated={}), False),
    "CloseDevice": (dict(device="idle"), True),
}


def begin(folder):
    """A server with something of everything."""
    with open(os.path.join(folder, "ram"), "wb") as made:
        made.truncate(4 * MIB)
    server = Server(folder, "--memory-paths", folder)
    client = server.client
    client.OpenDevice(device="sim", simulated=dict(as_num=2, group_num=2))
    client.OpenDevice(device="idle", simulated={})
    client.CreateSpace(space="vm", labels={"a": "1"}, attachments=[dict(device="sim")])
    client.map("vm", HVA, PAGE, gpa=0)
    client.map("vm", HVA, PAGE, gpa=MIB)
    client.RegisterMemory(space="vm", hva=HVA + 16 * MIB, size=MIB,
                          path=os.path.join(folder, "ram"))
    client.AllocSVQ(space="vm", queues=[dict(queue_index=0, queue_size=16)])
    return server


def everything(client):
    """All that there is, as clients see it."""
    devices = list(client.ListDevices().devices)
    for device in devices:
        # How much was done is no state.
        for counter in ("updates_pushed", "batches_pushed", "push_errors"):
            device.ClearField(counter)
    spaces = list(client.ListSpaces().spaces)
    memories = {s.name: list(client.ListMemory(space=s.name).memory) for s in spaces}
    for memory in sum(memories.values(), []):
        if not memory.path:
            memory.ClearField("state")  # MISSING after a restart
    return (spaces, devices, memories,
            [(client.mappings(s.name), list(client.ListSVQs(space=s.name).svqs),
              client.Dump(space=s.name).text) for s in spaces])


def check_tables(client):
    """Every device has what its spaces map."""
    for device in client.ListDevices().devices:
        tables = replay(device_log(client, device.name), strict=False)
        for asid in range(device.as_num):
            spaces = [a.space for a in device.attachments if a.asid == asid]
            expected = table_of_mappings(client.mappings(spaces[0])) if spaces else {}
            assert tables.get(asid, {}) == expected, f"{device.name}, ASID {asid}"


@pytest.mark.parametrize("rpc", REQUESTS)
def test_a_request_that_cannot_be_stored_changes_nothing(folder, rpc):
    fields, frees = REQUESTS[rpc]
    fields = dict(fields, request_id="it")
    if rpc == "RegisterMemory":
        fields["path"] = os.path.join(folder, "ram")
    server = begin(folder)
    client = server.restart(environment=full_disk(tries=TRIES_WITH_RESERVE if frees else TRIES))
    before = everything(client)
    refused("STORE_FULL", getattr(client, rpc), **fields)
    assert everything(client) == before
    check_tables(client)
    # There is room again.
    answer = client.raw(rpc, **fields)
    after = everything(client)
    assert after != before
    check_tables(client)
    client = server.restart()
    assert everything(client) == after
    check_tables(client)
    assert client.raw(rpc, **fields) == answer
    assert everything(client) == after
    server.stop()


def test_what_was_done_with_a_device_is_told_where_it_cannot_be_stored(folder):
    server = begin(folder)
    client = server.restart(environment=full_disk(tries=TRIES_WITH_RESERVE))
    first = client.raw("ResetDevice", device="sim", request_id="reset")
    assert "an answer is not kept" in server.daemon.log()
    # Repeats agree as long as this server lives.
    client.ResetDevice(device="sim")
    assert client.raw("ResetDevice", device="sim", request_id="reset") == first
    server.stop()


@pytest.mark.parametrize("commit, tries", [
    pytest.param(1, TRIES, id="mappings"), pytest.param(2, TRIES_WITH_RESERVE, id="settling them"),
    pytest.param(3, TRIES, id="queues"), pytest.param(5, TRIES, id="the end")])
def test_an_import_that_cannot_be_stored_leaves_nothing(folder, commit, tries):
    server = begin(folder)
    client = server.restart(environment=full_disk(commit, tries))
    records = export(client, "vm")
    head = header("new", request_id="import", bindings=[bind(0, PAGE, HVA), bind(MIB, PAGE, HVA)],
                  attachments=[dict(device="idle")])
    before = everything(client)
    refused("STORE_FULL", import_, client, head, records)
    assert everything(client) == before
    check_tables(client)
    result = import_(client, head, records)
    assert result.space == client.space("new")
    check_tables(client)
    after = everything(client)
    assert everything(server.restart()) == after
    server.stop()


@pytest.fixture
def tiny_disk(folder):
    """A file system of 16 MiB for the state; fills it up."""
    path = os.path.join(folder, "state")
    os.mkdir(path)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path],
                             capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("may not mount a small tmpfs")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(path):
    """Leaves no room on the disk."""
    with open(os.path.join(path, "others"), "wb") as others:
        size = 1 << 20
        while size:
            try:
                os.write(others.fileno(), b"x" * size)
            except OSError:
                size //= 2


def test_a_disk_that_is_full(folder, tiny_disk):
    server = begin(folder)
    client = server.client
    client.CreateSpace(space="filler")
    fill(tiny_disk)

    def map_until_refused():
        for n in range(100_000):
            try:
                client.update("filler", *[spec(HVA, PAGE, gpa=(n * 100 + k) * MIB, label="x" * 64)
                                          for k in range(100)])
            except grpc.RpcError as error:
                assert Refusal.from_rpc(error).reason == "STORE_FULL", error
                return
        raise AssertionError("the disk is never full")

    map_until_refused()
    makes_room = [rpc for rpc, (_, frees) in REQUESTS.items() if frees and rpc != "DeleteSpace"]
    for rpc in [rpc for rpc, (_, frees) in REQUESTS.items() if not frees] + makes_room:
        fields = REQUESTS[rpc][0]
        if rpc == "RegisterMemory":
            fields = dict(fields, path=os.path.join(folder, "ram"))
        before = everything(client)
        try:
            getattr(client, rpc)(**fields)
        except grpc.RpcError as error:
            # A small one may find room that is left in a page.
            assert Refusal.from_rpc(error).reason == "STORE_FULL", error
            assert rpc not in makes_room, error
            assert everything(client) == before
        check_tables(client)
    before = everything(client)
    # It starts on a full disk, too.
    client = server.restart()
    assert everything(client) == before
    client.DeleteSpace(space="vm", force=True)
    client.DeleteSpace(space="filler", force=True)
    os.remove(os.path.join(tiny_disk, "others"))
    client.CreateSpace(space="vm")
    client.map("vm", HVA, PAGE, gpa=0)
    before = everything(client)
    assert everything(server.restart()) == before
    server.stop()
