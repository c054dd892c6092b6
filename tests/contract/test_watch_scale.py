"""Watch with a thousand watchers, with those that are too slow, and with those that come back
late."""

import grpc
import pytest

from daemon import Daemon, scaled, wait_until
from harness import HVA, MIB, PAGE, TOP, Client, Refusal, refused, span, spec
from restarting import Server, folder  # noqa: F401 pylint: disable=unused-import
from watching import Crowd, SpacesWatcher, Watcher, counted

WATCHERS = 1000
REVISIONS = 20


def changes(client, space, count):
    for n in range(count):
        client.map(space, HVA, PAGE, gpa=n * PAGE)


def test_a_thousand_watchers_cost_one_serialisation_a_revision(client, server, space):
    with Crowd(server.target, space, WATCHERS) as crowd:
        snapshot, = crowd.take(1)
        assert snapshot.snapshot_end and snapshot.revision == 1
        before = counted(client, space)
        assert before == {"watchers": WATCHERS, "serialised": 0, "sent": WATCHERS, "too slow": 0}
        changes(client, space, REVISIONS)
        told = crowd.take(REVISIONS)
        assert [t.revision for t in told] == list(range(2, 2 + REVISIONS))
        assert all(len(t.events) == 1 and not t.more for t in told)
        assert counted(client, space) == {"watchers": WATCHERS, "serialised": REVISIONS,
                                          "sent": WATCHERS * (1 + REVISIONS), "too slow": 0}
    # They are gone without being told anything.
    wait_until(lambda: counted(client, space)["watchers"] == 0, "the watchers are gone")


def test_who_resumes_gets_what_was_serialised_for_others(client, server, space):
    with Crowd(server.target, space, 50) as crowd:
        crowd.take(1)
        changes(client, space, REVISIONS)
        told = crowd.take(REVISIONS)
        with Crowd(server.target, space, 50, start_revision=2) as late:
            assert late.take(REVISIONS) == told
            client.map(space, HVA, PAGE, gpa=MIB)
            assert crowd.take(1) == late.take(1)
    assert counted(client, space)["serialised"] == REVISIONS + 1


def test_what_nobody_watched_is_serialised_for_the_first_who_resumes(client, server, space):
    changes(client, space, REVISIONS)
    assert counted(client, space)["serialised"] == 0
    with Crowd(server.target, space, 50, start_revision=2) as late:
        assert [t.revision for t in late.take(REVISIONS)] == list(range(2, 2 + REVISIONS))
    assert counted(client, space)["serialised"] == REVISIONS


def test_a_revision_in_parts_counts_once(client, server, space):
    with Crowd(server.target, space, 50) as crowd:
        crowd.take(1)
        client.update(space, *[spec(HVA, PAGE, gpa=n * PAGE) for n in range(2500)])
        assert [(t.revision, len(t.events), t.more) for t in crowd.take(3)] == [
            (2, 1000, True), (2, 1000, True), (2, 500, False)]
    assert counted(client, space)["serialised"] == 1


def test_watchers_of_all_spaces_share_too(client, make_space):
    with SpacesWatcher(client) as one, SpacesWatcher(client) as two:
        one.snapshot()
        two.snapshot()
        before = counted(client)
        name = make_space("shared")
        assert one.next_of(name) == two.next_of(name)
        after = counted(client)
        assert after["watchers"] == 2
        assert after["serialised"] == before["serialised"] + 1
        assert after["sent"] == before["sent"] + 2


class Slow:
    """A server whose watchers may be 50 messages behind, and a space to watch."""

    def __init__(self):
        self.daemon = Daemon("--limits.watcher-queue-events", "50").start()
        self.client = Client(self.daemon.target).wait_ready()
        self.client.CreateSpace(space="vm")
        self.revision = 1

    def change(self):
        """A revision of some 50 KB."""
        everything = dict(gpa=span(0, TOP), allow_missing=True)
        self.client.update("vm", everything, *[spec(HVA, PAGE, gpa=n * PAGE, label="x" * 64)
                                               for n in range(300)])
        self.revision += 1

    def lazy_client(self):
        """One whose connection takes no more than 64 KB that nobody reads."""
        return Client(self.daemon.target, **{"grpc.http2.bdp_probe": 0})


@pytest.fixture(name="slow")
def _slow():
    made = Slow()
    yield made
    made.client.close()
    made.daemon.stop()


def revisions_until_the_end(watcher):
    """The revisions that it gets whole, and why it ended."""
    whole = []
    with pytest.raises(grpc.RpcError) as raised:
        while True:
            whole.append(watcher.change()[1])
    return whole, Refusal.from_rpc(raised.value)


def test_who_is_too_slow_resumes_and_has_missed_nothing(slow):
    with slow.lazy_client() as lazy, Watcher(lazy, "vm") as behind, \
            Watcher(slow.client, "vm") as quick:
        behind.snapshot()
        quick.snapshot()
        for _ in range(100):
            slow.change()
            assert quick.change()[1] == slow.revision
        seen, refusal = revisions_until_the_end(behind)
        assert refusal.reason == "WATCHER_TOO_SLOW" and "'vm'" in refusal.message
        assert refusal.detail.current_revision == slow.revision
        assert seen == list(range(2, 2 + len(seen)))
        assert len(seen) < 50
        assert counted(slow.client, "vm")["too slow"] == 1
        with Watcher(lazy, "vm", start_revision=seen[-1] + 1) as again:
            rest = [revision for _, revision in again.until(slow.revision)]
        assert seen + rest == list(range(2, slow.revision + 1))
        # The other one has not noticed.
        slow.change()
        assert quick.change()[1] == slow.revision


def test_who_gives_up_while_nothing_can_be_written_is_gone(slow):
    with slow.lazy_client() as lazy:
        with Watcher(lazy, "vm") as behind:
            behind.snapshot()
            for _ in range(10):
                slow.change()
        wait_until(lambda: counted(slow.client, "vm")["watchers"] == 0, "the watcher is gone")


def test_the_snapshot_of_all_spaces_is_whole_when_a_watcher_may_be_less_behind(slow):
    names = [f"s{n}" for n in range(60)]
    for name in names:
        slow.client.CreateSpace(space=name)
    with SpacesWatcher(slow.client) as watcher:
        assert sorted(watcher.snapshot()) == sorted(["vm", *names])


def compact_revision(client, space):
    """From where one can watch; None when that is from the beginning."""
    with Watcher(client, space, start_revision=2) as watcher:
        try:
            watcher.next()
            return None
        except grpc.RpcError as error:
            refusal = Refusal.from_rpc(error)
            assert refusal.reason == "REVISION_COMPACTED"
            return refusal.detail.compact_revision


def resumes(client, space, start):
    """One who watches from there gets every revision."""
    newest = client.space(space).revision
    with Watcher(client, space, start_revision=start) as watcher:
        assert [r for _, r in watcher.until(newest)] == list(range(start, newest + 1))
    with Watcher(client, space, start_revision=start - 1) as watcher:
        refused("REVISION_COMPACTED", watcher.error)


def test_compaction_by_bytes_also_across_a_restart(folder):  # noqa: F811
    server = Server(folder, "--limits.history-bytes", "65536")
    client = server.client
    client.CreateSpace(space="vm")
    for n in range(400):
        client.Map(space="vm", mapping=spec(HVA, PAGE, gpa=n * PAGE, label="x" * 64))
    first = compact_revision(client, "vm")
    assert 2 < first < 400
    resumes(client, "vm", first)

    client = server.restart()
    again = compact_revision(client, "vm")
    # Nothing that was dropped is back.
    assert first <= again < 402
    resumes(client, "vm", again)
    client.map("vm", HVA, PAGE, gpa=MIB * PAGE)
    resumes(client, "vm", compact_revision(client, "vm"))
    server.stop()


def test_compaction_by_age_also_across_a_restart(folder):  # noqa: F811
    server = Server(folder, "--limits.history-age", str(int(scaled(1))))
    client = server.client
    client.CreateSpace(space="vm")
    changes(client, "vm", 3)

    def compacted():
        client.map("vm", HVA, PAGE, gpa=MIB * client.space("vm").revision)
        return compact_revision(client, "vm")

    first = wait_until(compacted, "the first revisions are too old")
    assert first > 2
    client = server.restart()
    assert compact_revision(client, "vm") >= first
    newest = client.space("vm").revision

    def all_compacted():
        first = compacted()
        return first if first > newest else None

    # What was kept before the restart grows old after it.
    resumes(client, "vm", wait_until(all_compacted, "what was kept is too old"))
    server.stop()
