"""Limits: what is too much is refused, and the server goes on."""

import grpc
import pytest

from daemon import Daemon
from harness import (HVA, MIB, PAGE, READ, TOP, Client, extent, refused, span, spec, unchanged)
from watching import Watcher

MESSAGE_LIMIT = 4 << 20
LONG = "x" * 64


@pytest.fixture(autouse=True)
def goes_on(client, server):
    """After each test the same process serves as before."""
    pid = client.GetServerInfo().pid
    yield
    assert server.process.poll() is None
    assert client.GetServerInfo().pid == pid == server.process.pid
    assert client.health_status() == "SERVING"


@pytest.fixture(scope="module")
def crowded(client):
    """A space with 60,000 labelled mappings: more than one message holds."""
    client.CreateSpace(space="crowded")
    for base in range(0, 60_000, 20_000):
        client.Update(space="crowded", ops=[dict(map=dict(
            gpa=n * PAGE, hva=HVA + n * PAGE, size=PAGE, access=READ, label=LONG))
            for n in range(base, base + 20_000)])
    return "crowded"


def unmaps(count):
    return [dict(unmap=dict(mapping_id=n + 1, allow_missing=True)) for n in range(count)]


def test_operations_in_a_request(client, space):
    with unchanged(client, space):
        refusal = refused("TOO_MANY_OPS", client.Update, space=space, ops=unmaps(65537))
        assert (refusal.detail.limit, refusal.detail.needed) == (65536, 65537)
        assert len(client.Update(space=space, ops=unmaps(65536)).results) == 65536


def test_operations_on_a_stream(client, space):
    requests = [client.request("StreamUpdates", sequence=n, update=dict(
        space=space, ops=unmaps(count))) for n, count in enumerate([1, 65537, 2])]
    outcomes = [a.WhichOneof("outcome") for a in client.StreamUpdates(iter(requests))]
    assert outcomes == ["update", "error", "update"]


@pytest.mark.parametrize("megabytes", [5, 64])
def test_a_message_that_is_too_large(client, space, megabytes):
    with unchanged(client, space):
        with pytest.raises(grpc.RpcError) as raised:
            client.map(space, HVA, PAGE, gpa=0, label="x" * (megabytes << 20))
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_message_that_just_fits(client, space):
    refused("INVALID_LABEL", client.map, space, HVA, PAGE, gpa=0, label="x" * (MESSAGE_LIMIT - 200))


def test_the_answer_to_an_update_is_bounded_beforehand(client, crowded):
    """60 operations that take 1,000 labelled mappings each: the request is small, its answer
    would not be."""
    ops = [dict(unmap=dict(gpa=extent(n * 1000 * PAGE, 1000 * PAGE))) for n in range(60)]
    with unchanged(client, crowded):
        refusal = refused("TOO_MANY_OPS", client.Update, space=crowded, ops=ops)
        assert refusal.detail.limit == MESSAGE_LIMIT
        assert refusal.detail.needed > MESSAGE_LIMIT
    answer = client.Update(space=crowded, ops=ops[:20], validate_only=True)
    assert answer.ByteSize() <= MESSAGE_LIMIT
    assert [r.unmapped.removed_count for r in answer.results] == [1000] * 20


def test_a_refused_answer_is_no_trouble_on_a_stream(client, crowded):
    ops = [dict(unmap=dict(gpa=extent(n * 1000 * PAGE, 1000 * PAGE))) for n in range(60)]
    requests = [client.request("StreamUpdates", sequence=n, update=dict(
        space=crowded, ops=part, validate_only=True)) for n, part in enumerate([ops, ops[:1]])]
    outcomes = [a.WhichOneof("outcome") for a in client.StreamUpdates(iter(requests))]
    assert outcomes == ["error", "update"]


def test_the_answer_to_a_translation_is_bounded(client, crowded):
    whole = dict(gpa=0, size=60_000 * PAGE)
    answer = client.Translate(space=crowded, queries=[whole])
    assert len(answer.translations[0].segments) == 60_000
    with unchanged(client, crowded):
        refused("TOO_MANY_OPS", client.Translate, space=crowded, queries=[whole] * 4096)
        refused("TOO_MANY_OPS", client.Translate, space=crowded, queries=[whole] * 4)


def test_resolving_is_bounded(client, crowded):
    """However it is bounded, it is answered or refused in good form."""
    try:
        answer = client.Resolve(space=crowded, address="gpa:0x0", size=60_000 * PAGE)
        assert answer.ByteSize() <= MESSAGE_LIMIT
    except grpc.RpcError:
        refused("TOO_MANY_OPS", client.Resolve, space=crowded, address="gpa:0x0",
                size=60_000 * PAGE)


def test_pages_fit(client, crowded):
    answer = client.ListMappings(space=crowded, page_size=2**32 - 1)
    assert answer.ByteSize() <= MESSAGE_LIMIT and len(answer.mappings) <= 10_000


def test_watched_snapshots_fit(client, crowded):
    with Watcher(client, crowded) as watcher:
        more = True
        while more:
            response = watcher.next()
            assert response.ByteSize() <= MESSAGE_LIMIT
            more = response.more


def test_svqs_in_a_request(client, space):
    queues = [dict(queue_index=n, queue_size=1, driver_hva=HVA + n * MIB,
                   device_hva=HVA + n * MIB + PAGE) for n in range(2000)]
    answer = client.AllocSVQ(space=space, queues=queues)
    assert len(answer.svqs) == 2000
    listed = client.ListSVQs(space=space)
    assert listed.svqs == answer.svqs and listed.ByteSize() <= MESSAGE_LIMIT


def test_a_full_space(client, make_space):
    space = make_space(max_mappings=3)
    client.update(space, *(spec(HVA, PAGE, gpa=n * PAGE) for n in range(3)))
    with unchanged(client, space):
        refusal = refused("MAPPING_LIMIT", client.map, space, HVA, PAGE, gpa=MIB)
        assert (refusal.detail.limit, refusal.detail.needed) == (3, 4)
        refused("MAPPING_LIMIT", client.update, space, dict(at_gpa=0),
                spec(HVA, PAGE, gpa=MIB), spec(HVA, PAGE, gpa=2 * MIB))
    client.update(space, dict(at_gpa=0), spec(HVA, PAGE, gpa=MIB))
    client.unmap(space, gpa=span(0, TOP))
    client.map(space, HVA, PAGE, gpa=0)


def test_too_many_spaces():
    with Daemon("--limits.max-spaces", "3") as daemon, Client(daemon.target) as client:
        client.wait_ready()
        for n in range(3):
            client.CreateSpace(space=f"space-{n}")
        refusal = refused("SPACE_LIMIT", client.CreateSpace, space="late")
        assert refusal.detail.limit == 3
        client.DeleteSpace(space="space-1")
        client.CreateSpace(space="late")


def test_too_many_watchers():
    with Daemon("--limits.max-watchers", "2") as daemon, Client(daemon.target) as client:
        client.wait_ready().CreateSpace(space="watched")
        with Watcher(client, "watched") as one, Watcher(client, "watched") as two:
            one.snapshot()
            two.snapshot()
            with Watcher(client, "watched") as three:
                refusal = refused("OVERLOADED", three.error)
            assert refusal.detail.limit == 2
            client.map("watched", HVA, PAGE, gpa=0)
            assert one.change() == two.change()


def test_request_ids_are_kept_in_bounds():
    """The oldest is forgotten first, and then it is as if it had never been."""
    with Daemon("--limits.max-request-ids", "2") as daemon, Client(daemon.target) as client:
        client.wait_ready().CreateSpace(space="one")

        def map_with(number):
            return client.Map(space="one", mapping=spec(HVA, PAGE, gpa=number * PAGE),
                              request_id=f"id-{number}")

        answers = [map_with(n) for n in range(3)]
        assert map_with(2) == answers[2] and map_with(1) == answers[1]
        refused("MAPPING_EXISTS", map_with, 0)


def test_listings_are_kept_in_bounds():
    with Daemon("--limits.max-open-snapshots", "2") as daemon, Client(daemon.target) as client:
        client.wait_ready().CreateSpace(space="one")
        client.update("one", *(spec(HVA, PAGE, gpa=n * PAGE) for n in range(4)))
        tokens = []
        for n in range(3):
            tokens.append(client.ListMappings(space="one", page_size=2).next_page_token)
            client.map("one", HVA, PAGE, gpa=MIB + n * PAGE)
        refused("SNAPSHOT_EXPIRED", client.ListMappings, space="one", page_token=tokens[0])
        for token in tokens[1:]:
            client.ListMappings(space="one", page_token=token)
