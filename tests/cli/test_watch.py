"""iovactl watch"""

import json
import re
import signal

import pytest
from daemon import scaled, wait_until


class Watching:
    """A running `iovactl watch`, line by line."""

    def __init__(self, ctl, *arguments):
        self.process = ctl.start("watch", *arguments)

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def end(self, number):
        """Sends a signal; returns (exit code, the rest of the output, errors)."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=scaled(20))
        return self.process.returncode, out, err

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def wait_until_watched(ctl, space):
    """Returns when the server has a watcher of the space."""
    wait_until(lambda: re.search(rf"^watched (?s:.*)^{space} +1 ", ctl("stats").out, re.MULTILINE),
               "the space is watched")


def test_shows_what_is_there_then_what_changes(ctl, space, device):
    ctl("map", space, "--gpa", "0", "--hva", "0x7f0000000000", "--size", "64K", "--label", "ram")
    with Watching(ctl, space) as watching:
        assert watching.line() == ("2  + mapping 1  iova 0x1000-0x10fff  64 KiB  gpa 0x0  "
                                   "hva 0x7f0000000000  rw  ram")
        assert watching.line() == "2  = that is all up to this revision"
        ctl("map", space, "--hva", "0x7f0100000000", "--size", "4K", "--access", "ro")
        assert watching.line() == ("3  + mapping 2  iova 0x11000-0x11fff  4 KiB  "
                                   "hva 0x7f0100000000  ro  host")
        ctl("unmap", space, "--id", "1")
        assert watching.line().startswith("4  - mapping 1  iova 0x1000-0x10fff")
        ctl("device", "attach", device, space)
        assert watching.line() == f"5  + device {device}  asid 0  live"
        ctl("device", "detach", device, space)
        assert watching.line() == f"6  - device {device}  asid 0"
        assert watching.end(signal.SIGINT) == (0, "", "")


def test_json_is_one_object_a_line(ctl, space):
    with Watching(ctl, space, "--output", "json") as watching:
        assert json.loads(watching.line())["snapshot_end"] is True
        ctl("map", space, "--hva", "0x5000", "--size", "4K", "--iova", "0x7000")
        response = json.loads(watching.line())
        assert response["revision"] == 2
        assert [event["mapped"]["iova"] for event in response["events"]] == ["0x7000"]
        assert watching.end(signal.SIGTERM)[0] == 0


def test_live_shows_nothing_of_what_was_there(ctl, space):
    ctl("map", space, "--hva", "0x5000", "--size", "4K")
    with Watching(ctl, space, "--live", "--count", "1") as watching:
        wait_until_watched(ctl, space)
        ctl("unmap", space, "--all")
        assert watching.line().startswith("3  - mapping 1 ")
        assert watching.process.wait(scaled(20)) == 0


def test_can_begin_after_a_revision(ctl, space):
    ctl("map", space, "--hva", "0x1000", "--size", "4K")
    with Watching(ctl, space, "--from", "3", "--count", "1") as watching:
        wait_until_watched(ctl, space)
        ctl("map", space, "--hva", "0x3000", "--size", "4K")
        assert watching.line().startswith("3  + mapping 2 ")
        assert watching.process.wait(scaled(20)) == 0


def test_an_earlier_revision_is_gone(ctl, space):
    ctl("map", space, "--hva", "0x1000", "--size", "4K")
    error = ctl.refused("watch", space, "--from", "1")
    assert error["reason"] == "REVISION_COMPACTED"
    assert error["code"] == "OUT_OF_RANGE"
    assert error["detail"]["compact_revision"] >= 2


def test_a_snapshot_ends_by_itself(ctl, space):
    ctl("svq", "alloc", space, "--queue", "3,size=64,driver=0x7f0000000000,device=0x7f0000002000")
    lines = ctl("watch", space, "--snapshot").out.splitlines()
    assert lines[-2:] == ["2  + svq 1  queue 3  size 64", "2  = that is all up to this revision"]
    assert len(lines) == 4
    responses = [json.loads(line) for line in
                 ctl("watch", space, "--snapshot", "--output", "json").out.splitlines()]
    assert responses[-1]["snapshot_end"] is True
    assert sum(len(r["events"]) for r in responses) == 3


def test_a_space_that_is_removed_ends_it(ctl, space):
    with Watching(ctl, space) as watching:
        assert watching.line() == "1  = that is all up to this revision"
        ctl("space", "rm", space)
        _, err = watching.process.communicate(timeout=scaled(20))
        assert watching.process.returncode == 1
        assert err.startswith("error: SPACE_NOT_FOUND: ")


def test_another_space_of_that_name_is_refused(ctl, space):
    assert ctl.reason("watch", space, "--space-uid", "0" * 32) == "SPACE_NOT_FOUND"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_is_a_clean_end(ctl, space, number):
    with Watching(ctl, space) as watching:
        watching.line()
        assert watching.end(number) == (0, "", "")


def test_a_reader_that_goes_away_ends_it_though_nothing_happens(ctl, space):
    ctl("map", space, "--hva", "0x1000", "--size", "4K")
    run = ctl.shell(f"set -o pipefail; iovactl watch {space} | head -1")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("2  + mapping 1 ")
