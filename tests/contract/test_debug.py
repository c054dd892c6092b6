"""DebugService: what people see through grpcurl."""

import re
import time

import pytest

from daemon import scaled
from device_table import BATCH_BEGIN, BATCH_END, UPDATE
from harness import (GIB, HVA, PAGE, READ, TOP, ranges, refused, span, unchanged)


def test_server_info(client, server):
    info = client.GetServerInfo()
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", info.version)
    assert info.limits["max_mappings_per_space"] == 1 << 20
    assert info.limits["max_spaces"] == 4096
    assert info.store == "ephemeral"
    assert info.pid == server.process.pid
    assert info.epoch
    assert abs(info.start_time.seconds - time.time()) < scaled(120)
    assert client.GetServerInfo() == info


def test_dump(client, make_space, make_device, attach):
    space = make_space(reserved=ranges((0xA0000, 0xBFFFF)), iova_range=span(0, 0xFFFFFF))
    device = make_device()
    attach(space, device)
    client.map(space, HVA + 0x123000, 2 * PAGE, READ, gpa=0x77000, iova=0x30000, label="my-label")
    client.map(space, HVA, PAGE, iova=0x50000)
    text = client.Dump(space=space).text
    for part in (space, client.space(space).uid, device, "my-label", hex(HVA + 0x123000),
                 "0x77000", "0x30000", "0x31fff", "0x50000", hex(HVA), "0xa0000", "0xbffff"):
        assert part in text, part
    # What is free: below, between and behind.
    for free in ("0x1000", "0x2ffff", "0x32000", "0x4ffff", "0x51000", "0x9ffff", "0xc0000",
                 "0xffffff"):
        assert free in text, free


def test_dump_of_an_empty_space(client, space):
    assert space in client.Dump(space=space).text


def test_dump_is_bounded_and_says_so(client, space):
    count = 60_000
    client.Update(space=space, ops=[dict(map=dict(
        gpa=n * 2 * PAGE, hva=HVA + n * 2 * PAGE, size=PAGE, access=READ)) for n in range(count)])
    text = client.Dump(space=space).text
    assert 1 << 16 < len(text) < 4 << 20
    last = text.rstrip("\n").rpartition("\n")[2]
    assert "ListMappings" in last and not last.startswith("0x"), last


def test_resolve(client, space):
    ram = client.map(space, HVA, 4 * PAGE, gpa=0, label="ram")
    alias = client.map(space, HVA + PAGE, PAGE, READ, gpa=GIB)
    address = HVA + PAGE + 0x10
    for text in (f"hva:{address:#x}", "gpa:0x1010", f"iova:{ram.iova + PAGE + 0x10:#x}"):
        answer = client.Resolve(space=space, address=text, size=0x20)
        piece, = answer.pieces
        assert (int(piece.iova, 16), int(piece.hva, 16), int(piece.gpa, 16)) == (
            ram.iova + PAGE + 0x10, address, 0x1010)
        assert int(piece.size, 16) == 0x20
        for field in (piece.iova, piece.hva, piece.gpa, piece.size):
            assert field.startswith("0x"), field
        assert piece.mapping == ram
        assert not answer.fault
        assert list(answer.aliases) == [ram, alias]
        assert answer.alias_count in (1, 2) and answer.revision == 3


def test_resolve_takes_one_byte_by_default(client, space):
    client.map(space, HVA, PAGE)
    piece, = client.Resolve(space=space, address=f"hva:{HVA + PAGE - 1:#x}").pieces
    assert int(piece.size, 16) == 1 and not piece.gpa


def test_resolve_says_where_it_ends(client, space):
    client.map(space, HVA, PAGE, gpa=0)
    answer = client.Resolve(space=space, address="gpa:0x800", size=PAGE)
    assert len(answer.pieces) == 1 and int(answer.pieces[0].size, 16) == 0x800
    assert "0x1000" in answer.fault
    answer = client.Resolve(space=space, address="gpa:0x5000")
    assert not answer.pieces and "0x5000" in answer.fault and answer.alias_count == 0


@pytest.mark.parametrize("reason, fields", [
    ("MISSING_FIELD", {}), ("INVALID_VALUE", dict(address="0x1000")),
    ("INVALID_VALUE", dict(address="pa:0x1000")), ("INVALID_VALUE", dict(address="gpa:")),
    ("INVALID_VALUE", dict(address="gpa:0x")), ("INVALID_VALUE", dict(address="gpa:xyz")),
    ("INVALID_VALUE", dict(address="gpa:0x10000000000000000")),
    ("INVALID_VALUE", dict(address="gpa:-1")),
    ("RANGE_WRAPS", dict(address=f"iova:{TOP:#x}", size=2))])
def test_resolve_reads_addresses_strictly(client, space, reason, fields):
    with unchanged(client, space):
        refused(reason, client.Resolve, space=space, **fields)


def test_stats(client, space):
    client.map(space, HVA, PAGE, gpa=0)
    text = client.Stats().text
    assert len(text.splitlines()) > 1
    assert re.search(r"\b\d+\b", text)


def test_device_log(client, space, make_device, attach):
    device = make_device()
    attach(space, device)
    client.map(space, HVA, PAGE, READ, gpa=0, iova=0x5000)
    answer = client.DeviceLog(device=device)
    assert answer.dropped == 0
    begin, update, end = answer.entries[-3:]
    assert [e.type for e in (begin, update, end)] == [BATCH_BEGIN, UPDATE, BATCH_END]
    assert update.sequence == begin.sequence + 1 == end.sequence - 1
    assert (update.iova_first, update.iova_last, update.uaddr) == ("0x5000", "0x5fff", hex(HVA))
    assert (update.access, update.asid, update.os_errno, update.undo) == (READ, 0, 0, False)
    assert update.space == space and begin.batch == update.batch == end.batch >= 1
    assert not begin.iova_first and not end.iova_last
    assert abs(update.time.seconds - time.time()) < scaled(60)
    assert list(client.DeviceLog(device=device, last=2).entries) == [update, end]
    assert list(client.DeviceLog(device=device, last=1 << 20).entries) == list(answer.entries)


def test_device_log_forgets_the_oldest_and_counts_them(client, space, make_device, attach):
    device = make_device(entry_budget=1 << 20)
    attach(space, device)
    count = 100_000
    for base in range(0, count, 25_000):
        client.Update(space=space, ops=[dict(map=dict(
            gpa=n * PAGE, hva=HVA + n * PAGE, size=PAGE, access=READ))
            for n in range(base, base + 25_000)])
    answer = client.DeviceLog(device=device)
    assert answer.dropped > 0, "the log grows without bound"
    assert answer.entries[0].sequence == answer.dropped + 1
    assert answer.entries[-1].type == BATCH_END
    assert len(answer.entries) >= 1000
