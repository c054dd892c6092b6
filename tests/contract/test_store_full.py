"""A store that takes no more: the request fails, and nothing has changed."""

import os

import pytest

from device_table import device_log, replay, table_of_mappings
from harness import HVA, MIB, PAGE, refused, spec
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
