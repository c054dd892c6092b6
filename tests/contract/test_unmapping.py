"""Unmap: every kind of target, ranges that cut, splits, what may not go."""

import pytest

from harness import (GIB, HVA, MIB, PAGE, READ, TOP, bounds, extent, refused, span, unchanged)

WHOLE = span(0, TOP)
LOWER_HALF, UPPER_HALF = span(0, (1 << 63) - 1), span(1 << 63, TOP)


@pytest.fixture
def three(client, space):
    """Guest mappings of four pages at GPA and IOVA 0x10000, 0x20000 and 0x30000."""
    return [client.map(space, HVA + n * MIB, 4 * PAGE, gpa=n * 0x10000, iova=n * 0x10000,
                       label=f"m{n}") for n in (1, 2, 3)]


def test_one_by_id_gpa_or_iova(client, space, three):
    for mapping, target in zip(three, (dict(mapping_id=three[0].mapping_id), dict(at_gpa=0x20000),
                                       dict(at_iova=0x30000))):
        revision = client.space(space).revision
        answer = client.Unmap(space=space, target=target)
        assert list(answer.result.removed) == [mapping]
        assert answer.result.removed_count == 1
        assert answer.result.removed_bytes == 4 * PAGE
        assert not answer.result.truncated and not answer.result.remainders
        assert answer.revision == revision + 1 == client.space(space).revision
    assert client.mappings(space) == []


@pytest.mark.parametrize("target", [
    dict(mapping_id=12345), dict(at_gpa=0x11000), dict(at_iova=0x21000), dict(at_gpa=0x40000),
    dict(gpa=span(0x14000, 0x1FFFF)), dict(iova=span(0x40000, TOP)), dict(hva=WHOLE)])
def test_nothing_there(client, space, three, target):
    assert len(three) == 3
    with unchanged(client, space):
        refusal = refused("MAPPING_NOT_FOUND", client.unmap, space, **target)
        assert space in refusal.message
        answer = client.Unmap(space=space, target=dict(target, allow_missing=True))
        assert answer.result.removed_count == 0
        assert answer.revision == client.space(space).revision


@pytest.mark.parametrize("what", ["gpa", "iova"])
def test_every_whole_mapping_inside_a_range(client, space, three, what):
    result = client.unmap(space, **{what: span(0x10000, 0x23FFF)})
    assert list(result.removed) == three[:2]
    assert (result.removed_count, result.removed_bytes) == (2, 8 * PAGE)
    assert client.mappings(space) == three[2:]


def test_a_range_exactly_around(client, space, three):
    assert list(client.unmap(space, iova=span(*bounds(three[1]))).removed) == [three[1]]


def test_the_whole_space_and_its_halves(client, make_space):
    space = make_space(iova_range=WHOLE)
    low = client.map(space, HVA, PAGE, gpa=0, iova=0)
    high = client.map(space, HVA, PAGE, gpa=TOP - 0xFFF, iova=TOP - 0xFFF)
    assert list(client.unmap(space, gpa=LOWER_HALF).removed) == [low]
    assert list(client.unmap(space, gpa=UPPER_HALF).removed) == [high]
    low = client.map(space, HVA, PAGE, gpa=0, iova=TOP - 0xFFF)
    high = client.map(space, HVA, PAGE, gpa=TOP - 0xFFF, iova=0)
    host = client.map(space, HVA, PAGE)
    assert list(client.unmap(space, gpa=WHOLE).removed) == [high, low]  # by IOVA
    assert list(client.unmap(space, iova=WHOLE).removed) == [host]


def test_ranges_of_host_addresses_see_host_memory_only(client, space):
    guest = client.map(space, HVA, 2 * PAGE, gpa=0)
    host = client.map(space, HVA, PAGE)
    result = client.unmap(space, hva=extent(HVA, 2 * PAGE))
    assert list(result.removed) == [host]
    assert client.mappings(space) == [guest]


def test_ranges_of_guest_addresses_see_guest_memory_only(client, space):
    host = client.map(space, HVA, PAGE)
    client.map(space, HVA, PAGE, gpa=0)
    assert client.unmap(space, gpa=WHOLE).removed_count == 1
    assert client.mappings(space) == [host]


def test_an_alias_goes_alone(client, space):
    ram = client.map(space, HVA, 16 * PAGE, gpa=0)
    alias = client.map(space, HVA + 4 * PAGE, 4 * PAGE, gpa=GIB)
    assert list(client.unmap(space, at_gpa=GIB).removed) == [alias]
    assert client.mappings(space) == [ram]


@pytest.mark.parametrize("what", ["gpa", "iova"])
@pytest.mark.parametrize("first, last, cut", [
    (0x11000, 0x12FFF, [0]), (0x10000, 0x10FFF, [0]), (0x13000, 0x13FFF, [0]),
    (0x12000, 0x21FFF, [0, 1]), (0x10000, 0x31FFF, [2]), (0x11000, 0x3FFFF, [0]),
    (0x10001, 0x13FFF, [0])])
def test_a_range_that_cuts_is_refused(client, space, three, what, first, last, cut):
    with unchanged(client, space):
        for missing in (False, True):
            refusal = refused("WOULD_SPLIT", client.unmap, space, allow_missing=missing,
                              **{what: span(first, last)})
            assert list(refusal.detail.conflicts) == [three[n] for n in cut]
            assert space in refusal.message
            assert hex(first) in refusal.message or hex(three[cut[0]].iova) in refusal.message


@pytest.mark.parametrize("what", ["gpa", "iova"])
def test_a_split_leaves_its_remainders_in_place(client, space, three, what):
    answer = client.Unmap(space=space, target={what: span(0x11000, 0x21FFF), "allow_split": True})
    assert list(answer.result.removed) == three[:2]
    assert answer.result.removed_count == 2
    head, tail = answer.result.remainders
    assert (head.iova, head.gpa, head.hva, head.size) == (0x10000, 0x10000, HVA + MIB, PAGE)
    assert (tail.iova, tail.gpa, tail.hva, tail.size) == (
        0x22000, 0x22000, HVA + 2 * MIB + 2 * PAGE, 2 * PAGE)
    assert (head.label, tail.label) == ("m1", "m2")
    assert head.revision == tail.revision == answer.revision
    assert {head.mapping_id, tail.mapping_id}.isdisjoint({m.mapping_id for m in three})
    assert client.mappings(space) == [head, tail, three[2]]


def test_a_hole_in_the_middle_leaves_two(client, space):
    there = client.map(space, HVA, 4 * PAGE, READ, iova=0x10000)
    result = client.unmap(space, hva=extent(HVA + PAGE, PAGE), allow_split=True)
    assert list(result.removed) == [there]
    assert [(m.iova, m.hva, m.size, m.access) for m in result.remainders] == [
        (0x10000, HVA, PAGE, READ), (0x12000, HVA + 2 * PAGE, 2 * PAGE, READ)]
    assert client.map(space, HVA + PAGE, PAGE, iova=0x11000).iova == 0x11000


def test_a_split_keeps_to_the_page(client, space, three):
    assert len(three) == 3
    with unchanged(client, space):
        for first, last in ((0x10800, 0x13FFF), (0x10000, 0x107FF)):
            refused("UNALIGNED", client.unmap, space, gpa=span(first, last), allow_split=True)
    # Nothing is left of either side: alignment does not matter.
    assert client.unmap(space, gpa=span(0xF801, 0x14001), allow_split=True).removed_count == 1


def test_a_split_needs_room_for_its_remainders(client, make_space):
    space = make_space(max_mappings=1)
    client.map(space, HVA, 4 * PAGE, gpa=0)
    with unchanged(client, space):
        refused("MAPPING_LIMIT", client.unmap, space, gpa=extent(PAGE, PAGE), allow_split=True)
    assert client.unmap(space, gpa=extent(0, PAGE), allow_split=True).removed_count == 1


@pytest.mark.parametrize("target", [
    dict(iova=WHOLE), dict(hva=WHOLE), dict(iova=WHOLE, allow_missing=True, allow_split=True),
    dict(hva=extent(HVA, PAGE)), dict(hva=extent(HVA, PAGE), allow_split=True)])
def test_memory_of_a_shadow_virtqueue_stays(client, space, target):
    client.map(space, HVA, PAGE, gpa=0)
    svq = client.AllocSVQ(space=space, queues=[dict(queue_size=256, driver_hva=HVA,
                                                    device_hva=HVA + MIB)]).svqs[0]
    with unchanged(client, space):
        refused("IN_USE", client.unmap, space, **target)
        for mapping in svq.mappings:
            refused("IN_USE", client.unmap, space, mapping_id=mapping.mapping_id)
            refused("IN_USE", client.unmap, space, at_iova=mapping.iova)
    assert client.unmap(space, gpa=WHOLE).removed_count == 1


@pytest.mark.parametrize("reason, target", [
    ("MISSING_FIELD", {}), ("MISSING_FIELD", dict(allow_missing=True)),
    ("EMPTY_RANGE", dict(gpa=span(2, 1))), ("EMPTY_RANGE", dict(iova=span(TOP, 0))),
    ("EMPTY_RANGE", dict(hva=span(2, 1)))])
def test_shape(client, space, three, reason, target):
    assert len(three) == 3
    with unchanged(client, space):
        refused(reason, client.unmap, space, **target)


def test_a_request_without_a_target(client, space):
    with unchanged(client, space):
        refused("MISSING_FIELD", client.Unmap, space=space)


def test_validate_only_takes_nothing(client, space, three):
    with unchanged(client, space):
        plan = client.Unmap(space=space, validate_only=True,
                            target=dict(gpa=span(0x11000, 0x3FFFF), allow_split=True))
        assert list(plan.result.removed) == three
        assert [m.mapping_id for m in plan.result.remainders] == [0]
        assert plan.revision == client.space(space).revision
        refused("WOULD_SPLIT", client.Unmap, space=space, validate_only=True,
                target=dict(gpa=span(0x11000, 0x3FFFF)))


def test_long_results_are_cut(client, space):
    count = 1001
    client.Update(space=space, ops=[dict(map=dict(
        gpa=n * 2 * PAGE, hva=HVA + n * 2 * PAGE, size=PAGE, access=READ)) for n in range(count)])
    there = client.mappings(space)
    assert len(there) == count
    result = client.unmap(space, gpa=WHOLE)
    assert list(result.removed) == there[:1000]
    assert result.truncated
    assert (result.removed_count, result.removed_bytes) == (count, count * PAGE)
    assert client.mappings(space) == []
