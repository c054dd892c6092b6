"""iovactl migrate when what takes part in it dies: the program, either daemon; and when
the source has moved on too far, or goes on moving."""

import os
import random
import shutil
import tempfile
import threading
import time

import pytest

from daemon import wait_until
from harness import PAGE, Client
from migrating_pair import BIND, HERE, Pair, start

SEED = int(os.environ.get("IOVAD_TEST_SEED", "0")) or random.randrange(1 << 32)


@pytest.fixture
def make_pair():
    """Two daemons, with a space at the source; `arguments` are the source's."""
    folder = tempfile.mkdtemp(prefix="iovad-")
    made = []

    def make(*arguments):
        source = start(os.path.join(folder, "a"), *arguments)
        made.append(Pair(source, start(os.path.join(folder, "b"))))
        return made[-1]

    yield make
    for pair in made:
        pair.stop()
        pair.source.stop()
        pair.destination.stop()
    shutil.rmtree(folder)


@pytest.fixture
def pair(make_pair):
    return make_pair()


def map_page(pair, number):
    gpa = 0x100000 + number * PAGE
    pair.here("map", "vm1", "--gpa", hex(gpa), "--hva", hex(HERE + gpa), "--size", "4K")


def there_is(pair, space="vm1"):
    return space in pair.spaces(pair.there)


def test_killed_in_the_middle_of_the_import(pair):
    """The first program's import may still be on its way out when the second one comes."""
    pair.there("device", "open", "slow", "--simulated", "--fault", "update:1:delay=400ms")
    follower = pair.follow(*BIND, "--attach", "slow")
    wait_until(lambda: there_is(pair), "the import has begun")
    assert pair.status()["state"] == "preparing"
    follower.kill()
    report = pair.prepare(*BIND, "--attach", "slow")
    assert not report["continued"] and pair.in_step()
    uid = pair.there.json("space", "get", "vm1")["space"]["uid"]
    # Nobody removes it afterwards.
    map_page(pair, 0)
    assert pair.switch()["changes"] == 1
    assert pair.there.json("space", "get", "vm1")["space"]["uid"] == uid


def test_killed_anywhere(pair):
    """Also before anything is said, and while it follows; the next one goes on."""
    print(f"IOVAD_TEST_SEED={SEED}")
    dice = random.Random(SEED)
    for number in range(24):
        follower = pair.follow(*BIND, "--attach", "sim1", "--svq", "1:16")
        # When it dies is not what matters, only that it differs.
        time.sleep(dice.random() * 0.08)
        map_page(pair, number)
        follower.kill()
        if dice.random() < 0.3:
            pair.prepare(*BIND, "--attach", "sim1", "--svq", "1:16")
            assert pair.in_step() and pair.status()["behind"] == 0
        if dice.random() < 0.2:
            pair.abort("--from", pair.here.socket)
            assert not there_is(pair) and pair.labels(pair.here) == {"tenant": "blue"}
    pair.prepare(*BIND, "--attach", "sim1", "--svq", "1:16")
    assert pair.in_step() and len(pair.queues(pair.there)) == 2
    assert pair.switch()["changes"] == 0


def test_a_switch_goes_on_where_a_follower_died(pair):
    follower = pair.follow(*BIND)
    follower.until("prepared")
    for number in range(10):
        map_page(pair, number)
    follower.kill()
    done = pair.switch()
    assert done["changes"] <= 10 and pair.in_step()


def test_the_destination_dies_and_comes_back(pair):
    follower = pair.follow(*BIND, "--attach", "sim1")
    follower.until("prepared")
    map_page(pair, 0)
    pair.wait_in_step()
    pair.destination.kill()
    for number in range(1, 5):
        map_page(pair, number)
    assert "waiting" in follower.until("note")["message"]
    assert pair.status()["state"] == "unreachable"
    pair.destination.start()
    assert "goes on" in follower.until("note")["message"]
    pair.wait_in_step()
    assert follower.running()
    pair.switch()
    assert follower.end()[1]["why"] == "switched"


def test_the_destination_dies_again_and_again(pair):
    """In the midst of changes: each is there once."""
    follower = pair.follow(*BIND, "--attach", "sim1")
    follower.until("prepared")
    stop = threading.Event()

    def keep_changing():
        number = 0
        while not stop.is_set() or number < 50:
            map_page(pair, number)
            number += 1

    changes = threading.Thread(target=keep_changing)
    changes.start()
    for _ in range(5):
        pair.destination.kill()
        pair.destination.start()
        revision = pair.status(pair.there)["revision"]
        wait_until(lambda: pair.status(pair.there)["revision"] > revision, "it goes on")
    stop.set()
    changes.join()
    pair.wait_in_step()
    assert follower.running()


def test_the_source_dies_and_comes_back(pair):
    follower = pair.follow(*BIND)
    follower.until("prepared")
    pair.source.kill()
    assert "waiting" in follower.until("note")["message"]
    status = pair.status(pair.there)
    assert (status["state"], status["source_revision"], status["behind"]) == (
        "prepared", None, None)
    pair.source.start()
    map_page(pair, 0)
    pair.wait_in_step()
    pair.abort()
    assert follower.end()[1]["why"] == "aborted"


def test_the_source_s_space_goes(pair):
    follower = pair.follow(*BIND)
    follower.until("prepared")
    pair.here("space", "rm", "vm1", "--force")
    code, _, error = follower.end()
    assert (code, error["reason"]) == (1, "SPACE_NOT_FOUND")
    # A space of that name made anew is another one.
    pair.here("space", "create", "vm1")
    error = pair.there.refused("migrate", "switch", "--to", pair.there.socket, "vm1")
    assert error["reason"] == "SPACE_NOT_FOUND" and "another one" in error["message"]
    assert "another migration" in pair.prepare(code=1)["message"]
    assert pair.abort()["removed"]


def test_abort_without_the_source(pair):
    pair.prepare(*BIND)
    pair.source.kill()
    arguments = ["migrate", "abort", "--to", pair.there.socket, "vm1"]
    assert pair.there.refused(*arguments)["code"] == "UNAVAILABLE"
    assert there_is(pair)
    assert "keeps its labels" in pair.there(*arguments, "--without-source").out
    assert not there_is(pair)
    pair.source.start()
    assert pair.status()["state"] == "absent"
    pair.abort()
    assert pair.labels(pair.here) == {"tenant": "blue"}


def test_what_the_source_forgot_is_found_by_comparing(make_pair):
    pair = make_pair("--limits.history-revisions", "2")
    pair.prepare(*BIND, "--attach", "sim1")
    for number in range(8):
        map_page(pair, number)
    pair.here("unmap", "vm1", "--gpa", "0xfeda0000")
    done = pair.switch()
    assert done["changes"] == 9 and pair.in_step()


def test_a_follower_that_fell_behind_compares(make_pair):
    pair = make_pair("--limits.history-revisions", "2")
    follower = pair.follow(*BIND)
    follower.until("prepared")
    pair.destination.kill()
    for number in range(8):
        map_page(pair, number)
    pair.source.kill()
    pair.source.start()
    pair.destination.start()
    pair.wait_in_step()
    assert follower.running()


def test_changes_by_others_at_the_destination_are_put_right(pair):
    follower = pair.follow(*BIND)
    follower.until("prepared")
    pair.there("unmap", "vm1", "--gpa", "0")
    pair.there("map", "vm1", "--gpa", "0x200000", "--hva", "0x1000", "--size", "4K")
    map_page(pair, 0)
    pair.wait_in_step()
    assert follower.running()


def test_a_source_that_does_not_stand_still(pair):
    pair.prepare(*BIND)
    stop = threading.Event()

    def keep_changing():
        with Client(pair.source.target) as client:
            while not stop.is_set():
                client.map("vm1", HERE + (1 << 20), PAGE, gpa=1 << 20)
                client.unmap("vm1", at_gpa=1 << 20)

    changes = threading.Thread(target=keep_changing)
    changes.start()
    wait_until(lambda: pair.status()["behind"] > 2, "the source changes")
    error = pair.there.refused("migrate", "switch", "--to", pair.there.socket, "vm1")
    stop.set()
    changes.join()
    assert error["code"] == "FAILED_PRECONDITION" and "goes on changing" in error["message"]
    assert pair.status()["state"] == "prepared"
    pair.switch()
    assert pair.in_step()


def test_a_switch_that_died_can_be_repeated(pair):
    """Its mark stays: whoever follows waits, and the next switch goes on."""
    follower = pair.follow(*BIND)
    follower.until("prepared")
    pair.there("space", "label", "vm1", "iovad.migrate/state=switching")
    assert "switches" in follower.until("note")["message"]
    map_page(pair, 0)
    assert pair.status()["state"] == "switching"
    assert pair.switch()["changes"] == 1
    assert follower.end()[1]["why"] == "switched"


def test_a_switch_that_gave_up_leaves_the_follower_at_work(pair):
    follower = pair.follow(*BIND)
    follower.until("prepared")
    pair.there("space", "label", "vm1", "iovad.migrate/state=switching")
    follower.until("note")
    map_page(pair, 0)
    pair.there("space", "label", "vm1", "iovad.migrate/state=prepared")
    pair.wait_in_step()
    assert follower.running()
