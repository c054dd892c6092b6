"""Imports that are refused, repeated or given up: what is said, and that nothing is left."""

import threading

import grpc
import pytest

from conftest import fresh_name
from daemon import Daemon, scaled, wait_until
from harness import (GIB, HVA, MIB, PAGE, READ, TOP, Client, Refusal, extent, refused, span)
from migrating import bind, export, header, import_, import_stream, messages, sealed
from migrating_guest import ALIAS, RAM, THERE, bindings, refused_import, spaces
from stubs import migration_pb2 as migration


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
    for call in waiting:
        call.initial_metadata()  # comes when the stream has its place
    assert refusal_of(import_stream(client, iter([]))) == "OVERLOADED"
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
        call.initial_metadata()  # comes when the stream is known
        assert sent.wait(scaled(20))
        daemon.terminate()
        refused("DRAINING", list, call)
        go_on.set()
