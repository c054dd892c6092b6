"""ListMappings: pages of one revision, tokens, filters."""

import pytest

from harness import (GUEST, HOST, HVA, PAGE, READ, TOP, bounds, extent, make_ops, refused, span,
                     spec)

COUNT = 50


@pytest.fixture
def filled(client, space):
    """The mappings of a space with COUNT of them: every third host-only, none touching another."""
    client.update(space, *(spec(HVA + n * 2 * PAGE, PAGE, iova=(n + 1) * 2 * PAGE,
                                **({} if n % 3 == 0 else dict(gpa=n * 2 * PAGE)))
                           for n in range(COUNT)))
    return list(client.ListMappings(space=space).mappings)


def page(client, space, token="", size=7, **fields):
    return client.ListMappings(space=space, page_size=size, page_token=token, **fields)


def test_by_iova_with_the_revision(client, space, filled):
    answer = client.ListMappings(space=space)
    assert not answer.next_page_token
    assert answer.revision == client.space(space).revision == 2
    iovas = [m.iova for m in answer.mappings]
    assert iovas == sorted(iovas) and len(iovas) == COUNT == len(filled)


@pytest.mark.parametrize("size", [1, 7, COUNT - 1, COUNT, COUNT + 1])
def test_pages_make_the_whole(client, space, filled, size):
    sizes, listed, token = [], [], ""
    while True:
        answer = page(client, space, token, size)
        sizes.append(len(answer.mappings))
        listed += answer.mappings
        token = answer.next_page_token
        if not token:
            break
    assert listed == filled
    assert all(0 < got <= size for got in sizes)


def test_pages_are_of_one_revision(client, space, filled):
    """What changes between the pages, before and behind them, is not seen."""
    first = page(client, space)
    client.unmap(space, iova=span(*bounds(filled[0])))
    client.unmap(space, iova=span(*bounds(filled[30])))
    client.map(space, HVA, PAGE, gpa=TOP - 0xFFF, iova=0x1000)
    client.map(space, HVA, PAGE, gpa=TOP - 0x1FFF, iova=filled[30].iova)
    client.map(space, HVA, PAGE, gpa=TOP - 0x2FFF, iova=1 << 40)
    listed, answer = list(first.mappings), first
    while answer.next_page_token:
        answer = page(client, space, answer.next_page_token)
        assert answer.revision == first.revision
        listed += answer.mappings
    assert listed == filled
    assert len(client.mappings(space)) == COUNT + 1


def test_pages_under_a_stream_of_changes(client, space, filled):
    """Each update swaps one set of mappings for another, so that every revision has as many
    and all of them carry the same label: a mixture of revisions would show."""
    assert filled
    client.unmap(space, iova=span(0, TOP))
    count, rounds = 40, 60

    def swap(n):
        ops = [] if n == 0 else [dict(gpa=extent(0, 1 << 30))]
        ops += [spec(HVA, PAGE, READ, gpa=i * PAGE, label=f"round {n}") for i in range(count)]
        return client.request("StreamUpdates", sequence=n,
                              update=dict(space=space, ops=make_ops(ops)))

    revisions = set()
    for answer in client.StreamUpdates(iter([swap(n) for n in range(rounds)]), timeout=60):
        assert answer.HasField("update")
        listed = client.mappings(space, page_size=9)
        assert len(listed) == count
        labels = {m.label for m in listed}
        assert len(labels) == 1
        revisions.add(listed[0].revision)
    assert len(revisions) > 1 and max(revisions) == client.space(space).revision


def test_a_token_may_be_used_again(client, space, filled):
    token = page(client, space).next_page_token
    assert page(client, space, token) == page(client, space, token)
    assert list(page(client, space, token).mappings) == filled[7:14]


def test_filter_by_kind(client, space, filled):
    guests = client.mappings(space, page_size=4, kind=GUEST)
    hosts = client.mappings(space, page_size=4, kind=HOST)
    assert guests == [m for m in filled if m.HasField("gpa")]
    assert hosts == [m for m in filled if not m.HasField("gpa")]
    assert len(hosts) == 17
    refused("INVALID_VALUE", client.ListMappings, space=space, kind=9)


@pytest.mark.parametrize("first, last, expected", [
    (0, TOP, slice(None)), (0, 0x1FFF, slice(0, 0)), (0, 0x2000, slice(0, 1)),
    (0x2FFF, 0x2FFF, slice(0, 1)), (0x3000, 0x3FFF, slice(0, 0)), (0x2800, 0x4800, slice(0, 2)),
    (COUNT * 2 * PAGE, TOP, slice(COUNT - 1, None)), (TOP, TOP, slice(0, 0))])
def test_filter_by_iova(client, space, filled, first, last, expected):
    assert client.mappings(space, page_size=11, iova=span(first, last)) == filled[expected]


def test_filters_together(client, space, filled):
    listed = client.mappings(space, page_size=2, iova=span(0, 10 * 2 * PAGE), kind=HOST)
    assert listed == [m for m in filled[:10] if not m.HasField("gpa")]


def test_an_inverted_filter_is_refused(client, space):
    refused("EMPTY_RANGE", client.ListMappings, space=space, iova=span(2, 1))


def test_an_empty_space(client, space):
    answer = client.ListMappings(space=space)
    assert not answer.mappings and not answer.next_page_token and answer.revision == 1


@pytest.mark.parametrize("mangle", [
    lambda token: "mangled", lambda token: token[:-1], lambda token: token + "x",
    lambda token: token[::-1], lambda token: "0" * len(token), lambda token: "\n" + token])
def test_mangled_tokens(client, space, filled, mangle):
    assert filled
    token = mangle(page(client, space).next_page_token)
    refused("INVALID_PAGE_TOKEN", page, client, space, token)


def test_a_token_of_another_space(client, make_space, space, filled):
    assert filled
    other = make_space()
    client.map(other, HVA, PAGE, gpa=0)
    refused("INVALID_PAGE_TOKEN", page, client, other, page(client, space).next_page_token)


def test_a_token_is_for_the_same_question(client, space, filled):
    assert filled
    token = page(client, space, kind=GUEST).next_page_token
    refused("INVALID_PAGE_TOKEN", page, client, space, token, kind=HOST)


def test_old_snapshots_go_first(client, space, filled):
    """Sixteen are kept; the token of the seventeenth back is told that it is gone."""
    assert filled
    tokens = []
    for n in range(17):
        tokens.append(page(client, space).next_page_token)
        client.map(space, HVA, PAGE, gpa=(1 << 40) + n * PAGE)  # a revision, so a snapshot, each
    refused("SNAPSHOT_EXPIRED", page, client, space, tokens[0])
    assert len(page(client, space, tokens[-1]).mappings) == 7


def test_a_page_is_bounded(client, space):
    count = 10_001
    client.Update(space=space, ops=[dict(map=dict(
        gpa=n * PAGE, hva=HVA + n * PAGE, size=PAGE, access=READ)) for n in range(count)])
    whole = client.ListMappings(space=space)
    assert len(whole.mappings) == 1000 and whole.next_page_token
    answer = client.ListMappings(space=space, page_size=10_000)
    assert len(answer.mappings) == 10_000
    rest = client.ListMappings(space=space, page_size=10_000, page_token=answer.next_page_token)
    assert len(rest.mappings) == 1 and not rest.next_page_token
