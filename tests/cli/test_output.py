"""How answers and errors come out: colours, pipes, full disks."""

import os
import re
import signal
import subprocess

import pytest
from daemon import scaled
from iovactl import ROOT, on_a_terminal


def test_colours_are_for_terminals_only(ctl, space):
    assert "\x1b[" not in ctl("space", "get", space).out
    assert "\x1b[1m" in on_a_terminal(ctl, "space", "get", space)
    assert "\x1b[31merror:" in on_a_terminal(ctl, "space", "get", "nope")


def test_no_color_is_respected(ctl, space):
    assert "\x1b[" not in on_a_terminal(ctl, "space", "get", space, NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal(ctl, "space", "get", space, TERM="dumb")
    # An empty NO_COLOR is as none (no-color.org).
    assert "\x1b[" in on_a_terminal(ctl, "space", "get", space, NO_COLOR="")


def test_colours_can_be_forced_and_forbidden(ctl, space):
    assert "\x1b[1m" in ctl("space", "get", space, "--color", "always").out
    assert "\x1b[" not in on_a_terminal(ctl, "space", "get", space, "--color", "never")


def test_a_long_replay_has_a_bar_on_a_terminal(ctl, fresh):
    trace = os.path.join(ROOT, "tests", "data", "c1_q35_ovmf.sections.jsonl")
    slow = fresh("slow")
    ctl("device", "open", slow, "--simulated", "--fault", "update:3:delay=600ms")
    shown = on_a_terminal(ctl, "replay", trace, "--device", slow, "--verify")
    assert re.search(r"\r\[#+\.+\] +\d+ %  \d+ of 157 events", shown)
    # And it is gone in the end.
    assert "\r\x1b[K" in shown
    assert "events" not in shown.split("\r\x1b[K")[-1]


def test_json_is_never_coloured(ctl, space):
    assert "\x1b[" not in on_a_terminal(ctl, "space", "get", space, "--output", "json")


@pytest.mark.parametrize("ignored", [False, True], ids=["default SIGPIPE", "ignored SIGPIPE"])
def test_a_reader_that_goes_away_is_no_error(ctl, space, ignored):
    for command in (f"ls {space}", f"watch {space}", "--help"):
        trap = "trap '' PIPE; " if ignored else ""
        run = ctl.shell(f"set -o pipefail; {trap}iovactl {command} | head -c 0")
        assert (run.returncode, run.stderr) == (0, ""), command


def test_a_full_disk_is_an_error(ctl, space):
    run = ctl.shell(f"iovactl ls {space} >/dev/full")
    assert run.returncode == 1
    assert "could not be written" in run.stderr
    assert "No space left on device" in run.stderr


def test_version(ctl):
    out = ctl("--version").out
    assert out.startswith("iovactl ") and out.count(".") == 2


def test_ctrl_c_ends_an_ordinary_command(server, ctl, fresh, space):
    slow = fresh("slow")
    ctl("device", "open", slow, "--simulated", "--fault", "update:1:delay=3s")
    ctl("device", "attach", slow, space)
    process = ctl.start("map", space, "--hva", "0", "--size", "4K")
    # It is waiting for the device now; reads go on.
    while "requests running 2" not in ctl("stats").out:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(scaled(2)) == -signal.SIGINT
    process.communicate()
