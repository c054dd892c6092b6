"""The case that iovad exists for: two guest-physical ranges over one host range.

A guest of 128 GiB maps its RAM below and above 4 GiB, and then a small range whose
host memory is a part of the first. Unmapping that third one by its GPA has to free
the third's IOVA range and leave the first alone.
"""

import pytest

from device_table import (INVALIDATE, UPDATE, assert_in_step, device_log, last_sequence, messages)
from harness import PAGE, FIRST_FIT, bounds, ranges, refused, span, unchanged

MAPPED = [  # HVA, GPA, size, IOVA
    (0x7F7903E00000, 0x0, 0x80000000, 0x1000),
    (0x7F7983E00000, 0x100000000, 0x1F80000000, 0x80001000),
    (0x7F7903EA0000, 0xFEDA0000, 0x20000, 0x2000001000),
]
THIRD_IOVA = (0x2000001000, 0x2000020FFF)


@pytest.fixture
def case(client, make_space, device, attach):
    """The space with the three mappings, on a device. Its range ends where the third does, so
    that nothing but the third's place can be free later on."""
    space = make_space(placement=FIRST_FIT, reserved=ranges(), iova_range=span(0, THIRD_IOVA[1]))
    attach(space, device)
    mappings = []
    for hva, gpa, size, iova in MAPPED:
        mapping = client.map(space, hva, size, gpa=gpa)
        assert (mapping.iova, mapping.size) == (iova, size)
        mappings.append(mapping)
    return space, device, mappings


def test_the_third_goes_by_its_gpa(client, case):
    space, device, mappings = case
    size = MAPPED[2][2]
    with unchanged(client, space):
        refused("IOVA_EXHAUSTED", client.map, space, 0x7E0000000000, PAGE, gpa=0x3000000000)
    before = last_sequence(client, device)

    result = client.unmap(space, at_gpa=0xFEDA0000)

    assert list(result.removed) == [mappings[2]]
    assert client.mappings(space) == mappings[:2]
    assert messages(device_log(client, device, before)) == [(INVALIDATE, *THIRD_IOVA)]
    assert_in_step(client, space, device)
    # Exactly its range is free: a page more does not fit, the size itself goes there.
    with unchanged(client, space):
        refusal = refused("IOVA_EXHAUSTED", client.map, space, 0x7E0000000000, size + PAGE,
                          gpa=0x3000000000)
        assert list(refusal.detail.ranges) == [span(*THIRD_IOVA)]
    filler = client.map(space, 0x7E0000000000, size, gpa=0x3000000000)
    assert bounds(filler) == THIRD_IOVA


def test_the_first_still_translates(client, case):
    space, _, mappings = case
    for address in (dict(hva=0x7F7903EA0000), dict(gpa=0xA0000), dict(iova=0xA1000)):
        answer = client.translate(space, **address)
        assert answer.alias_count == 1
    client.unmap(space, at_gpa=0xFEDA0000)
    for address in (dict(hva=0x7F7903EA0000), dict(gpa=0xA0000), dict(iova=0xA1000)):
        answer = client.translate(space, size=0x20000, **address)
        assert answer.alias_count == 0
        assert not answer.HasField("fault")
        segment, = answer.segments
        assert (segment.iova, segment.hva, segment.gpa, segment.size, segment.mapping_id) == (
            0xA1000, 0x7F7903EA0000, 0xA0000, 0x20000, mappings[0].mapping_id)
    assert client.translate(space, gpa=0xFEDA0000).HasField("fault")


def test_a_neighbour_above_stays(client, make_space, device, attach):
    """The same in a space that goes on above the third, with a fourth mapping there."""
    space = make_space(placement=FIRST_FIT, reserved=ranges())
    attach(space, device)
    for hva, gpa, size, _ in MAPPED:
        client.map(space, hva, size, gpa=gpa)
    fourth = client.map(space, 0x7E0000000000, PAGE, gpa=0x4000000000)
    assert fourth.iova == THIRD_IOVA[1] + 1
    client.unmap(space, at_gpa=0xFEDA0000)
    above = client.map(space, 0x7D0000000000, MAPPED[2][2] + PAGE, gpa=0x5000000000)
    assert above.iova == fourth.iova + PAGE
    inside = client.map(space, 0x7C0000000000, MAPPED[2][2], gpa=0x6000000000)
    assert bounds(inside) == THIRD_IOVA
    log = messages(device_log(client, device))
    assert [m for m in log if m[0] == INVALIDATE] == [(INVALIDATE, *THIRD_IOVA)]
    assert sum(m[0] == UPDATE for m in log) == 6
    assert_in_step(client, space, device)


def test_each_of_the_aliases_is_unambiguous(client, case):
    """By GPA the first goes as well as the third; the other one stays."""
    space, device, mappings = case
    assert list(client.unmap(space, at_gpa=0).removed) == [mappings[0]]
    segment, = client.translate(space, hva=0x7F7903EA0000).segments
    assert segment.mapping_id == mappings[2].mapping_id
    assert_in_step(client, space, device)
