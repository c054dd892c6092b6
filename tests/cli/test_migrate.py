"""iovactl migrate prepare|switch|abort|status, between two daemons."""

import os
import random
import re
import shutil
import tempfile

import pytest

from daemon import wait_until
from migrating_pair import BIND, HERE, THERE, Pair, start

SEED = int(os.environ.get("IOVAD_TEST_SEED", "0")) or random.randrange(1 << 32)


@pytest.fixture
def pair():
    """Both daemons, with a space at the source."""
    folder = tempfile.mkdtemp(prefix="iovad-")
    source, destination = (start(os.path.join(folder, side)) for side in "ab")
    both = Pair(source, destination)
    yield both
    both.stop()
    source.stop()
    destination.stop()
    shutil.rmtree(folder)


def change(pair, count, dice):
    """Does something at the source, `count` times."""
    for _ in range(count):
        gpa = dice.randrange(1, 64) << 20
        there = {m[0] for m in pair.guest(pair.here)}
        if gpa in there:
            pair.here("unmap", "vm1", "--gpa", hex(gpa))
        else:
            pair.here("map", "vm1", "--gpa", hex(gpa), "--hva", hex(HERE + gpa), "--size",
                      dice.choice(["4K", "64K", "1M"]), "--label", dice.choice("xyz"))


def test_the_whole_way(pair):
    before = pair.labels(pair.here)
    report = pair.prepare(*BIND, "--attach", "sim1", "--svq", "1:256", "--svq", "2:64:control")
    assert (report["source_revision"], report["mappings"], report["svqs"]) == (4, 10, 3)
    assert not report["continued"]
    assert pair.in_step()
    assert pair.queues(pair.there) == [(0, 256, False), (1, 256, False), (2, 64, True)]
    assert pair.labels(pair.there)["tenant"] == "blue"
    for ctl in (pair.here, pair.there):
        status = pair.status(ctl)
        assert (status["state"], status["space"], status["behind"]) == ("prepared", "vm1", 0)
        assert status["source_address"] == pair.here.socket
        assert status["address"] == pair.there.socket
        assert status["attachments"][0]["device"] == "sim1"
    # What the source does after that is done by the switch.
    pair.here("map", "vm1", "--gpa", "0x100000", "--hva", hex(HERE + (1 << 20)), "--size", "4K",
              "--iova", "0x40000000")
    assert pair.status()["behind"] == 1
    done = pair.switch()
    assert (done["source_revision"], done["changes"], done["already"]) == (5, 1, False)
    assert 0 < done["not_ready_ms"] < 10_000
    assert [q["queue_index"] for q in done["svqs"]] == [0, 1, 2]
    assert all(int(q["driver_iova"], 16) for q in done["svqs"])
    assert [(a["device"], a["state"]) for a in done["attachments"]] == [("sim1", "LIVE")]
    assert pair.in_step()
    assert pair.status()["state"] == "switched"
    # A repeat says so, and does nothing.
    again = pair.switch()
    assert again["already"] and again["svqs"] == done["svqs"]
    assert again["source_revision"] == 5
    assert {k: v for k, v in pair.labels(pair.here).items() if "iovad.migrate" not in k} == before


def test_what_people_read(pair):
    prepare = ["migrate", "prepare", "vm1", "--to", pair.there.socket, "--once"]
    out = pair.here(*prepare, *BIND, "--attach", "sim1").out
    assert re.fullmatch(r"prepared at source revision 4: \d+ mappings, .* KiB, "
                        r"1 shadow virtqueues; in \d+\.\d\d s \(.*/s\)\n", out)
    out = pair.here(*prepare).out
    assert re.fullmatch(r"prepared at source revision 4: .*; it had been begun, and 0 changes "
                        r"were left\n", out)
    row, = pair.here("migrate", "status").rows()
    assert (row["SPACE"], row["AT"], row["STATE"]) == ("vm1", pair.there.socket, "prepared")
    assert (row["SOURCE"], row["SOURCE AT"]) == ("vm1", pair.here.socket)
    assert (row["REVISION"], row["BEHIND"], row["SVQS"], row["DEVICES"]) == ("4", "0", "1", "sim1")
    out = pair.here("migrate", "switch", "--to", pair.there.socket, "vm1").out
    assert re.match(r"space vm1 switched at source revision 4: 0 changes were left, the "
                    r"destination was not ready for \d+\.\d{3} ms\n"
                    r"device sim1  asid 0  live\nID  QUEUE", out)
    assert "had been switched before" in pair.here("migrate", "switch", "--to", pair.there.socket,
                                                   "vm1").out
    assert pair.here("migrate", "status", "other").out == "no migrations\n"


def test_it_follows(pair):
    follower = pair.follow(*BIND, "--attach", "sim1")
    assert follower.next()["event"] == "prepared"
    one = hex(HERE + 0x100000)
    pair.here("map", "vm1", "--gpa", "0x100000", "--hva", one, "--size", "1M")
    pair.wait_in_step()
    # In parts, and elsewhere.
    pair.here("unmap", "vm1", "--gpa-range", "0x140000+64K", "--allow-split")
    pair.wait_in_step()
    pair.here("unmap", "vm1", "--gpa-range", "0x100000+1M")
    pair.here("map", "vm1", "--gpa", "0x100000", "--hva", one, "--size", "2M", "--label", "again",
              "--iova", "0x40000000")
    pair.wait_in_step()
    assert (0x100000, 2 << 20, 0x40000000, "READ_WRITE", "again", 0x100000) in (
        pair.guest(pair.there))
    pair.here("svq", "alloc", "vm1", "--queue", "1,size=64", "--queue", "2,size=64,control")
    pair.wait_in_step()
    pair.here("svq", "free", "vm1", "--all")
    wait_until(lambda: not pair.queues(pair.there), "the queues go there too")
    # Attachments are each host's own; they take a revision all the same.
    pair.here("device", "detach", "sim0", "vm1")
    pair.here("map", "vm1", "--hva", hex(HERE + (8 << 30)), "--size", "4K")
    revision = pair.here.json("space", "get", "vm1")["space"]["revision"]
    wait_until(lambda: pair.status()["behind"] == 0, "it has followed")
    assert pair.status()["revision"] == revision
    follower.interrupt()
    assert follower.end() == (0, {"event": "ended", "why": "stopped", "source_revision": revision},
                              None)
    assert pair.status()["state"] == "prepared" and pair.in_step()


def test_random_changes_are_followed(pair):
    print(f"IOVAD_TEST_SEED={SEED}")
    dice = random.Random(SEED)
    change(pair, 5, dice)
    follower = pair.follow(*BIND, "--attach", "sim1")
    change(pair, 25, dice)
    follower.until("prepared")
    change(pair, 25, dice)
    pair.wait_in_step()
    follower.kill()
    change(pair, 10, dice)
    done = pair.switch()
    assert 0 < done["changes"] <= 20 and pair.in_step()


def test_what_was_left_is_done_as_one_change(pair):
    pair.prepare(*BIND, "--attach", "sim1")

    def seen():
        return (pair.there.json("space", "get", "vm1")["space"]["revision"],
                pair.there.json("device", "get", "sim1")["device"]["batches_pushed"])

    before = seen()
    for n in range(1, 7):
        pair.here("map", "vm1", "--gpa", hex(n << 20), "--hva", hex(HERE + (n << 20)), "--size",
                  "64K")
    for n in range(1, 5):
        pair.here("unmap", "vm1", "--gpa", hex(n << 20))
    # One that the destination has comes back elsewhere.
    pair.here("unmap", "vm1", "--gpa", "0")
    pair.here("map", "vm1", "--gpa", "0", "--hva", hex(HERE), "--size", "1M", "--iova",
              "0x40000000")
    done = pair.switch()
    assert (done["source_revision"], done["changes"]) == (16, 4)
    assert pair.in_step()
    assert seen() == (before[0] + 1, before[1] + 1)


def test_two_may_follow(pair):
    """Each revision is done once, whoever does it."""
    one = pair.follow(*BIND)
    one.until("prepared")
    two = pair.follow()
    assert two.until("prepared")["continued"]
    change(pair, 30, random.Random(SEED))
    pair.wait_in_step()
    assert one.running() and two.running()
    pair.abort()
    assert one.end()[1]["why"] == two.end()[1]["why"] == "aborted"


@pytest.mark.parametrize("how", ["switched", "aborted"])
def test_a_follower_ends_with_the_migration(pair, how):
    follower = pair.follow(*BIND)
    follower.until("prepared")
    pair.switch() if how == "switched" else pair.abort()
    code, last, error = follower.end()
    assert (code, last["event"], last["why"], error) == (0, "ended", how, None)
    pair.here("map", "vm1", "--gpa", "0x100000", "--hva", hex(HERE), "--size", "4K")
    if how == "switched":
        assert not pair.in_step()


def test_abort_leaves_both_as_before(pair):
    def seen():
        return (pair.here.json("space", "get", "vm1"), pair.here.json("ls", "vm1"),
                pair.there.json("space", "ls"), pair.there.json("device", "get", "sim1")["device"])

    def without_counts(state):
        for key in ("updates_pushed", "batches_pushed"):
            state[3].pop(key)
        return state

    before = without_counts(seen())
    pair.prepare(*BIND, "--attach", "sim1")
    assert pair.abort()["removed"]
    assert without_counts(seen()) == before
    # Again, and without anything.
    report = pair.abort()
    assert not report["removed"] and not report["source_label_removed"]
    assert "nothing to abort" in pair.here("migrate", "abort", "--to", pair.there.socket, "vm1").out
    # And from the beginning.
    assert not pair.prepare(*BIND, "--attach", "sim1")["continued"]


def test_abort_touches_nothing_else(pair):
    pair.there("space", "create", "vm1")
    error = pair.here.refused("migrate", "abort", "--to", pair.there.socket, "vm1")
    assert error["code"] == "FAILED_PRECONDITION" and "no migration" in error["message"]
    pair.here.refused("migrate", "abort", "--to", pair.there.socket, "vm1", "--force")
    pair.prepare(*BIND, "--as", "vm2")
    pair.switch(space="vm2")
    error = pair.here.refused("migrate", "abort", "--to", pair.there.socket, "vm2")
    assert "--force" in error["message"]
    assert pair.spaces(pair.there) == ["vm1", "vm2"]
    pair.abort("--force", space="vm2")
    assert pair.spaces(pair.there) == ["vm1"]
    assert pair.labels(pair.here) == {"tenant": "blue"}


def test_abort_without_the_destinations_space_clears_the_source(pair):
    pair.prepare(*BIND)
    pair.there("space", "rm", "vm1", "--force")
    assert pair.status()["state"] == "absent"
    report = pair.abort()
    assert (report["removed"], report["source_label_removed"]) == (False, True)
    assert pair.labels(pair.here) == {"tenant": "blue"}


def test_anew_places_by_the_destinations_policy(pair):
    pair.prepare(*BIND, "--placement", "anew", "--as", "vm2")
    pair.here("map", "vm1", "--gpa", "0x100000", "--hva", hex(HERE), "--size", "64K")
    assert pair.switch(space="vm2")["changes"] == 1
    here, there = ({m[0]: (m[1], m[4]) for m in pair.guest(ctl, space)}
                   for ctl, space in ((pair.here, "vm1"), (pair.there, "vm2")))
    assert here == there


def test_rings_make_way_for_guest_memory(pair):
    """The source maps where the destination has placed a ring."""
    pair.prepare(*BIND, "--svq", "5:256")
    ring = next(int(q["driver_iova"], 16) for q in pair.there.json("svq", "ls", "vm1")["svqs"]
                if q["queue_index"] == 5)
    follower = pair.follow()
    follower.until("prepared")
    pair.here("map", "vm1", "--gpa", "0x100000", "--hva", hex(HERE + 0x100000), "--size", "4K",
              "--iova", hex(ring))
    pair.wait_in_step()
    wait_until(lambda: (5, 256, False) in pair.queues(pair.there), "the ring is placed anew")
    done = pair.switch()
    assert all(int(q["driver_iova"], 16) != ring for q in done["svqs"])


def test_memory_that_no_binding_has(pair):
    follower = pair.follow(*BIND)
    follower.until("prepared")
    pair.here("map", "vm1", "--gpa", "0x100000000", "--hva", hex(HERE + (4 << 30)), "--size", "2M",
              "--label", "hotplug")
    code, _, error = follower.end()
    assert (code, error["reason"]) == (1, "UNBOUND_MEMORY")
    assert "0x100000000-0x1001fffff" in error["message"] and "--bind" in error["message"]
    assert pair.status()["state"] == "prepared" and pair.status()["behind"] == 1
    assert pair.there.reason("migrate", "switch", "--to", pair.there.socket, "vm1") == (
        "UNBOUND_MEMORY")
    assert pair.status()["state"] == "prepared"
    report = pair.prepare("--bind", f"0x100000000+1G={THERE + (4 << 30):#x}")
    assert (report["continued"], report["changes"]) == (True, 1)
    assert pair.in_step()
    pair.switch()


def test_bindings_do_not_contradict(pair):
    pair.prepare(*BIND)
    error = pair.prepare("--bind", "0+2G=0x1000", code=1)
    assert "overlaps" in error["message"]
    assert "--placement" in pair.prepare("--placement", "anew", code=1)["message"]
    # The same ones again are no contradiction.
    pair.prepare(*BIND)


def test_more_devices_and_queues_later(pair):
    pair.prepare(*BIND)
    assert pair.prepare("--attach", "sim1", "--svq", "3:8")["svqs"] == 2
    assert pair.prepare("--attach", "sim1", "--svq", "3:8")["svqs"] == 2
    assert pair.switch()["attachments"][0]["applied_revision"] == (
        pair.there.json("space", "get", "vm1")["space"]["revision"])


def test_memory_of_files(pair):
    """Registered when the space is made, and more of it later."""
    folder = pair.destination.folder
    for name in ("low", "high"):
        with open(os.path.join(folder, name), "wb") as file:
            file.truncate(4 << 20)
    low = ["--bind-memory", f"0+1M={folder}/low", "--bind-memory",
           f"0xfeda0000+128K={folder}/low@640K"]
    pair.prepare(*low)
    pair.here("map", "vm1", "--gpa", "0x10000000", "--hva", hex(HERE + (1 << 30)), "--size", "4M")
    assert pair.prepare(*low, code=1)["reason"] == "UNBOUND_MEMORY"
    report = pair.prepare(*low, "--bind-memory", f"0x10000000+4M=server:{folder}/high")
    assert report["changes"] == 1
    guest = {m["gpa"]: m for m in pair.there.json("ls", "vm1")["mappings"] if m["kind"] == "GUEST"}
    assert guest["0x0"]["memory_id"] == guest["0xfeda0000"]["memory_id"] != 0
    assert guest["0x10000000"]["memory_id"] not in (0, guest["0x0"]["memory_id"])


def test_what_is_in_the_way(pair):
    pair.there("space", "create", "vm1")
    error = pair.prepare(*BIND, code=1)
    assert "no migration made it" in error["message"]
    assert pair.prepare(*BIND[:2], "--as", "vm2", code=1)["reason"] == "UNBOUND_MEMORY"
    # What was refused left nothing.
    assert pair.labels(pair.here) == {"tenant": "blue"}
    assert pair.spaces(pair.there) == ["vm1"]
    pair.prepare(*BIND, "--as", "vm2")
    error = pair.prepare(*BIND, "--as", "vm3", code=1)
    assert "already" in error["message"] and "vm2" in error["message"]
    pair.here("space", "create", "other")
    error = pair.here.refused("migrate", "prepare", "other", "--to", pair.there.socket, "--as",
                              "vm2", "--once")
    assert "another migration" in error["message"]
    pair.switch(space="vm2")
    assert "switched" in pair.prepare(*BIND, "--as", "vm2", code=1)["message"]
    assert pair.here.reason("migrate", "prepare", "nobody", "--to", pair.there.socket, "--once") \
        == "SPACE_NOT_FOUND"
    many = [part for n in range(400) for part in ("--bind", f"{n << 30:#x}+4K={n << 32:#x}")]
    error = pair.here.refused("migrate", "prepare", "other", "--to", pair.there.socket, "--once",
                              *many)
    assert "labels" in error["message"]


def test_switch_refuses(pair):
    there = ["migrate", "switch", "--to", pair.there.socket, "vm1"]
    assert "nothing was prepared" in pair.there.refused(*there)["message"]
    pair.there("space", "create", "vm2")
    assert "no migration" in pair.there.refused(*there[:-1], "vm2")["message"]
    pair.prepare(*BIND, "--attach", "sim1")
    pair.there("space", "label", "vm1", "iovad.migrate/state=preparing")
    assert "not prepared" in pair.there.refused(*there)["message"]
    pair.there("space", "label", "vm1", "iovad.migrate/state=prepared")
    pair.source.kill()
    error = pair.there.refused(*there)
    assert error["code"] == "UNAVAILABLE" and "--without-source" in error["message"]
    assert pair.status(pair.there)["state"] == "prepared"
    done = pair.switch("--without-source")
    assert done["without_source"] and done["source_revision"] == 4
    pair.source.start()


def test_switch_wants_devices_to_be_live(pair):
    """The device fails in the middle of a change, and in taking it back."""
    pair.there("device", "open", "sim2", "--simulated", "--fault", "update:6:EIO", "--fault",
               "undo:1:EIO")
    pair.prepare(*BIND, "--attach", "sim2")
    pair.here("unmap", "vm1", "--gpa-range", "0x40000+64K", "--allow-split")
    there = ["migrate", "switch", "--to", pair.there.socket, "vm1"]
    assert pair.there.reason(*there) == "DEVICE_ERROR"
    assert pair.there.reason(*there) == "ATTACHMENT_FAILED"
    pair.source.kill()
    error = pair.there.refused(*there, "--without-source")
    assert "not usable" in error["message"] and "sim2" in error["message"]
    assert "FAILED" in error["message"]
    pair.source.start()
    pair.there("device", "reset", "sim2")
    assert pair.switch()["changes"] == 3
    assert pair.in_step()


def test_usage(pair):
    for arguments in (["prepare", "vm1"], ["switch", "vm1"], ["abort", "vm1"], [],
                      ["prepare", "vm1", "--to", "10.0.0.1:7000"],
                      ["prepare", "vm1", "--to", "x", "--svq", "0"],
                      ["prepare", "vm1", "--to", "x", "--svq", "0:256:odd"],
                      ["prepare", "vm1", "--to", "x", "--bind", "0+2G"]):
        pair.here("migrate", *arguments, code=2)
