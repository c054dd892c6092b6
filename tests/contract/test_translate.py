"""Translate: by GPA, HVA and IOVA, segments, faults, access, aliases."""

import pytest

from harness import (GIB, HVA, MIB, PAGE, READ, READ_WRITE, TOP, WRITE, refused, span, unchanged)
from stubs import address_space_pb2 as api

MISS, ACCESS = api.FAULT_KIND_MISS, api.FAULT_KIND_ACCESS


def segments(translation):
    """(mapping id, IOVA, HVA, GPA or None, size) of each segment."""
    return [(s.mapping_id, s.iova, s.hva, s.gpa if s.HasField("gpa") else None, s.size)
            for s in translation.segments]


def fault(translation):
    """(kind, address), or None."""
    return ((translation.fault.kind, translation.fault.address)
            if translation.HasField("fault") else None)


@pytest.fixture
def row(client, space):
    """Three guest mappings with GPAs and HVAs without gaps but IOVAs in the opposite order,
    the middle one read-only; then host-only memory right behind in HVA."""
    made = [client.map(space, HVA + n * 4 * PAGE, 4 * PAGE, READ if n == 1 else READ_WRITE,
                       gpa=n * 4 * PAGE, iova=(9 - n) * MIB) for n in range(3)]
    made.append(client.map(space, HVA + 12 * PAGE, PAGE, iova=9 * MIB + 4 * PAGE))
    return made


@pytest.mark.parametrize("offset, size", [(0, 1), (0, 4 * PAGE), (4 * PAGE - 1, 1), (PAGE, 5)])
def test_within_one_mapping(client, space, row, offset, size):
    mapping = row[0]
    expected = [(mapping.mapping_id, mapping.iova + offset, mapping.hva + offset,
                 mapping.gpa + offset, size)]
    for address in (dict(gpa=mapping.gpa + offset), dict(iova=mapping.iova + offset),
                    dict(hva=mapping.hva + offset)):
        answer = client.translate(space, size=size, **address)
        assert segments(answer) == expected
        assert answer.segments[0].access == READ_WRITE
        assert fault(answer) is None and answer.alias_count == 0


def test_host_memory_has_no_gpa(client, space, row):
    host = row[3]
    expected = [(host.mapping_id, host.iova, host.hva, None, PAGE)]
    assert segments(client.translate(space, size=PAGE, hva=host.hva)) == expected
    assert segments(client.translate(space, size=PAGE, iova=host.iova)) == expected


def test_several_segments_in_the_querys_order(client, space, row):
    middle = [(m.mapping_id, m.iova, m.hva, m.gpa, m.size) for m in row[1:2]]
    first = (row[0].mapping_id, row[0].iova + 0x3FFF, row[0].hva + 0x3FFF, 0x3FFF, 1)
    last = (row[2].mapping_id, row[2].iova, row[2].hva, row[2].gpa, 1)
    for address in (dict(gpa=0x3FFF), dict(hva=HVA + 0x3FFF)):
        answer = client.translate(space, size=4 * PAGE + 2, **address)
        assert segments(answer) == [first, *middle, last]
        assert fault(answer) is None
    # By IOVA the neighbours are others: mapping 0 and then the host-only memory.
    answer = client.translate(space, size=5 * PAGE, iova=row[0].iova)
    assert [s[0] for s in segments(answer)] == [row[0].mapping_id, row[3].mapping_id]


def test_host_memory_follows_guest_memory(client, space, row):
    answer = client.translate(space, size=13 * PAGE, hva=HVA)
    assert [s[0] for s in segments(answer)] == [m.mapping_id for m in row]


@pytest.mark.parametrize("address, size, before, where", [
    (dict(gpa=12 * PAGE), 1, 0, 12 * PAGE), (dict(gpa=0), 12 * PAGE + 1, 3, 12 * PAGE),
    (dict(hva=HVA), 14 * PAGE, 4, HVA + 13 * PAGE), (dict(hva=HVA - 1), 2, 0, HVA - 1),
    (dict(iova=9 * MIB), 6 * PAGE, 2, 9 * MIB + 5 * PAGE), (dict(iova=0), 1, 0, 0),
    (dict(iova=TOP), 1, 0, TOP), (dict(gpa=0), TOP, 3, 12 * PAGE)])
def test_the_first_byte_that_misses(client, space, row, address, size, before, where):
    assert len(row) == 4
    answer = client.translate(space, size=size, **address)
    assert len(answer.segments) == before
    assert fault(answer) == (MISS, where)
    if not before:
        assert answer.alias_count == 0


@pytest.mark.parametrize("address", [dict(gpa=0), dict(hva=HVA)])
@pytest.mark.parametrize("access, ends", [(0, None), (READ, None), (WRITE, 4), (READ_WRITE, 4)])
def test_the_first_byte_without_access(client, space, row, address, access, ends):
    answer = client.translate(space, size=12 * PAGE, access=access, **address)
    if ends is None:
        assert fault(answer) is None and len(answer.segments) == 3
    else:
        assert segments(answer)[0][0] == row[0].mapping_id and len(answer.segments) == 1
        assert fault(answer) == (ACCESS, next(iter(address.values())) + ends * PAGE)
    inside = client.translate(space, access=WRITE, iova=row[1].iova + 5)
    assert fault(inside) == (ACCESS, row[1].iova + 5) and not inside.segments


def test_write_only_memory_is_not_read(client, space):
    client.map(space, HVA, PAGE, WRITE, gpa=0)
    assert fault(client.translate(space, gpa=0, access=WRITE)) is None
    assert fault(client.translate(space, gpa=0, access=READ)) == (ACCESS, 0)
    assert fault(client.translate(space, gpa=0, access=READ_WRITE)) == (ACCESS, 0)


def test_the_alias_with_the_longest_stretch_answers(client, space):
    short = client.map(space, HVA, 2 * PAGE, gpa=0)
    long = client.map(space, HVA, 8 * PAGE, gpa=GIB)
    inner = client.map(space, HVA + PAGE, 3 * PAGE, gpa=2 * GIB)

    def found(hva, size, access=0):
        return [s[0] for s in segments(client.translate(space, size=size, hva=hva, access=access))]

    # Capped at the query's end, so that both cover it: then the lowest IOVA.
    assert short.iova < long.iova < inner.iova
    assert found(HVA, 2 * PAGE) == [short.mapping_id]
    assert found(HVA, 2 * PAGE + 1) == [long.mapping_id]
    assert found(HVA + PAGE, 1) == [short.mapping_id]
    assert found(HVA + PAGE, 3 * PAGE) == [long.mapping_id]
    client.unmap(space, at_gpa=GIB)
    assert found(HVA + PAGE, 3 * PAGE) == [inner.mapping_id]
    assert found(HVA, 4 * PAGE) == [short.mapping_id, inner.mapping_id]


def test_ties_go_to_the_lowest_iova(client, space):
    high = client.map(space, HVA, PAGE, gpa=0, iova=0x9000)
    low = client.map(space, HVA, PAGE, gpa=0x1000, iova=0x5000)
    assert segments(client.translate(space, hva=HVA))[0][0] == low.mapping_id
    client.unmap(space, at_gpa=0x1000)
    assert segments(client.translate(space, hva=HVA))[0][0] == high.mapping_id


def test_a_read_only_alias_is_never_written(client, space):
    client.map(space, HVA, 8 * PAGE, READ, gpa=0, iova=0x1000)
    writable = client.map(space, HVA, 2 * PAGE, READ_WRITE, gpa=GIB, iova=0x100000)
    answer = client.translate(space, size=2 * PAGE, hva=HVA, access=WRITE)
    assert [s[0] for s in segments(answer)] == [writable.mapping_id]
    answer = client.translate(space, size=3 * PAGE, hva=HVA, access=WRITE)
    assert [s[0] for s in segments(answer)] == [writable.mapping_id]
    assert fault(answer) == (ACCESS, HVA + 2 * PAGE)


def test_aliases_are_counted_at_the_first_byte(client, space):
    for n in range(4):
        client.map(space, HVA, 2 * PAGE, gpa=n * GIB)
    client.map(space, HVA + PAGE, PAGE)  # host-only memory counts too
    assert client.translate(space, hva=HVA, size=2 * PAGE).alias_count == 3
    assert client.translate(space, hva=HVA + PAGE).alias_count == 4
    assert client.translate(space, gpa=GIB).alias_count == 3
    first = client.mappings(space)[0]
    assert client.translate(space, iova=first.iova + PAGE).alias_count == 4


def test_a_buffer_that_ends_at_its_mappings_edge(client, space):
    """Its HVA neighbour lies at a lower IOVA: neither end may be taken from it."""
    low = client.map(space, HVA + PAGE, PAGE, gpa=PAGE, iova=0x1000)
    high = client.map(space, HVA, PAGE, gpa=0, iova=0x8000)
    assert segments(client.translate(space, hva=HVA, size=PAGE)) == [
        (high.mapping_id, 0x8000, HVA, 0, PAGE)]
    assert segments(client.translate(space, hva=HVA + PAGE - 1, size=2)) == [
        (high.mapping_id, 0x8FFF, HVA + PAGE - 1, PAGE - 1, 1),
        (low.mapping_id, 0x1000, HVA + PAGE, PAGE, 1)]


def test_many_queries_have_their_own_answers_at_one_revision(client, space, row):
    queries = [dict(gpa=0, size=1), dict(gpa=GIB, size=1), dict(hva=HVA, size=1),
               dict(gpa=0x4000, size=1, access=WRITE), dict(iova=row[2].iova, size=1)] * 819
    answer = client.Translate(space=space, queries=queries + queries[:1])
    assert len(answer.translations) == 4096
    assert answer.revision == client.space(space).revision
    first = answer.translations[:5]
    assert [fault(t) for t in first] == [None, (MISS, GIB), None, (ACCESS, 0x4000), None]
    assert list(answer.translations[5:10]) == list(first)


def test_no_queries_no_translations(client, space):
    assert not client.Translate(space=space).translations


@pytest.mark.parametrize("reason, bad", [
    ("MISSING_FIELD", dict(size=1)), ("EMPTY_RANGE", dict(gpa=0, size=0)),
    ("RANGE_WRAPS", dict(iova=TOP, size=2)), ("RANGE_WRAPS", dict(hva=2, size=TOP)),
    ("INVALID_ACCESS", dict(gpa=0, size=1, access=7))])
def test_shape_refuses_the_whole_request(client, space, row, reason, bad):
    assert row
    with unchanged(client, space):
        refusal = refused(reason, client.Translate, space=space,
                          queries=[dict(gpa=0, size=1), bad, dict(gpa=0, size=1)])
    assert refusal.detail.op_index == 1


def test_too_many_queries(client, space):
    refusal = refused("TOO_MANY_OPS", client.Translate, space=space,
                      queries=[dict(gpa=0, size=1)] * 4097)
    assert (refusal.detail.limit, refusal.detail.needed) == (4096, 4097)


def test_the_space_must_be_the_one_meant(client, space):
    uid = client.space(space).uid
    client.Translate(space=space, space_uid=uid, queries=[dict(gpa=0, size=1)])
    refused("SPACE_NOT_FOUND", client.Translate, space=space, space_uid=uid + "x")


def test_the_last_byte_of_64_bits(client, make_space):
    space = make_space(iova_range=span(0, TOP))
    client.map(space, HVA, PAGE, gpa=TOP - 0xFFF, iova=TOP - 0xFFF)
    for what in ("gpa", "iova"):
        answer = client.translate(space, size=PAGE, **{what: TOP - 0xFFF})
        assert fault(answer) is None and answer.segments[0].size == PAGE
