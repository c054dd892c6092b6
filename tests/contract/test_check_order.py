"""The order of the checks of a Map: of two things wrong, the earlier one answers.

    shape, range, reserved, IOVA, GPA, host HVA, limits, budget

The space is laid out so that one request can be wrong in any two of these ways:
mapping A, the reserved range, and mapping B up to the last address.
"""

import itertools

import pytest

from conftest import fresh_name
from harness import (FIRST_FIT, HVA, MIB, PAGE, Client, ranges, refused, span, spec, unchanged)

LAST = 0xFFFFFF
A = (0x700000, 0x7FFFFF)
RESERVED = (0x800000, 0x8FFFFF)
B = (0xF00000, LAST)
HOST_PLACE = 0x600000
# The IOVAs to ask for, by which of the three checks on them has to fail.
PLACES = {
    frozenset(): (0x100000, 0x100FFF),
    frozenset(["OUTSIDE_IOVA_RANGE"]): (LAST + 1, LAST + PAGE),
    frozenset(["RESERVED_OVERLAP"]): RESERVED,
    frozenset(["IOVA_OVERLAP"]): A,
    frozenset(["OUTSIDE_IOVA_RANGE", "IOVA_OVERLAP"]): (B[0], LAST + PAGE),
    frozenset(["RESERVED_OVERLAP", "IOVA_OVERLAP"]): (A[0], RESERVED[1]),
    frozenset(["OUTSIDE_IOVA_RANGE", "RESERVED_OVERLAP"]): (RESERVED[0], LAST + PAGE),
}
SHAPES = {
    "UNALIGNED": dict(hva=HVA + 1), "EMPTY_RANGE": dict(size=0), "INVALID_ACCESS": dict(access=0),
    "INVALID_LABEL": dict(label="x" * 65), "RANGE_WRAPS": dict(hva=-PAGE % 2**64, size=2 * PAGE),
}
ORDER = [*SHAPES, "OUTSIDE_IOVA_RANGE", "RESERVED_OVERLAP", "IOVA_OVERLAP", "GPA_OVERLAP",
         "HOST_HVA_OVERLAP", "MAPPING_LIMIT", "ENTRY_BUDGET"]
PAIRS = [
    pair for pair in itertools.combinations(ORDER, 2)
    # Guest memory is not checked against host HVAs; the order within the shape is open; and
    # what has no size or wraps is nowhere.
    if set(pair) != {"GPA_OVERLAP", "HOST_HVA_OVERLAP"} and not set(pair) <= set(SHAPES)]


def request(wrong):
    """A MappingSpec that is wrong in the ways named."""
    places = {"OUTSIDE_IOVA_RANGE", "RESERVED_OVERLAP", "IOVA_OVERLAP"}
    first, last = PLACES[frozenset(wrong) & places]
    fields = dict(hva=HVA + 512 * MIB, size=last - first + 1, iova=first, gpa=0x100000)
    if "GPA_OVERLAP" in wrong:
        fields["gpa"] = A[0]
    if "HOST_HVA_OVERLAP" in wrong:
        del fields["gpa"]
        fields["hva"] = HVA
    for shape in set(wrong) & set(SHAPES):
        fields.update(SHAPES[shape])
    return spec(**fields)


@pytest.fixture(scope="module")
def spaces(client):
    """Names of three alike: one with room, one with no room on its device, one full as well."""
    made = {}
    for kind, limit, budget in (("roomy", 0, 0), ("budget", 0, 3), ("full", 3, 3)):
        name = made[kind] = fresh_name(kind)
        client.CreateSpace(space=name, placement=FIRST_FIT, iova_range=span(0, LAST),
                           reserved=ranges(RESERVED), max_mappings=limit)
        for first, last in (A, B):
            client.map(name, HVA, last - first + 1, gpa=first, iova=first)
        client.map(name, HVA, 2 * MIB, iova=HOST_PLACE - MIB)
        device = fresh_name("device")
        client.OpenDevice(device=device, simulated=dict(entry_budget=budget))
        client.AttachDevice(space=name, device=device)
    return made


def space_for(spaces, wrong):
    if "MAPPING_LIMIT" in wrong:
        return spaces["full"]  # where the budget is short too
    return spaces["budget" if "ENTRY_BUDGET" in wrong else "roomy"]


@pytest.mark.parametrize("reason", ORDER)
def test_each_alone(client: Client, spaces, reason):
    space = space_for(spaces, [reason])
    with unchanged(client, space):
        refusal = refused(reason, client.Map, space=space, mapping=request([reason]))
    assert space in refusal.message


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_the_earlier_of_two(client, spaces, pair):
    space = space_for(spaces, pair)
    with unchanged(client, space):
        refused(pair[0], client.Map, space=space, mapping=request(pair))
        refused(pair[0], client.Map, space=space, mapping=request(pair), validate_only=True)
        refusal = refused(pair[0], client.update, space, spec(HVA, PAGE, gpa=0, iova=0)
                          if "roomy" in space else dict(at_iova=0, allow_missing=True),
                          request(pair))
        assert refusal.detail.op_index == 1


def test_none_wrong(client, spaces):
    answer = client.Map(space=spaces["roomy"], mapping=request([]), validate_only=True)
    assert answer.mapping.iova == 0x100000
