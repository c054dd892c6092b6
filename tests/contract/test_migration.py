"""ExportSpace and ImportSpace: what is carried over, and what is refused."""

import fcntl
import os
import threading

import grpc
import pytest

from conftest import fresh_name
from daemon import Daemon, scaled, wait_until
from fd_socket import FdSocket
from harness import (FIRST_FIT, GIB, HVA, IDENTITY, MIB, PAGE, READ, TOP, Client,
                     Refusal, bounds, extent, ranges, refused, span, spec)
from migrating import (ANEW, KEEP, bind, checksum, export, export_stream, header, import_,
                       import_stream, mappings_of, messages, sealed)
from stubs import address_space_pb2 as api
from stubs import migration_pb2 as migration

RAM = 16 * MIB
ALIAS = 0xFEDA0000
# Where the importing host has the guest's memory.
THERE = 0x5000_0000_0000


@pytest.fixture
def guest(client, make_space):
    """A space with guest memory, an alias of a part of it, host-only memory and queues."""
    name = make_space("guest", labels={"vm": "1", "a": "b"}, max_mappings=1000)
    client.map(name, HVA, RAM, gpa=0, label="ram")
    client.map(name, HVA + 64 * MIB, RAM, READ, gpa=4 * GIB, label="rom")
    client.map(name, HVA + MIB, 8 * PAGE, gpa=ALIAS, label="smram")
    client.map(name, HVA + 128 * MIB, PAGE, label="host")
    client.AllocSVQ(space=name, queues=[dict(queue_index=0, queue_size=256),
                                        dict(queue_index=2, queue_size=64, control=True,
                                             format=api.RING_FORMAT_PACKED)])
    return name


def bindings():
    """Where the guest's memory goes, alias and all."""
    return [bind(4 * GIB, RAM, THERE + 64 * MIB), bind(ALIAS, 8 * PAGE, THERE + MIB),
            bind(0, RAM, THERE)]


def spaces(client):
    """The names of all spaces."""
    return {space.name for space in client.ListSpaces().spaces}


def refused_import(reason, client, first, records, together=100):
    """An import that has to be refused, and to leave nothing."""
    before = spaces(client)
    refusal = refused(reason, import_, client, first, records, together)
    assert spaces(client) == before
    return refusal


# ---- Export

def test_export_has_everything_in_order(client, guest):
    records = export(client, guest)
    assert [r.WhichOneof("record") for r in records] == (
        ["header"] + ["mapping"] * 4 + ["svq"] * 2 + ["trailer"])
    space = client.space(guest)
    first = records[0].header
    assert first.version == 1
    assert (first.space.name, first.space.uid) == (guest, space.uid)
    assert first.space.labels == {"vm": "1", "a": "b"}
    assert (first.space.placement, first.space.max_mappings) == (FIRST_FIT, 1000)
    assert first.space.requested_iova_range == space.requested_iova_range
    listed = [m for m in client.mappings(guest) if m.svq_id == 0]
    for mapping, live in zip(mappings_of(records), listed, strict=True):
        assert (mapping.iova, mapping.size, mapping.access, mapping.label) == (
            live.iova, live.size, live.access, live.label)
        assert mapping.HasField("gpa") == live.HasField("gpa") and mapping.gpa == live.gpa
    assert [(r.svq.queue_index, r.svq.queue_size, r.svq.control) for r in records[5:7]] == [
        (0, 256, False), (2, 64, True)]
    trailer = records[-1].trailer
    assert (trailer.mapping_count, trailer.svq_count) == (4, 2)
    assert trailer.revision == first.space.revision == space.revision
    assert trailer.crc32c == checksum(records[:-1])


def test_export_of_an_empty_space(client, space):
    records = export(client, space)
    assert [r.WhichOneof("record") for r in records] == ["header", "trailer"]
    name = fresh_name("there")
    assert import_(client, header(name), records).space.mapping_count == 0


def test_export_tells_no_host_address(client, guest):
    """None of the HVAs' bytes is in it, in any order that protobuf writes numbers in."""
    exported = b"".join(r.SerializeToString() for r in export(client, guest))
    for mapping in client.mappings(guest):
        if mapping.hva < HVA:
            continue
        for hva in (mapping.hva, mapping.hva + mapping.size - 1):
            varint = api.SvqSpec(desc_hva=hva).SerializeToString()[1:]
            assert varint not in exported and hva.to_bytes(8, "little") not in exported


def test_export_says_who_shares_memory(client, guest):
    ram, rom, alias, host = [m for label in ("ram", "rom", "smram", "host")
                             for m in mappings_of(export(client, guest)) if m.label == label]
    assert ram.backing == alias.backing != 0
    assert alias.backing_offset - ram.backing_offset == MIB
    assert rom.backing == host.backing == 0
    assert all(m.memory_label == "" and m.offset == 0 for m in (ram, rom, alias, host))


def test_export_names_registered_memory(client, space):
    """Two memories of one label are told apart by their backing."""
    with FdSocket(client.GetServerInfo().fd_socket) as fds:
        for hva in (HVA, HVA + GIB):
            fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.truncate(fd, MIB)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x0002)
            client.RegisterMemory(space=space, hva=hva, size=MIB, label="pc.ram",
                                  fd_handle=fds.deposit(fd))
            os.close(fd)
    client.map(space, HVA + PAGE, PAGE, gpa=0)
    client.map(space, HVA + GIB + 4 * PAGE, PAGE, gpa=PAGE)
    client.map(space, HVA + 2 * GIB, PAGE, gpa=2 * PAGE)
    one, other, none = mappings_of(export(client, space))
    assert (one.memory_label, one.offset) == ("pc.ram", PAGE)
    assert (other.memory_label, other.offset) == ("pc.ram", 4 * PAGE)
    assert (none.memory_label, none.offset, none.backing) == ("", 0, 0)
    assert 0 != one.backing != other.backing != 0
    assert (one.backing_offset, other.backing_offset) == (PAGE, 4 * PAGE)


def test_export_of_what_is_not_there(client, space):
    refused("SPACE_NOT_FOUND", export, client, fresh_name("nobody"))
    refused("SPACE_NOT_FOUND", export, client, space, space_uid="0" * 32)
    refused("INVALID_NAME", export, client, "No Name")


def test_export_is_one_revision_while_writes_go_on(client, make_space):
    """A writer moves one mapping through the space, and changes how many there are, in
    step with the revision: each export has to be a state that there was."""
    count = 3000
    name = make_space("moving", max_mappings=10 * count)
    client.update(name, *[spec(HVA + i * PAGE, PAGE, gpa=i * PAGE, iova=(2 * i + 1) * PAGE)
                          for i in range(count)])
    base = client.space(name).revision
    stop = threading.Event()

    def write():
        step = 0
        while not stop.is_set():
            # After revision base + n the first n have moved one page up.
            at = step % count
            client.update(name, dict(at_iova=(2 * at + 1) * PAGE),
                          spec(HVA + at * PAGE, PAGE, gpa=at * PAGE, iova=(2 * at + 2) * PAGE))
            step += 1
            if step == count:
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = set()
        for _ in range(12):
            records = export(client, name)
            moved = records[0].header.space.revision - base
            seen.add(moved)
            assert [m.iova for m in mappings_of(records)] == [
                (2 * i + (2 if i < moved else 1)) * PAGE for i in range(count)]
            assert records[-1].trailer.crc32c == checksum(records[:-1])
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 1, "nothing was written meanwhile"


def test_slow_export_does_not_keep_its_revision_for_ever(server, client, make_space):
    """What an export keeps alive is bounded: then it ends with an error, never with
    records of another revision."""
    name = make_space()
    for start in range(0, 40_000, 20_000):
        client.update(name, *[spec(HVA + i * PAGE, PAGE, gpa=i * PAGE, label="x" * 64)
                              for i in range(start, start + 20_000)])
    # Little is on its way to a client that does not read.
    with Client(server.target, **{"grpc.http2.bdp_probe": 0}) as slow:
        call = export_stream(slow, name)
        next(call)
        for _ in range(16):
            # Others begin to list, and leave it at that.
            client.ListMappings(space=name, page_size=1)
        refusal = refused("SNAPSHOT_EXPIRED", list, call)
    assert name in refusal.message


# ---- Import

@pytest.mark.parametrize("placement", [KEEP, ANEW, migration.IMPORT_PLACEMENT_UNSPECIFIED])
def test_round_trip(client, guest, placement):
    records = export(client, guest)
    name = fresh_name("there")
    result = import_(client, header(name, placement=placement, bindings=bindings()), records)
    assert result.space == client.space(name)
    assert result.space.labels == {"vm": "1", "a": "b"}
    assert result.space.max_mappings == 1000
    assert result.space.uid != records[0].header.space.uid
    assert list(result.svqs) == list(client.ListSVQs(space=name).svqs)
    assert [(s.queue_index, s.queue_size, s.control) for s in result.svqs] == [
        (0, 256, False), (2, 64, True)]
    assert [m.label for m in result.skipped] == ["host"] and result.skipped_count == 1
    here = {m.label: m for m in client.mappings(guest) if m.svq_id == 0}
    there = {m.label: m for m in client.mappings(name) if m.svq_id == 0}
    assert set(there) == {"ram", "rom", "smram"}
    for label, hva in (("ram", THERE), ("rom", THERE + 64 * MIB), ("smram", THERE + MIB)):
        assert there[label].hva == hva
        assert (there[label].gpa, there[label].size, there[label].access) == (
            here[label].gpa, here[label].size, here[label].access)
        if placement != ANEW:
            assert there[label].iova == here[label].iova
    # The alias is one.
    assert client.translate(name, hva=THERE + MIB).alias_count == 1
    # And again, from there.
    again = export(client, name)
    kept = [m for m in mappings_of(records) if m.HasField("gpa")]
    for one, other in zip(kept, mappings_of(again), strict=True):
        if placement != ANEW:
            assert one.iova == other.iova
        assert (one.gpa, one.size, one.access, one.label) == (
            other.gpa, other.size, other.access, other.label)


def test_anew_places_by_the_policy(client, make_space):
    """An export of far-apart IOVAs is packed by first-fit, in the order of the export."""
    name = make_space()
    for i in range(4):
        client.map(name, HVA + i * PAGE, PAGE, gpa=i * PAGE, iova=(1 + i) * GIB)
    there = fresh_name("there")
    import_(client, header(there, placement=ANEW, bindings=[bind(0, MIB, THERE)]),
            export(client, name))
    assert [m.iova for m in client.mappings(there)] == [(i + 1) * PAGE for i in range(4)]


def test_import_attaches_and_maps_there(client, guest, device):
    """Placed anew, everything is where the device reaches it."""
    name = fresh_name("there")
    result = import_(client, header(name, placement=ANEW, bindings=bindings(),
                                    attachments=[dict(device=device)]), export(client, guest))
    assert [a.device for a in result.space.attachments] == [device]
    assert client.GetDevice(device=device).device.updates_pushed == result.space.mapping_count


def test_progress_adds_up(client, make_space):
    count = 25_000
    name = make_space()
    for start in range(0, count, 5000):
        client.update(name, *[spec(HVA + i * PAGE, PAGE, gpa=i * PAGE)
                              for i in range(start, start + 5000)])
    first = header(fresh_name("there"), bindings=[bind(0, GIB, THERE)])
    *progress, last = import_stream(client, messages(first, export(client, name), 1000))
    assert progress, "nothing was told"
    assert all(p.progress.total_bytes == count * PAGE for p in progress)
    done = [p.progress.mapped_bytes for p in progress]
    assert done == sorted(done)
    assert all(p.progress.mapped_bytes == p.progress.mappings * PAGE for p in progress)
    assert last.result.space.mapping_count == count


def test_memory_is_registered_with_the_space(tmp_path, make_space, client):
    """By path: REGISTERED devices and those of the server reach it then."""
    file = tmp_path / "ram"
    file.write_bytes(bytes(4 * MIB))
    source = make_space()
    client.map(source, HVA, MIB, gpa=0, label="low")
    client.map(source, HVA + MIB, MIB, gpa=GIB, label="high")
    records = export(client, source)
    memory = migration.MemorySource(hva=THERE, size=2 * MIB, path=str(file), offset=MIB,
                                    label="ram")
    bound = [bind(0, MIB, THERE, memory_id=1), bind(GIB, MIB, THERE + MIB, memory_id=1)]
    with Daemon("--memory-paths", str(tmp_path)) as daemon, Client(daemon.target) as other:
        other.wait_ready()
        import_(other, header("a", bindings=bound, memories=[memory]), records)
        registered = other.ListMemory(space="a").memory
        assert [(m.memory_id, m.hva, m.size, m.offset, m.label) for m in registered] == [
            (1, THERE, 2 * MIB, MIB, "ram")]
        assert [m.memory_id for m in other.mappings("a")] == [1, 1]
        memory.path = str(tmp_path / "none")
        refused_import("MEMORY_NOT_FOUND", other,
                       header("b", bindings=bound, memories=[memory]), records)
    memory.path = str(file)
    refused_import("PATH_NOT_ALLOWED", client,
                   header(fresh_name("there"), bindings=bound, memories=[memory]), records)


# ---- What is refused

def test_a_damaged_export_leaves_nothing(client, guest):
    records = export(client, guest)
    other = fresh_name("other")
    import_(client, header(other, bindings=bindings()), records)
    elsewhere = export(client, other)
    swapped = [records[0], records[2], records[1], *records[3:]]
    altered = [migration.SpaceRecord.FromString(r.SerializeToString()) for r in records]
    altered[1].mapping.access = READ
    newer = [migration.SpaceRecord.FromString(r.SerializeToString()) for r in records]
    newer[0].header.version = 2
    cases = {
        "nothing": [], "the header alone": records[:1], "no header": records[1:],
        "no trailer": records[:-1], "one missing": records[:2] + records[3:],
        "one twice": records[:2] + records[1:], "swapped": swapped, "altered": altered,
        "mixed": records[:3] + elsewhere[3:], "another's trailer": records[:-1] + elsewhere[-1:],
        "more after it": records + records[-1:], "two exports": records + elsewhere,
        "version": newer, "an empty record": records[:2] + [migration.SpaceRecord()] + records[2:],
        "nothing but a trailer": records[-1:],
        "an SVQ before mappings": sealed([records[0], records[5], *records[1:5], records[6]]),
    }
    for what, damaged in cases.items():
        name = fresh_name("there")
        for together in (1, 1000):
            refusal = refused_import("EXPORT_CORRUPT", client, header(name, bindings=bindings()),
                                     damaged, together)
            assert name in refusal.message, what
    assert "version 2" in refused_import(
        "EXPORT_CORRUPT", client, header(name, bindings=bindings()), sealed(newer)).message


def test_unbound_memory(client, guest):
    records = export(client, guest)
    name = fresh_name("there")
    refusal = refused_import("UNBOUND_MEMORY", client, header(name, bindings=bindings()[1:]),
                             records)
    assert list(refusal.detail.ranges) == [extent(4 * GIB, RAM)]
    assert name in refusal.message and hex(4 * GIB) in refusal.message
    # In two pieces, it is not in one binding.
    pieces = [bind(0, MIB, THERE), bind(MIB, RAM - MIB, THERE + MIB), *bindings()[:2]]
    refusal = refused_import("UNBOUND_MEMORY", client, header(name, bindings=pieces), records)
    assert list(refusal.detail.ranges) == [extent(0, RAM)]
    refused_import("UNBOUND_MEMORY", client, header(name), records)


def test_bindings_that_tear_an_alias_apart(client, guest):
    torn = [bind(0, RAM, THERE), bind(4 * GIB, RAM, THERE + 64 * MIB),
            bind(ALIAS, 8 * PAGE, THERE + 32 * MIB)]
    name = fresh_name("there")
    refusal = refused_import("INVALID_VALUE", client, header(name, bindings=torn),
                             export(client, guest))
    assert sorted((r.first, r.last) for r in refusal.detail.ranges) == [
        (0, RAM - 1), (ALIAS, ALIAS + 8 * PAGE - 1)]


MEMORY = migration.MemorySource(hva=THERE, size=MIB, path="/x")


@pytest.mark.parametrize("reason, fields", [
    ("MISSING_FIELD", dict(bindings=[migration.MemoryBinding(hva=THERE)])),
    ("EMPTY_RANGE", dict(bindings=[migration.MemoryBinding(gpa=span(1, 0), hva=THERE)])),
    ("RANGE_WRAPS", dict(bindings=[bind(0, 2 * PAGE, TOP - PAGE + 1)])),
    ("GPA_OVERLAP", dict(bindings=[bind(0, GIB, THERE), bind(GIB - PAGE, GIB, THERE + GIB)])),
    ("GPA_OVERLAP", dict(bindings=[bind(0, GIB, THERE), bind(0, GIB, THERE)])),
    ("INVALID_VALUE", dict(placement=7)),
    ("MEMORY_NOT_FOUND", dict(bindings=[bind(0, GIB, THERE, memory_id=1)])),
    ("MEMORY_NOT_FOUND", dict(bindings=[bind(0, GIB, THERE, memory_id=0)], memories=[MEMORY])),
    ("INVALID_VALUE", dict(bindings=[bind(0, GIB, THERE, memory_id=1)], memories=[MEMORY])),
])
def test_a_bad_header_is_refused_at_once(client, reason, fields):
    """Before anything else is sent."""
    name = fresh_name("there")
    go_on = threading.Event()

    def requests():
        yield from messages(header(name, **fields), [])
        go_on.wait(scaled(30))

    try:
        refusal = refused(reason, list, import_stream(client, requests()))
    finally:
        go_on.set()
    assert name in refusal.message
    assert name not in spaces(client)


def test_names(client, guest, space):
    records = export(client, guest)
    refused_import("INVALID_NAME", client, header("No Name", bindings=bindings()), records)
    refused_import("INVALID_NAME", client, header("", bindings=bindings()), records)
    refused_import("NAME_TAKEN", client, header(space, bindings=bindings()), records)
    refused("MISSING_FIELD", import_, client, None, records)
    refused("MISSING_FIELD", import_, client, None, [])


def test_what_cannot_be_made_there_leaves_nothing(client, guest, make_device, make_space):
    records = export(client, guest)
    name = fresh_name("there")

    def attached(*devices, **fields):
        return header(name, bindings=bindings(),
                      attachments=[dict(device=d) for d in devices], **fields)

    refused_import("DEVICE_NOT_FOUND", client, attached("nobody"), records)
    refused_import("OUTSIDE_IOVA_RANGE", client,
                   attached(make_device(iova_range=span(0, MIB - 1))), records)
    refused_import("ENTRY_BUDGET", client, attached(make_device(entry_budget=2)), records)
    # Enough for the mappings, not for the queues.
    refused_import("ENTRY_BUDGET", client, attached(make_device(entry_budget=3)), records)
    busy = make_device()
    client.AttachDevice(space=make_space(), device=busy)
    refused_import("DEVICE_BUSY", client, attached(make_device(), busy), records)
    failing = make_device(faults=[dict(op=1, nth=2, os_errno=12)])
    refusal = refused_import("DEVICE_ERROR", client, attached(failing), records)
    assert failing in refusal.message or failing == refusal.detail.device
    # What was claimed is free again.
    client.CloseDevice(device=failing)
    # What maps elsewhere as well is said with its number in the export.
    odd = [bind(4 * GIB, RAM, THERE + 64 * MIB + 1), *bindings()[1:]]
    refusal = refused_import("UNALIGNED", client, header(name, bindings=odd), records)
    assert refusal.detail.op_index == 1


def test_limits(client, guest):
    records = export(client, guest)
    with Daemon("--limits.max-spaces=1", "--limits.max-mappings-per-space=1000") as daemon, \
            Client(daemon.target) as other:
        other.wait_ready()
        other.CreateSpace(space="a")
        refused_import("SPACE_LIMIT", other, header("b", bindings=bindings()), records)
        other.DeleteSpace(space="a")
        import_(other, header("b", bindings=bindings()), records)
    with Daemon("--limits.max-mappings-per-space=3") as daemon, Client(daemon.target) as other:
        other.wait_ready()
        # As soon as there are more: the rest need not come.
        refused_import("MAPPING_LIMIT", other, header("b", bindings=bindings()), records)


def test_a_repeat_gets_the_first_answer(client, guest):
    records = export(client, guest)
    name, request_id = fresh_name("there"), fresh_name("request")
    first = header(name, request_id=request_id, bindings=bindings())
    result = import_(client, first, records)
    client.map(name, HVA + 3 * GIB, PAGE, gpa=32 * GIB)
    assert import_(client, first, records, together=1) == result
    other = header(fresh_name("there"), request_id=request_id, bindings=bindings())
    refused_import("REQUEST_ID_REUSED", client, other, records)
    # A failed one is not recorded.
    failed = header(name, request_id=fresh_name("request"), bindings=bindings())
    refused_import("NAME_TAKEN", client, failed, records)
    client.DeleteSpace(space=name, force=True)
    import_(client, failed, records)


def test_a_client_that_goes_away_leaves_nothing(client, guest):
    records = export(client, guest)
    name = fresh_name("there")
    go_on = threading.Event()

    def requests():
        yield from messages(header(name, bindings=bindings()), records)
        go_on.wait(scaled(30))

    call = import_stream(client, requests())
    call.cancel()
    go_on.set()
    with pytest.raises(grpc.RpcError):
        list(call)
    assert name not in spaces(client)
    # Not more than may run at a time are held on to.
    for _ in range(20):
        import_(client, header(name, bindings=bindings()), records)
        client.DeleteSpace(space=name, force=True)


def test_so_many_imports_at_a_time(client):
    """More are refused; places are free again when streams end."""
    go_on = threading.Event()

    def requests(name):
        yield from messages(header(name), [])
        go_on.wait(scaled(30))

    def refusal_of(call):
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
        return Refusal.from_rpc(raised.value).reason

    waiting = [import_stream(client, requests(fresh_name("there"))) for _ in range(8)]
    # Streams begin in their own time: this one is refused once they have.
    wait_until(lambda: refusal_of(import_stream(client, iter([]))) == "OVERLOADED",
               "there are as many imports as there may be")
    go_on.set()
    assert [refusal_of(call) for call in waiting] == ["EXPORT_CORRUPT"] * 8
    wait_until(lambda: refusal_of(import_stream(client, iter([]))) == "MISSING_FIELD",
               "there is room again")


def test_draining_ends_an_import_that_is_still_sent(client, guest):
    records = export(client, guest)
    go_on = threading.Event()
    sent = threading.Event()

    def requests():
        yield from messages(header("b", bindings=bindings()), records)
        sent.set()
        go_on.wait(scaled(30))

    with Daemon() as daemon, Client(daemon.target) as other:
        other.wait_ready()
        call = import_stream(other, requests())
        assert sent.wait(scaled(20))
        # The server has the stream once it answers something that was sent later.
        other.GetServerInfo()
        daemon.terminate()
        refused("DRAINING", list, call)
        go_on.set()


def test_identity_spaces_stay_identity(client, make_space):
    name = make_space(placement=IDENTITY)
    client.map(name, HVA, MIB, gpa=GIB)
    there = fresh_name("there")
    result = import_(client, header(there, placement=ANEW, bindings=[bind(GIB, MIB, THERE)]),
                     export(client, name))
    assert result.space.placement == IDENTITY
    assert [bounds(m) for m in client.mappings(there)] == [(GIB, GIB + MIB - 1)]
