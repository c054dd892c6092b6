"""What survives the server: killed, started again on the same state, and everything is there."""

import os

from daemon import Daemon, run_iovad
from device_table import device_log, replay, table_of_mappings
from harness import HVA, MIB, PAGE, Client, ranges, refused, spec
from restarting import Server, folder, server  # noqa: F401 pylint: disable=unused-import
from watching import Watcher, kinds


def everything(client, space):
    """A space as clients see it."""
    return (client.GetSpace(space=space).space, client.mappings(space),
            list(client.ListSVQs(space=space).svqs))


def test_a_space_comes_back_as_it_was(server):
    client = server.client
    client.CreateSpace(space="vm", reserved=ranges((0xfee00000, 0xfeefffff), (0, 0xfff)),
                       placement="PLACEMENT_IDENTITY", max_mappings=100,
                       iova_range=dict(first=0, last=(1 << 40) - 1), labels={"tenant": "a"})
    client.map("vm", HVA, 2 * MIB, gpa=MIB, label="ram")
    client.map("vm", HVA, MIB, gpa=16 * MIB)
    client.unmap("vm", at_gpa=MIB)
    client.AllocSVQ(space="vm", queues=[
        dict(queue_index=0, queue_size=64, format="RING_FORMAT_PACKED", desc_hva=HVA + 32 * MIB,
             driver_hva=HVA + 33 * MIB, device_hva=HVA + 34 * MIB),
        dict(queue_index=1, queue_size=64, control=True, driver_hva=HVA + 35 * MIB,
             device_hva=HVA + 36 * MIB, control_out_hva=HVA + 37 * MIB,
             control_in_hva=HVA + 38 * MIB)])
    before = everything(client, "vm")
    client = server.restart()
    assert everything(client, "vm") == before
    # It goes on where it was: no id and no revision comes twice.
    mapping = client.map("vm", HVA, PAGE, gpa=64 * MIB)
    assert mapping.mapping_id > max(m.mapping_id for m in before[1])
    assert mapping.revision == before[0].revision + 1
    refused("IOVA_OVERLAP", client.map, "vm", HVA, PAGE, gpa=80 * MIB, iova=16 * MIB)
    client.FreeSVQ(space="vm")
    assert not client.ListSVQs(space="vm").svqs
    before = everything(client, "vm")
    assert everything(server.restart(), "vm") == before


def test_labels_are_kept(server):
    client = server.client
    client.CreateSpace(space="vm", labels={"a": "1", "b": "2"})
    client.map("vm", HVA, PAGE, gpa=0)
    client.UpdateSpace(space="vm", labels={"b": "3", "c": "4"}, remove_labels=["a"])
    before = everything(client, "vm")
    client = server.restart()
    assert everything(client, "vm") == before
    assert before[0].labels == {"b": "3", "c": "4"}
    # A change of mappings writes them too.
    client.map("vm", HVA, PAGE, gpa=MIB)
    assert server.restart().GetSpace(space="vm").space.labels == {"b": "3", "c": "4"}


def test_what_was_deleted_stays_so(server):
    client = server.client
    for name in ("a", "b"):
        client.CreateSpace(space=name)
        client.map(name, HVA, PAGE, gpa=0)
    client.DeleteSpace(space="a", force=True, request_id="delete")
    client.OpenDevice(device="sim", simulated={})
    client.CloseDevice(device="sim")
    client = server.restart()
    assert [s.name for s in client.ListSpaces().spaces] == ["b"]
    assert not client.ListDevices().devices
    client.DeleteSpace(space="a", force=True, request_id="delete")
    client.CreateSpace(space="a")
    assert client.mappings("a") == []


def test_devices_are_opened_again_and_mapped(server):
    client = server.client
    client.OpenDevice(device="sim", simulated=dict(as_num=2, group_num=2))
    client.CreateSpace(space="vm", attachments=[dict(device="sim", asid=1)])
    client.CreateSpace(space="ledger")
    client.map("vm", HVA, MIB, gpa=0)
    client.map("vm", HVA, MIB, gpa=MIB)
    client.AttachDevice(space="ledger", device="sim", asid=0)
    client.map("ledger", HVA, PAGE, gpa=0)
    client.DetachDevice(space="ledger", device="sim", asid=0)
    before = everything(client, "vm"), everything(client, "ledger")
    client = server.restart()
    assert (everything(client, "vm"), everything(client, "ledger")) == before
    tables = replay(device_log(client, "sim"), strict=False)
    assert tables[1] == table_of_mappings(client.mappings("vm"))
    assert not tables.get(0)
    client.unmap("vm", at_gpa=0)
    tables = replay(device_log(client, "sim"), strict=False)
    assert tables[1] == table_of_mappings(client.mappings("vm"))
    refused("DEVICE_BUSY", client.AttachDevice, space="ledger", device="sim", asid=1)


def test_a_device_that_refuses_at_the_start_leaves_its_attachment_failed(folder):
    server = Server(folder)
    # It refuses the third UPDATE that it gets: with the second mapping, when it is replayed.
    server.client.OpenDevice(device="sim", simulated=dict(
        faults=[dict(op="OP_UPDATE", nth=2, os_errno=5)]))
    server.client.CreateSpace(space="vm")
    server.client.map("vm", HVA, MIB, gpa=0)
    server.client.map("vm", HVA, MIB, gpa=MIB)
    refused("DEVICE_ERROR", server.client.AttachDevice, space="vm", device="sim", asid=0)
    server.client.AttachDevice(space="vm", device="sim", asid=0)
    client = server.restart()
    attachment = client.GetSpace(space="vm").space.attachments[0]
    assert attachment.state == 4 and "sim" in attachment.last_error
    refused("ATTACHMENT_FAILED", client.map, "vm", HVA, PAGE, gpa=8 * MIB)
    client.ResetDevice(device="sim")
    client.map("vm", HVA, PAGE, gpa=8 * MIB)
    client.close()
    server.daemon.stop()


def test_answers_are_given_again_byte_for_byte(server):
    client = server.client
    requests = [
        ("CreateSpace", dict(space="vm", labels={"b": "2", "a": "1"}, request_id="1")),
        ("Map", dict(space="vm", mapping=spec(HVA, MIB, gpa=0), request_id="2")),
        ("Update", dict(space="vm", ops=[dict(map=spec(HVA, MIB, gpa=MIB)),
                                         dict(unmap=dict(at_gpa=0))], request_id="3")),
        ("AllocSVQ", dict(space="vm", queues=[dict(queue_index=0, queue_size=16)],
                          request_id="4")),
        ("Unmap", dict(space="vm", target=dict(at_gpa=99 * MIB, allow_missing=True),
                       request_id="5")),
        ("OpenDevice", dict(device="sim", simulated={}, request_id="6")),
        ("AttachDevice", dict(space="vm", device="sim", asid=0, request_id="7")),
        ("FreeSVQ", dict(space="vm", request_id="8")),
        ("UpdateSpace", dict(space="vm", labels={"d": "4", "c": "3"}, remove_labels=["a"],
                             request_id="9")),
    ]
    first = [client.raw(rpc, **fields) for rpc, fields in requests]
    revision = client.GetSpace(space="vm").space.revision
    client = server.restart()
    assert [client.raw(rpc, **fields) for rpc, fields in requests] == first
    assert client.GetSpace(space="vm").space.revision == revision
    refused("REQUEST_ID_REUSED", client.Map, space="vm", mapping=spec(HVA, MIB, gpa=8 * MIB),
            request_id="2")
    refused("REQUEST_ID_REUSED", client.OpenDevice, device="other", simulated={}, request_id="6")


def test_a_watch_resumes_across_restarts(server):
    client = server.client
    client.CreateSpace(space="vm")
    client.map("vm", HVA, PAGE, gpa=0)
    client.OpenDevice(device="sim", simulated={})
    client.AttachDevice(space="vm", device="sim", asid=0)
    client.map("vm", HVA, PAGE, gpa=MIB)
    client = server.restart()
    client.unmap("vm", at_gpa=0)
    with Watcher(client, "vm", start_revision=2) as watcher:
        seen = [watcher.change() for _ in range(4)]
    assert [revision for _, revision in seen] == [2, 3, 4, 5]
    assert [kinds(events) for events, _ in seen] == [["mapped"], ["attached"], ["mapped"],
                                                     ["unmapped"]]


def test_the_state_is_one_process_s(server, folder):
    second = run_iovad("--socket", os.path.join(folder, "other.sock"),
                       "--state-dir", os.path.join(folder, "state"))
    assert second.returncode == 1
    assert str(server.daemon.process.pid) in second.stderr


def test_ephemeral_keeps_nothing(folder):
    for _ in range(2):
        with Daemon(folder=folder, keeps=False) as daemon, Client(daemon.target) as client:
            client.CreateSpace(space="vm")
    assert not os.path.exists(os.path.join(folder, "state"))


def test_a_damaged_file_is_named_and_left_alone(folder):
    with Daemon(folder=folder, keeps=True) as daemon, Client(daemon.target) as client:
        client.CreateSpace(space="vm")
        for n in range(300):
            client.map("vm", HVA, PAGE, gpa=n * MIB, label="x" * 40)
    path = os.path.join(folder, "state", "iovad.mdb")
    with open(path, "rb+") as file:
        for page in range(2 * PAGE, os.path.getsize(path), PAGE):
            file.seek(page + 100)
            file.write(os.urandom(200))
    with open(path, "rb") as file:
        damaged = file.read()
    done = run_iovad("--socket", os.path.join(folder, "s"), "--state-dir",
                     os.path.join(folder, "state"))
    assert done.returncode == 1
    assert path in done.stderr and "--recover" in done.stderr
    with open(path, "rb") as file:
        assert file.read() == damaged


def test_recovering_saves_what_is_intact(folder):
    with Daemon(folder=folder, keeps=True) as daemon, Client(daemon.target) as client:
        for space in ("one", "two", "three"):
            client.CreateSpace(space=space)
            client.update(space, *[spec(HVA + n * PAGE, PAGE, gpa=n * MIB, label="x" * 60)
                                   for n in range(400)])
            client.AllocSVQ(space=space, queues=[dict(queue_index=n, queue_size=64)
                                                 for n in range(40)])
        before = {space: client.mappings(space) for space in ("one", "two", "three")}
    state = os.path.join(folder, "state")
    path = os.path.join(state, "iovad.mdb")
    with open(path, "rb") as file:
        content = file.read()
    # A page of mappings; the first ones that hold any may be free pages.
    for page in range(8 * PAGE, len(content), PAGE):
        if b"x" * 60 not in content[page:page + PAGE]:
            continue
        with open(path, "rb+") as file:
            file.seek(page)
            file.write(os.urandom(PAGE))
        done = run_iovad("--state-dir", state, "--recover")
        if done.returncode != 0:
            break
    assert done.returncode == 1, done.stdout + done.stderr
    assert "lost:" in done.stdout and "is kept as" in done.stdout
    with Daemon(folder=folder, keeps=True) as daemon, Client(daemon.target) as client:
        found = {s.name: client.mappings(s.name) for s in client.ListSpaces().spaces}
        assert any(found.values())
        for space, mappings in found.items():
            assert all(m in before[space] for m in mappings)
            client.map(space, HVA, PAGE, gpa=1 << 40)
            client.FreeSVQ(space=space)
    assert run_iovad("--state-dir", state, "--recover").returncode == 0
