"""Map: placement, fixed places, what may not meet what, validate_only, ids, revisions."""

import pytest

from harness import (CONGRUENT, FIRST_FIT, GIB, GUEST, HOST, HVA, IDENTITY, MIB, PAGE, READ,
                     READ_WRITE, TOP, WRITE, extent, ranges, refused, span, spec, unchanged)

MSI_WINDOW = span(0xFEE00000, 0xFEEFFFFF)


def test_a_mapping_says_what_was_asked(client, space):
    answer = client.Map(space=space, mapping=spec(HVA, 2 * PAGE, READ, gpa=0x5000, label="rom ä"))
    mapping = answer.mapping
    assert (mapping.gpa, mapping.hva, mapping.size, mapping.access, mapping.label) == (
        0x5000, HVA, 2 * PAGE, READ, "rom ä")
    assert mapping.kind == GUEST
    assert mapping.iova == PAGE  # first-fit; the page at 0 is never handed out
    assert mapping.mapping_id > 0
    assert (mapping.svq_id, mapping.memory_id) == (0, 0)
    assert mapping.revision == answer.revision == client.space(space).revision == 2
    assert client.mappings(space) == [mapping]


def test_host_memory_has_no_gpa(client, space):
    mapping = client.map(space, HVA, PAGE, WRITE)
    assert mapping.kind == HOST
    assert not mapping.HasField("gpa")
    guest = client.map(space, HVA + PAGE, PAGE, gpa=0)
    assert guest.HasField("gpa") and guest.gpa == 0


def test_ids_rise_and_revisions_count(client, space):
    ids = []
    for n in range(5):
        mapping = client.map(space, HVA + n * PAGE, PAGE, gpa=n * PAGE)
        assert mapping.revision == 2 + 2 * n
        client.unmap(space, mapping_id=mapping.mapping_id)
        ids.append(mapping.mapping_id)
    assert ids == sorted(set(ids))
    refused("MAPPING_NOT_FOUND", client.unmap, space, mapping_id=ids[0])


def test_first_fit_takes_the_lowest_gap(client, space):
    a, b, c = (client.map(space, HVA + n * MIB, 4 * PAGE, gpa=n * MIB) for n in range(3))
    assert [m.iova for m in (a, b, c)] == [0x1000, 0x5000, 0x9000]
    client.unmap(space, at_iova=b.iova)
    assert client.map(space, HVA, 5 * PAGE, gpa=4 * MIB).iova == 0xD000
    assert client.map(space, HVA, 3 * PAGE, gpa=5 * MIB).iova == 0x5000
    assert client.map(space, HVA, PAGE, gpa=6 * MIB).iova == 0x8000
    assert client.map(space, HVA, PAGE).iova == 0x12000  # host-only memory too


@pytest.mark.parametrize("size, modulus", [
    (PAGE, PAGE), (MIB, PAGE), (2 * MIB, 2 * MIB), (5 * MIB, 2 * MIB), (GIB, GIB), (3 * GIB, GIB)])
def test_congruent_places_for_huge_pages(client, make_space, size, modulus):
    space = make_space(placement=CONGRUENT)
    hva = HVA + 0x12345000
    mapping = client.map(space, hva, size, gpa=0)
    assert mapping.iova % modulus == hva % modulus
    assert mapping.iova >= PAGE
    assert mapping.iova < 2 * GIB, "not a low place"


def test_congruent_keeps_host_memory_low_or_high(client, make_space):
    space = make_space(placement=CONGRUENT, iova_range=span(0, (1 << 40) - 1))
    small = client.map(space, HVA, PAGE)
    large = client.map(space, HVA + MIB, 4 * MIB)
    # Under 2 MiB, else downward from the top.
    assert small.iova + small.size <= 2 * MIB
    assert large.iova + large.size == 1 << 40


def test_identity_places_at_the_gpa(client, make_space):
    space = make_space(placement=IDENTITY, iova_range=span(0, (1 << 40) - 1))
    assert client.map(space, HVA, PAGE, gpa=0).iova == 0
    assert client.map(space, HVA, PAGE, gpa=0x7000).iova == 0x7000
    assert client.map(space, HVA + MIB, PAGE).iova == (1 << 40) - PAGE
    assert client.map(space, HVA, PAGE, gpa=0x9000, iova=0x20000).iova == 0x20000
    with unchanged(client, space):
        refused("IOVA_OVERLAP", client.map, space, HVA, PAGE, gpa=0x20000)
        refused("OUTSIDE_IOVA_RANGE", client.map, space, HVA, PAGE, gpa=1 << 40)


def test_a_fixed_place_may_be_zero(client, space):
    assert client.map(space, HVA, PAGE, gpa=0x8000, iova=0).iova == 0


def test_reserved_ranges_are_never_used(client, make_space):
    space = make_space(reserved=ranges((0x2000, 0x2FFF)))
    assert client.map(space, HVA, PAGE, gpa=0).iova == 0x1000
    assert client.map(space, HVA, PAGE, gpa=0x1000).iova == 0x3000
    with unchanged(client, space):
        refused("RESERVED_OVERLAP", client.map, space, HVA, PAGE, gpa=0x2000, iova=0x2000)


def test_the_default_reserve_is_the_msi_window(client, make_space):
    space = make_space(reserved=None)
    for first in (MSI_WINDOW.first - PAGE, MSI_WINDOW.first, MSI_WINDOW.last + 1 - PAGE):
        refusal = refused("RESERVED_OVERLAP", client.map, space, HVA, 2 * PAGE, gpa=0, iova=first)
        assert refusal.detail.ranges[0] in (MSI_WINDOW, extent(first, 2 * PAGE))
    client.map(space, HVA, PAGE, gpa=0, iova=MSI_WINDOW.first - PAGE)
    client.map(space, HVA, PAGE, gpa=PAGE, iova=MSI_WINDOW.last + 1)


@pytest.mark.parametrize("iova, size, fits", [
    (0x10000, PAGE, True), (0x1F000, PAGE, True), (0x10000, 0x10000, True),
    (0xF000, PAGE, False), (0xF000, 2 * PAGE, False), (0x1F000, 2 * PAGE, False),
    (0x20000, PAGE, False), (0, PAGE, False), (TOP - 0xFFF, PAGE, False), (0xF000, 0x12000, False)])
def test_the_range_is_inclusive_on_both_ends(client, make_space, iova, size, fits):
    space = make_space(iova_range=span(0x10000, 0x1FFFF))
    if fits:
        assert client.map(space, HVA, size, gpa=0, iova=iova).iova == iova
        return
    with unchanged(client, space):
        refusal = refused("OUTSIDE_IOVA_RANGE", client.map, space, HVA, size, gpa=0, iova=iova)
    assert list(refusal.detail.ranges) == [extent(iova, size), span(0x10000, 0x1FFFF)]
    assert hex(iova) in refusal.message


def test_the_last_page_of_64_bits(client, make_space):
    space = make_space(iova_range=span(0, TOP))
    mapping = client.map(space, TOP - 0xFFF, PAGE, gpa=TOP - 0xFFF, iova=TOP - 0xFFF)
    for address in (dict(iova=TOP), dict(gpa=TOP), dict(hva=TOP)):
        assert client.translate(space, **address).segments[0].mapping_id == mapping.mapping_id
    with unchanged(client, space):
        refused("RANGE_WRAPS", client.map, space, HVA, 2 * PAGE, gpa=0, iova=TOP - 0xFFF)
        refused("RANGE_WRAPS", client.map, space, TOP - 0xFFF, 2 * PAGE, gpa=0)
        refused("RANGE_WRAPS", client.map, space, HVA, 2 * PAGE, gpa=TOP - 0xFFF)
        refused("IOVA_OVERLAP", client.map, space, HVA, PAGE, gpa=0, iova=TOP - 0xFFF)
        refused("WOULD_SPLIT", client.unmap, space, iova=span(TOP, TOP))
    assert client.unmap(space, iova=span(TOP - 0xFFF, TOP)).removed_count == 1


@pytest.mark.parametrize("first, pages", [(0x3000, 1), (0x4000, 4), (0x3000, 2), (0x7000, 2),
                                          (0x5000, 2), (0x3000, 6)])
def test_iovas_and_gpas_do_not_overlap(client, space, first, pages):
    """Every way to meet a mapping of [0x4000, 0x7fff]; only the first does not."""
    there = client.map(space, HVA, 4 * PAGE, gpa=0x4000, iova=0x4000)
    size = pages * PAGE
    if pages == 1:
        client.map(space, HVA, size, gpa=first, iova=first)
        return
    with unchanged(client, space):
        for reason, where in (("IOVA_OVERLAP", dict(gpa=GIB, iova=first)),
                              ("GPA_OVERLAP", dict(gpa=first, iova=GIB))):
            refusal = refused(reason, client.map, space, HVA, size, **where)
            assert list(refusal.detail.conflicts) == [there]
            assert hex(first) in refusal.message


def test_host_memory_overlaps_no_other_host_memory(client, space):
    there = client.map(space, HVA + PAGE, 2 * PAGE)
    with unchanged(client, space):
        for hva, pages in ((HVA, 2), (HVA, 4), (HVA + 2 * PAGE, 2), (HVA + PAGE, 1)):
            refusal = refused("HOST_HVA_OVERLAP", client.map, space, hva, pages * PAGE)
            assert list(refusal.detail.conflicts) == [there]
            assert hex(hva) in refusal.message
    client.map(space, HVA, PAGE)
    client.map(space, HVA + 3 * PAGE, PAGE)
    # Guest memory may be where host-only memory is, and as often as it likes.
    client.map(space, HVA, 8 * PAGE, gpa=0)
    client.map(space, HVA, 8 * PAGE, gpa=GIB)


def test_the_identical_mapping_exists_already(client, space):
    guest = client.map(space, HVA, PAGE, gpa=0, label="one")
    host = client.map(space, HVA + MIB, PAGE)
    with unchanged(client, space):
        for fields, there in (
                (dict(hva=HVA, gpa=0), guest), (dict(hva=HVA, gpa=0, iova=guest.iova), guest),
                (dict(hva=HVA, gpa=0, label="other"), guest), (dict(hva=HVA + MIB), host)):
            refusal = refused("MAPPING_EXISTS", client.map, space, size=PAGE, **fields)
            assert list(refusal.detail.conflicts) == [there]
        # Not the identical one: something differs.
        refused("GPA_OVERLAP", client.map, space, HVA, PAGE, READ, gpa=0)
        refused("GPA_OVERLAP", client.map, space, HVA + PAGE, PAGE, gpa=0)
        refused("GPA_OVERLAP", client.map, space, HVA, PAGE, gpa=0, iova=MIB)
        refused("GPA_OVERLAP", client.map, space, HVA, 2 * PAGE, gpa=0)
        refused("HOST_HVA_OVERLAP", client.map, space, HVA + MIB, PAGE, READ)


@pytest.mark.parametrize("reason, fields", [
    ("UNALIGNED", dict(hva=HVA + 1)), ("UNALIGNED", dict(size=PAGE + 1)),
    ("UNALIGNED", dict(size=1)), ("UNALIGNED", dict(gpa=0x800)), ("UNALIGNED", dict(iova=0x1800)),
    ("EMPTY_RANGE", dict(size=0)),
    ("INVALID_ACCESS", dict(access=0)), ("INVALID_ACCESS", dict(access=4)),
    ("INVALID_LABEL", dict(label="x" * 65)), ("INVALID_LABEL", dict(label="a\nb")),
    ("INVALID_LABEL", dict(label="\x7f")),
])
def test_shape(client, space, reason, fields):
    with unchanged(client, space):
        refused(reason, client.map, space, **{**dict(hva=HVA, size=PAGE, gpa=0), **fields})


def test_a_request_without_a_mapping(client, space):
    with unchanged(client, space):
        refused("MISSING_FIELD", client.Map, space=space)


def test_labels_are_counted_in_characters(client, space):
    assert client.map(space, HVA, PAGE, gpa=0, label="ä" * 64).label == "ä" * 64


def test_alignment_is_the_spaces_own(client, make_space):
    space = make_space(iova_page_size=0x10000)
    assert client.map(space, HVA, 0x10000, gpa=0).iova % 0x10000 == 0
    with unchanged(client, space):
        for fields in (dict(size=PAGE), dict(hva=HVA + PAGE), dict(gpa=PAGE), dict(iova=PAGE)):
            refused("UNALIGNED", client.map, space,
                    **{**dict(hva=HVA, size=0x10000, gpa=MIB), **fields})


def test_validate_only_reserves_nothing(client, space):
    plan = client.Map(space=space, mapping=spec(HVA, PAGE, gpa=0, label="x"), validate_only=True)
    assert plan.mapping.mapping_id == 0
    assert plan.revision == 1
    assert client.mappings(space) == [] and client.space(space).revision == 1
    done = client.map(space, HVA, PAGE, gpa=0, label="x")
    assert plan.mapping.iova == done.iova and plan.mapping.gpa == done.gpa
    with unchanged(client, space):
        refused("GPA_OVERLAP", client.Map, space=space, mapping=spec(HVA + MIB, PAGE, gpa=0),
                validate_only=True)


def test_exhausted_says_the_largest_free_range(client, make_space):
    space = make_space(iova_range=span(0, 0xFFFF))
    client.map(space, HVA, PAGE, gpa=0, iova=0x5000)
    with unchanged(client, space):
        refusal = refused("IOVA_EXHAUSTED", client.map, space, HVA, 0xB000, gpa=MIB)
    assert list(refusal.detail.ranges) == [span(0x6000, 0xFFFF)]
    assert client.map(space, HVA, 0xA000, gpa=MIB, access=READ_WRITE).iova == 0x6000


@pytest.mark.parametrize("placement", [FIRST_FIT, CONGRUENT])
def test_a_space_can_be_filled_to_the_last_page(client, make_space, placement):
    space = make_space(iova_range=span(0x1000, 0x10FFF), placement=placement)
    taken = sorted(client.map(space, HVA + n * PAGE, PAGE, gpa=n * PAGE).iova for n in range(16))
    assert taken == list(range(0x1000, 0x11000, PAGE))
    with unchanged(client, space):
        assert not refused("IOVA_EXHAUSTED", client.map, space, HVA, PAGE, gpa=MIB).detail.ranges
