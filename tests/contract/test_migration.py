"""ExportSpace and ImportSpace: what is carried over."""

import fcntl
import os
import threading

import grpc
import pytest

from conftest import fresh_name
from daemon import Daemon, wait_until
from fd_socket import FdSocket
from harness import (FIRST_FIT, GIB, HVA, IDENTITY, MIB, PAGE, Client, Refusal, bounds, refused,
                     spec)
from migrating import (ANEW, KEEP, bind, checksum, export, export_stream, header, import_,
                       import_stream, mappings_of, messages)
from migrating_guest import THERE, bindings, refused_import
from stubs import address_space_pb2 as api
from stubs import migration_pb2 as migration


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


def _sixteen_listings_fit(client, name):
    """Whether sixteen new listings, as many as may be open, ended everything else: not
    what was used after the first of them."""
    tokens = [client.ListMappings(space=name, page_size=1).next_page_token for _ in range(16)]
    try:
        client.ListMappings(space=name, page_size=1, page_token=tokens[0])
    except grpc.RpcError as error:
        assert Refusal.from_rpc(error).reason == "SNAPSHOT_EXPIRED"
        return False
    return True


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
        wait_until(lambda: _sixteen_listings_fit(client, name),
                   "the export is the one unused for longest")
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


def test_labels_may_be_others_there(client, make_space):
    name = make_space(labels={"a": "1", "b": "2", "c": "3"})
    there = fresh_name("there")
    result = import_(client, header(there, labels={"b": "4", "d": "5"},
                                    remove_labels=["a", "b", "never"]), export(client, name))
    assert result.space.labels == {"b": "4", "c": "3", "d": "5"}
    refused_import("INVALID_LABEL", client, header(fresh_name("there"), labels={"": "x"}),
                   export(client, name))


def test_identity_spaces_stay_identity(client, make_space):
    name = make_space(placement=IDENTITY)
    client.map(name, HVA, MIB, gpa=GIB)
    there = fresh_name("there")
    result = import_(client, header(there, placement=ANEW, bindings=[bind(GIB, MIB, THERE)]),
                     export(client, name))
    assert result.space.placement == IDENTITY
    assert [bounds(m) for m in client.mappings(there)] == [(GIB, GIB + MIB - 1)]
