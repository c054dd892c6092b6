"""Update and StreamUpdates: one revision for all of it, or nothing."""

import queue

import pytest

from harness import (GIB, HVA, MIB, PAGE, Refusal, extent, make_ops, refused, span, spec,
                     unchanged)


def maps(count, gpa=0):
    """Specs of single pages, a page apart in each kind of address."""
    return [spec(HVA + gpa + n * 2 * PAGE, PAGE, gpa=gpa + n * 2 * PAGE) for n in range(count)]


def test_results_come_in_order_with_one_revision(client, space):
    old = client.map(space, HVA, PAGE, gpa=GIB)
    answer = client.update(space, spec(HVA, PAGE, gpa=0), dict(at_gpa=GIB),
                           spec(HVA + MIB, PAGE), dict(gpa=span(GIB, 2 * GIB), allow_missing=True))
    assert [r.WhichOneof("result") for r in answer.results] == [
        "mapped", "unmapped", "mapped", "unmapped"]
    guest, host = answer.results[0].mapped, answer.results[2].mapped
    assert list(answer.results[1].unmapped.removed) == [old]
    assert answer.results[3].unmapped.removed_count == 0
    assert answer.revision == guest.revision == host.revision == 3
    assert client.space(space).revision == 3
    assert sorted(m.mapping_id for m in client.mappings(space)) == sorted(
        [guest.mapping_id, host.mapping_id])


def test_later_operations_see_earlier_ones(client, space):
    old = client.map(space, HVA, 4 * PAGE, gpa=0)
    answer = client.update(
        space, dict(at_gpa=0), spec(HVA + MIB, 2 * PAGE, gpa=0), spec(HVA, PAGE, gpa=0x2000),
        dict(at_gpa=0x2000), spec(HVA, PAGE, gpa=0x2000, iova=0x100000))
    assert answer.results[1].mapped.iova == old.iova  # the freed place serves again
    assert [(m.gpa, m.hva) for m in client.mappings(space)] == [(0, HVA + MIB), (0x2000, HVA)]
    with unchanged(client, space):
        refusal = refused("GPA_OVERLAP", client.update, space, spec(HVA, PAGE, gpa=GIB),
                          spec(HVA, 2 * PAGE, gpa=GIB))
        assert refusal.detail.op_index == 1


@pytest.mark.parametrize("position", [0, 3, 6])
@pytest.mark.parametrize("reason, bad", [
    ("GPA_OVERLAP", spec(HVA, PAGE, gpa=0x200000)), ("UNALIGNED", spec(HVA + 1, PAGE, gpa=0)),
    ("OUTSIDE_IOVA_RANGE", spec(HVA, PAGE, gpa=0x400000, iova=1 << 50)),
    ("MAPPING_NOT_FOUND", dict(at_gpa=0x600000)),
    ("WOULD_SPLIT", dict(gpa=extent(0x200000, PAGE))), ("MISSING_FIELD", {})])
def test_all_or_nothing(client, space, position, reason, bad):
    client.map(space, HVA, 4 * PAGE, gpa=0x200000)
    ops = maps(6)
    ops.insert(position, bad)
    with unchanged(client, space):
        refusal = refused(reason, client.update, space, *ops)
        assert refusal.detail.op_index == position
        assert space in refusal.message
    ops.remove(bad)
    answer = client.update(space, *ops)
    assert answer.revision == client.space(space).revision == 3


def test_ids_of_a_refused_batch_may_be_lost_but_never_come_twice(client, space):
    first = client.map(space, HVA, PAGE, gpa=GIB)
    refused("GPA_OVERLAP", client.update, space, *maps(3), spec(HVA, 2 * PAGE, gpa=GIB))
    ids = [r.mapped.mapping_id for r in client.update(space, *maps(3)).results]
    assert ids == sorted(set(ids)) and ids[0] > first.mapping_id


def test_an_operation_must_be_one(client, space):
    with unchanged(client, space):
        refusal = refused("MISSING_FIELD", client.Update, space=space,
                          ops=[dict(map=maps(1)[0]), {}])
        assert refusal.detail.op_index == 1


def test_without_effect_no_revision(client, space):
    with unchanged(client, space):
        answer = client.update(space, dict(gpa=span(0, GIB), allow_missing=True),
                               dict(mapping_id=999, allow_missing=True))
        assert answer.revision == client.space(space).revision
        assert [r.unmapped.removed_count for r in answer.results] == [0, 0]


def test_validate_only(client, space):
    client.map(space, HVA, PAGE, gpa=GIB)
    with unchanged(client, space):
        plan = client.update(space, *maps(2), dict(at_gpa=GIB), validate_only=True)
        assert [r.mapped.mapping_id for r in plan.results[:2]] == [0, 0]
        assert plan.revision == 2
        refused("MAPPING_NOT_FOUND", client.update, space, *maps(2), dict(at_gpa=0x5000),
                validate_only=True)
    done = client.update(space, *maps(2), dict(at_gpa=GIB))
    assert [r.mapped.iova for r in done.results[:2]] == [r.mapped.iova for r in plan.results[:2]]


# --- StreamUpdates ---


@pytest.fixture
def stream(client):
    """A function that sends one update on an open stream and returns the answer to it."""
    requests = queue.Queue()
    call = client.StreamUpdates(iter(requests.get, None), timeout=60)

    def send(sequence, **update):
        requests.put(client.request("StreamUpdates", sequence=sequence, update=update))
        return next(call)

    yield send
    requests.put(None)
    assert list(call) == [], "answers to nothing"


def test_a_stream_goes_on_after_a_refusal(client, space, stream):
    done = stream(7, space=space, ops=make_ops(maps(2)))
    assert (done.sequence, done.WhichOneof("outcome"), done.update.revision) == (7, "update", 2)
    assert len(done.update.results) == 2

    with unchanged(client, space):
        failed = stream(7, space=space, ops=make_ops([spec(HVA, 2 * PAGE, gpa=PAGE)]))
        assert (failed.sequence, failed.WhichOneof("outcome")) == (7, "error")
        assert Refusal(failed.error).reason == "GPA_OVERLAP"
        lost = stream(1, space="no-such-space", ops=[])
        assert Refusal(lost.error).reason == "SPACE_NOT_FOUND"
        nothing = stream(0)
        assert Refusal(nothing.error).reason in ("MISSING_FIELD", "INVALID_NAME")

    done = stream(2**64 - 1, space=space, ops=[dict(unmap=dict(at_gpa=0))])
    assert (done.sequence, done.update.revision) == (2**64 - 1, 3)


def test_a_stream_answers_in_order(client, space):
    """All are sent before any answer is read."""
    count = 300
    requests = [client.request("StreamUpdates", sequence=n, update=dict(
        space=space, ops=make_ops([spec(HVA + n * PAGE, PAGE, gpa=n * PAGE)] if n % 10 else [
            dict(mapping_id=1 << 40)]))) for n in range(count)]
    answers = list(client.StreamUpdates(iter(requests), timeout=60))
    assert [a.sequence for a in answers] == list(range(count))
    assert [a.WhichOneof("outcome") for a in answers] == [
        "update" if n % 10 else "error" for n in range(count)]
    revisions = [a.update.revision for a in answers if a.HasField("update")]
    assert revisions == list(range(2, 2 + len(revisions)))


def test_one_stream_may_serve_several_spaces(client, make_space, stream):
    spaces = [make_space() for _ in range(3)]
    for n, space in enumerate(spaces * 2):
        answer = stream(n, space=space, ops=make_ops(maps(1, gpa=n * MIB)))
        assert answer.update.revision == 2 + n // 3
    for space in spaces:
        assert client.space(space).mapping_count == 2


def test_validate_only_on_a_stream(client, space, stream):
    with unchanged(client, space):
        answer = stream(1, space=space, ops=make_ops(maps(2)), validate_only=True)
        assert [r.mapped.mapping_id for r in answer.update.results] == [0, 0]
