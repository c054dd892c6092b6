"""client/examples/migrate.py, between two daemons."""

import json
import os
import subprocess
import sys

import pytest

from daemon import scaled
from iovactl import ROOT, environment
from migrating_pair import HERE, THERE
from test_migrate import pair  # noqa: F401 pylint: disable=unused-import

EXAMPLES = os.path.join(ROOT, "client", "examples")
BIND = ["--bind", f"0+{2 << 30}={THERE:#x}",
        "--bind", f"0xfeda0000+{128 << 10}={THERE + 0xA0000:#x}"]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """What make_stubs.sh makes."""
    made = str(tmp_path_factory.mktemp("examples") / "stubs")
    subprocess.run([os.path.join(EXAMPLES, "make_stubs.sh"), made], check=True)
    return made


class Migrating:
    """A migrate.py that runs."""

    def __init__(self, stubs, pair, *arguments, space="vm1"):  # noqa: F811
        self._process = subprocess.Popen(
            [sys.executable, os.path.join(EXAMPLES, "migrate.py"), space, pair.here.socket,
             pair.there.socket, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=environment(PYTHONPATH=stubs, PYTHONDONTWRITEBYTECODE="1"))

    def until(self, event):
        """The next event of this kind."""
        while True:
            line = self._process.stdout.readline()
            assert line, "it has ended"
            seen = json.loads(line)
            if seen["event"] == event:
                return seen
            assert seen["event"] != "refused", seen

    def say(self, word):
        """Tells it something."""
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def end(self):
        """Its exit code, and what it still said."""
        out, _ = self._process.communicate(timeout=scaled(60))
        return self._process.returncode, [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def migrate(stubs, pair):  # noqa: F811
    """Starts migrate.py; whatever is left of it ends with the test."""
    started = []

    def start(*arguments, **options):
        started.append(Migrating(stubs, pair, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.end()


def everything(ctl):
    """All that there is at one side."""
    return [(space, *(ctl.json(*command, space["name"])
                      for command in (["ls"], ["svq", "ls"], ["memory", "ls"])))
            for space in ctl.json("space", "ls")["spaces"]]


def test_a_migration(pair, migrate):  # noqa: F811
    before = pair.labels(pair.here)
    moving = migrate(*BIND, "--attach", "sim1", "--queue", "1:256")
    assert moving.until("prepared")["source_revision"] == 4
    assert pair.in_step()
    assert pair.queues(pair.there) == [(0, 256, False), (1, 256, False)]
    # What the source does then: also where a queue is that it does not have.
    queue = next(q for q in pair.there.json("svq", "ls", "vm1")["svqs"] if q["queue_index"] == 1)
    pair.here("map", "vm1", "--gpa", "0x100000", "--hva", hex(HERE + (1 << 20)), "--size", "4K",
              "--label", "more", "--iova", queue["driver_iova"])
    pair.here("svq", "alloc", "vm1", "--queue", "2,size=64,control")
    pair.here("unmap", "vm1", "--gpa", "0xfeda0000")
    pair.wait_in_step()
    assert pair.queues(pair.there) == [(0, 256, False), (1, 256, False), (2, 64, True)]
    pair.here("map", "vm1", "--gpa", "0x40000000", "--hva", hex(HERE + (1 << 30)), "--size", "1M")
    moving.say("switch")
    done = moving.until("switched")
    assert done["source_revision"] == pair.here.json("space", "get", "vm1")["space"]["revision"]
    assert pair.in_step() and len(done["driver_iovas"]) == 3
    assert 0 < done["not_ready_ms"] < 10_000
    assert moving.end() == (0, [])
    # Nothing follows any more, and nothing is left of it.
    assert pair.labels(pair.here) == pair.labels(pair.there) == before
    pair.here("map", "vm1", "--gpa", "0x50000000", "--hva", hex(HERE + (5 << 28)), "--size", "4K")
    assert not pair.in_step()


@pytest.mark.parametrize("word", ["abort", None])
def test_giving_it_up(pair, migrate, word):  # noqa: F811
    pair.there("space", "create", "other")
    before = everything(pair.here), everything(pair.there)
    moving = migrate(*BIND, "--attach", "sim1")
    moving.until("prepared")
    assert "vm1" in pair.spaces(pair.there)
    if word:
        moving.say(word)
    assert moving.end() == (0, [{"event": "aborted"}])
    assert (everything(pair.here), everything(pair.there)) == before


@pytest.mark.parametrize("reason, arguments", [
    ("UNBOUND_MEMORY", BIND[:2]),
    ("DEVICE_NOT_FOUND", [*BIND, "--attach", "nowhere"]),
    ("PATH_NOT_ALLOWED", ["--bind", f"0+{2 << 30}={THERE:#x}@/etc/hostname", *BIND[2:]]),
    ("INVALID_QUEUE_SIZE", [*BIND, "--queue", "1:3"]),
])
def test_what_is_refused_leaves_both_as_they_were(pair, migrate, reason, arguments):  # noqa: F811
    before = everything(pair.here), everything(pair.there)
    code, said = migrate(*arguments).end()
    refused = [event for event in said if event["event"] == "refused"]
    assert (code, [event["reason"] for event in refused]) == (1, [reason])
    assert said[-1] == {"event": "aborted"}
    assert (everything(pair.here), everything(pair.there)) == before


def test_somebody_elses_space_stays(pair, migrate):  # noqa: F811
    pair.there("space", "create", "vm1", "--label", "migration=another")
    before = everything(pair.there)
    code, said = migrate(*BIND).end()
    assert (code, said[0]["reason"]) == (1, "NAME_TAKEN")
    assert everything(pair.there) == before


def test_memory_that_nobody_bound(pair, migrate):  # noqa: F811
    before = everything(pair.there)
    moving = migrate(*BIND)
    moving.until("prepared")
    pair.here("map", "vm1", "--gpa", "0x1_0000_0000", "--hva", hex(HERE), "--size", "4K")
    moving.say("switch")
    code, said = moving.end()
    assert code == 1 and "0x100000000" in said[0]["message"]
    assert everything(pair.there) == before


def test_both_servers_may_be_killed_meanwhile(pair, migrate):  # noqa: F811
    moving = migrate(*BIND, "--attach", "sim1")
    moving.until("prepared")
    for number, side in enumerate((pair.source, pair.destination)):
        side.kill()
        side.start()
        gpa = (8 + number) << 20
        pair.here("map", "vm1", "--gpa", hex(gpa), "--hva", hex(HERE + gpa), "--size", "64K")
        pair.wait_in_step()
    pair.destination.kill()
    pair.here("unmap", "vm1", "--gpa", hex(8 << 20))
    pair.destination.start()
    moving.say("switch")
    moving.until("switched")
    assert pair.in_step()
