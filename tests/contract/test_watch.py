"""Watch and WatchSpaces, live."""

import threading

import grpc
import pytest

from conftest import fresh_name
from daemon import Daemon
from harness import HVA, MIB, PAGE, READ, TOP, Client, extent, refused, span, spec
from stubs import address_space_pb2 as api
from watching import SpacesWatcher, Watcher, kinds, seconds

SVQ = dict(queue_size=256, driver_hva=HVA + 64 * MIB, device_hva=HVA + 80 * MIB)


def test_snapshot_then_live(client, space):
    there = client.map(space, HVA, PAGE, gpa=0)
    with Watcher(client, space) as watcher:
        events, revision = watcher.snapshot()
        assert [e.mapped for e in events] == [there] and revision == 2

        mapped = client.map(space, HVA, PAGE, gpa=MIB)
        events, revision = watcher.change()
        assert [e.mapped for e in events] == [mapped] and revision == mapped.revision == 3

        client.unmap(space, at_gpa=0)
        events, revision = watcher.change()
        assert [e.unmapped for e in events] == [there] and revision == 4


def test_the_snapshot_has_everything(client, space, device, attach):
    attachment = attach(space, device)
    mapping = client.map(space, HVA, PAGE, gpa=0)
    svq, = client.AllocSVQ(space=space, queues=[SVQ]).svqs
    with Watcher(client, space) as watcher:
        events, revision = watcher.snapshot()
    assert revision == client.space(space).revision
    assert [e.mapped for e in events if e.HasField("mapped")] == sorted(
        [mapping, *svq.mappings], key=lambda m: m.iova)
    assert [e.svq_allocated for e in events if e.HasField("svq_allocated")] == [svq]
    attached = [e.attached for e in events if e.HasField("attached")]
    assert [(a.device, a.asid) for a in attached] == [(attachment.device, 0)]
    assert len(events) == 5


def test_an_empty_space_has_an_empty_snapshot(client, space):
    with Watcher(client, space) as watcher:
        assert watcher.snapshot() == ([], 1)


def test_a_large_snapshot_comes_in_parts(client, space):
    """More than one message may hold."""
    count = 3 * 20_000
    for base in range(0, count, 20_000):
        client.Update(space=space, ops=[dict(map=dict(
            gpa=n * PAGE, hva=HVA + n * PAGE, size=PAGE, access=READ, label="x" * 64))
            for n in range(base, base + 20_000)])
    with Watcher(client, space) as watcher:
        events, revision = watcher.snapshot()
        assert revision == 4
        iovas = [e.mapped.iova for e in events]
        assert len(iovas) == count and iovas == sorted(set(iovas))
        client.unmap(space, gpa=span(0, TOP))
        events, revision = watcher.change()
        assert revision == 5 and kinds(events) == ["unmapped"] * count
        assert [e.unmapped.iova for e in events] == iovas


def test_an_update_is_one_revision(client, space):
    old = client.map(space, HVA, 4 * PAGE, gpa=0)
    with Watcher(client, space) as watcher:
        watcher.snapshot()
        answer = client.update(space, dict(gpa=extent(0, PAGE), allow_split=True),
                               spec(HVA, PAGE, gpa=MIB), spec(HVA + MIB, PAGE))
        events, revision = watcher.change()
        assert revision == answer.revision
        assert [e.unmapped for e in events if e.HasField("unmapped")] == [old]
        mapped = [e.mapped for e in events if e.HasField("mapped")]
        assert sorted(mapped, key=lambda m: m.mapping_id) == sorted(
            [answer.results[0].unmapped.remainders[0], answer.results[1].mapped,
             answer.results[2].mapped], key=lambda m: m.mapping_id)
        # What went comes before what came: a watcher's own table never overlaps.
        assert kinds(events) == sorted(kinds(events), reverse=True)


def test_what_does_not_change_is_not_told(client, space):
    with Watcher(client, space) as watcher:
        watcher.snapshot()
        client.Map(space=space, mapping=spec(HVA, PAGE, gpa=0), validate_only=True)
        refused("UNALIGNED", client.map, space, HVA + 1, PAGE, gpa=0)
        client.unmap(space, gpa=span(0, TOP), allow_missing=True)
        answer = client.Map(space=space, mapping=spec(HVA, PAGE, gpa=0), request_id="once")
        assert client.Map(space=space, mapping=spec(HVA, PAGE, gpa=0), request_id="once") == answer
        assert watcher.change() == ([api.Event(mapped=answer.mapping)], 2)
        client.unmap(space, at_gpa=0)
        assert watcher.change()[1] == 3


def test_shadow_virtqueues_and_devices(client, space, device, attach):
    with Watcher(client, space) as watcher:
        watcher.snapshot()
        svq, = client.AllocSVQ(space=space, queues=[SVQ]).svqs
        events, _ = watcher.change()
        assert kinds(events).count("svq_allocated") == 1 and kinds(events).count("mapped") == 2
        assert [e.svq_allocated for e in events if e.HasField("svq_allocated")] == [svq]

        attach(space, device)
        events, revision = watcher.change()
        assert kinds(events) == ["attached"] and revision == 3
        assert events[0].attached.device == device

        client.FreeSVQ(space=space)
        events, _ = watcher.change()
        freed, = [e.svq_freed for e in events if e.HasField("svq_freed")]
        assert (freed.svq_id, freed.queue_size) == (svq.svq_id, 256)
        assert kinds(events).count("unmapped") == 2

        client.DetachDevice(space=space, device=device)
        events, revision = watcher.change()
        assert kinds(events) == ["detached"] and revision == 5
        assert events[0].detached.device == device


def test_two_watchers_see_the_same(client, space):
    """One from the start, one that joins while changes are being made: from its snapshot on, it
    tells the same as the other."""
    rounds = 120
    with Watcher(client, space) as first:
        first.snapshot()

        def change():
            for n in range(rounds):
                client.map(space, HVA, PAGE, gpa=n * PAGE)
                if n % 3 == 2:
                    client.unmap(space, gpa=extent((n - 2) * PAGE, 2 * PAGE))

        changer = threading.Thread(target=change)
        changer.start()
        head = first.until(20)
        with Watcher(client, space) as second:
            snapshot, joined = second.snapshot()
            changer.join()
            last = client.space(space).revision
            tail = second.until(last) if joined < last else []
        told = head + (first.until(last) if head[-1][1] < last else [])
    assert [revision for _, revision in told] == list(range(2, last + 1))
    assert [c for c in told if c[1] > joined] == tail
    table = {}
    for events, revision in told:
        for event in events:
            if event.HasField("mapped"):
                table[event.mapped.iova] = event.mapped
            else:
                assert table.pop(event.unmapped.iova) == event.unmapped
        if revision == joined:
            assert [e.mapped for e in snapshot] == [table[iova] for iova in sorted(table)]
    assert client.mappings(space) == [table[iova] for iova in sorted(table)]


def test_from_now_on_and_progress(client, space):
    client.map(space, HVA, PAGE, gpa=0)
    with Watcher(client, space, start_revision=3, progress_interval=seconds(0.02)) as watcher:
        for _ in range(3):
            response = watcher.next()
            assert not response.events and response.revision == 2 and not response.snapshot_end
        client.map(space, HVA, PAGE, gpa=MIB)
        events, revision = watcher.change()
        assert kinds(events) == ["mapped"] and revision == 3
        response = watcher.next()
        assert not response.events and response.revision == 3


def test_a_later_start_is_waited_for(client, space):
    with Watcher(client, space, start_revision=4, progress_interval=seconds(0.02)) as watcher:
        assert not watcher.next().events
        for n in range(4):
            client.map(space, HVA, PAGE, gpa=n * PAGE)
        events, revision = watcher.change()
        assert revision == 4 and events[0].mapped.gpa == 2 * PAGE
        assert watcher.change()[1] == 5


def test_a_start_that_is_gone(client, space):
    for n in range(3):
        client.map(space, HVA, PAGE, gpa=n * PAGE)
    with Watcher(client, space, start_revision=1) as watcher:
        refusal = refused("REVISION_COMPACTED", watcher.error)
    assert space in refusal.message
    earliest = refusal.detail.compact_revision
    assert 1 < earliest <= 5
    with Watcher(client, space, start_revision=earliest,
                 progress_interval=seconds(0.02)) as watcher:
        watcher.next()


def test_resuming_has_no_gap_and_no_repeat(client, space):
    client.map(space, HVA, 3 * PAGE, gpa=0)
    with Watcher(client, space) as watcher:
        watcher.snapshot()
        client.map(space, HVA, PAGE, gpa=MIB)
        assert watcher.change()[1] == 3
    client.update(space, dict(at_gpa=MIB), spec(HVA, PAGE, gpa=2 * MIB))
    svqs = client.AllocSVQ(space=space, queues=[dict(queue_index=0, format="RING_FORMAT_SPLIT",
                                                     **SVQ)]).svqs
    client.FreeSVQ(space=space)
    with Watcher(client, space, start_revision=4, progress_interval=seconds(0.02)) as watcher:
        events, revision = watcher.change()
        assert kinds(events) == ["unmapped", "mapped"] and revision == 4
        events, revision = watcher.change()
        assert "svq_allocated" in kinds(events) and revision == 5
        events, revision = watcher.change()
        assert "svq_freed" in kinds(events) and revision == 6
        freed = [e.svq_freed for e in events if e.HasField("svq_freed")]
        assert [s.svq_id for s in freed] == [s.svq_id for s in svqs]
        # Only then what is live.
        assert watcher.next().revision == 6
        client.map(space, HVA, PAGE, gpa=4 * MIB)
        assert watcher.change()[1] == 7


def test_resuming_after_a_long_absence_sends_every_revision_once(client, space):
    client.update(space, *[spec(HVA + n * PAGE, PAGE, gpa=n * PAGE) for n in range(2500)])
    for n in range(50):
        client.map(space, HVA, PAGE, gpa=(3000 + n) * PAGE)
    with Watcher(client, space, start_revision=2) as watcher:
        events, revision = watcher.change()
        assert revision == 2 and [e.mapped.gpa for e in events] == [n * PAGE for n in range(2500)]
        for n in range(50):
            events, revision = watcher.change()
            assert (revision, events[0].mapped.gpa) == (3 + n, (3000 + n) * PAGE)


def test_compaction_keeps_the_newest_revisions():
    with Daemon("--limits.history-revisions", "3") as daemon, Client(daemon.target) as client:
        client.CreateSpace(space="vm")
        for n in range(10):
            client.map("vm", HVA, PAGE, gpa=n * PAGE)
        with Watcher(client, "vm", start_revision=8) as watcher:
            refusal = refused("REVISION_COMPACTED", watcher.error)
        assert refusal.detail.compact_revision == 9
        assert refusal.detail.current_revision == 11
        with Watcher(client, "vm", start_revision=9) as watcher:
            assert [watcher.change()[1] for _ in range(3)] == [9, 10, 11]


def test_deletion_ends_the_stream(client, space):
    client.map(space, HVA, PAGE, gpa=0)
    with Watcher(client, space) as watcher:
        watcher.snapshot()
        client.DeleteSpace(space=space, force=True)
        assert space in refused("SPACE_NOT_FOUND", watcher.error).message


def test_a_space_made_anew_is_not_the_one_watched(client, space):
    uid = client.space(space).uid
    client.DeleteSpace(space=space)
    client.CreateSpace(space=space)
    with Watcher(client, space, space_uid=uid) as watcher:
        refused("SPACE_NOT_FOUND", watcher.error)
    with Watcher(client, fresh_name("nowhere")) as watcher:
        refused("SPACE_NOT_FOUND", watcher.error)
    with Watcher(client, "No Name") as watcher:
        refused("INVALID_NAME", watcher.error)


def test_cancelling_a_watch_hurts_nobody(client, space):
    for _ in range(20):
        with Watcher(client, space) as watcher:
            watcher.snapshot()
    with Watcher(client, space) as watcher, Watcher(client, space) as other:
        watcher.snapshot()
        other.snapshot()
        with pytest.raises(grpc.RpcError):
            other._call.cancel()
            other.error()
        client.map(space, HVA, PAGE, gpa=0)
        assert watcher.change()[1] == 2


def test_all_spaces(client, make_space, device, attach):
    before = {make_space(), make_space()}
    with SpacesWatcher(client) as watcher:
        assert before <= set(watcher.snapshot())
        name = make_space("watched")
        kind, space = watcher.next_of(name)
        assert kind == "created" and space == client.space(name)

        client.map(name, HVA, PAGE, gpa=0)
        kind, space = watcher.next_of(name)
        assert (kind, space.revision, space.mapping_count) == ("changed", 2, 1)

        attach(name, device)
        kind, space = watcher.next_of(name)
        assert kind == "changed" and space.attachments[0].device == device

        client.UpdateSpace(space=name, labels={"a": "1"})
        kind, space = watcher.next_of(name)
        assert (kind, space.labels) == ("changed", {"a": "1"})

        client.DeleteSpace(space=name, force=True)
        kind, deleted = watcher.next_of(name)
        assert kind == "deleted" and deleted.uid == space.uid

        client.CreateSpace(space=name)
        kind, space = watcher.next_of(name)
        assert kind == "created" and space.uid != deleted.uid


def test_all_spaces_for_two(client, make_space):
    with SpacesWatcher(client) as one, SpacesWatcher(client) as two:
        one.snapshot()
        two.snapshot()
        name = make_space("pair")
        told = [[w.next_of(name)] for w in (one, two)]
        client.map(name, HVA, PAGE, gpa=0)
        # Changes that come fast may be told together; this one is waited for.
        for watcher, events in ((one, told[0]), (two, told[1])):
            events.append(watcher.next_of(name))
        client.DeleteSpace(space=name, force=True)
        for watcher, events in ((one, told[0]), (two, told[1])):
            events.append(watcher.next_of(name))
        assert told[0] == told[1]
        assert [kind for kind, _ in told[0]] == ["created", "changed", "deleted"]


def test_all_spaces_end_up_as_they_are(client, make_space):
    """However fast they change and whatever is told together: the last word is the truth."""
    spaces = [make_space() for _ in range(3)]
    with SpacesWatcher(client) as watcher:
        watcher.snapshot()
        for n in range(50):
            for name in spaces:
                client.map(name, HVA, PAGE, gpa=n * PAGE)
        last = {}
        while any(last.get(name, 0) < 51 for name in spaces):
            kind, space = watcher.next()
            if space.name in spaces:
                assert kind == "changed" and space.revision > last.get(space.name, 1)
                assert space.mapping_count == space.revision - 1
                last[space.name] = space.revision
