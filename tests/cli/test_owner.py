"""Spaces that belong to a process: what makes them, and what shows it."""

import contextlib
import json
import re
import subprocess

import pytest
from daemon import wait_until


@contextlib.contextmanager
def attested(ctl, *command):
    """A process that has run an iovactl command with its own handle, and lives until the end
    of the block; gives its pid and the command's JSON."""
    script = " ".join(["iovactl", *command, "--owner-handle $IOVAD_OWNER_HANDLE --output json",
                       "| tr -d '\\n'; echo; read never"])
    process = ctl.start("fd", "attest", "--", "sh", "-c", script, stdin=subprocess.PIPE)
    try:
        yield process.pid, json.loads(process.stdout.readline())
    finally:
        process.communicate()


def is_there(ctl, space):
    """Whether there is a space of the name."""
    return space in [found["name"] for found in ctl.json("space", "ls")["spaces"]]


def test_it_goes_with_its_owner(ctl, fresh):
    name = fresh("owned")
    with attested(ctl, "space create", name, "--lifetime owner-process", "--grace 0s") as owned:
        pid, made = owned
        assert made["space"]["owner_process"]["pid"] == pid
        assert (made["space"]["lifetime"], made["space"]["grace"]) == ("OWNER_PROCESS", 0)
        text = ctl("space", "get", name).out
        assert re.search(rf"^Owner +process {pid} of user \d+$", text, re.MULTILINE)
        assert re.search(r"^Lifetime +owner-process, grace 0$", text, re.MULTILINE)
        row = next(row for row in ctl("space", "ls").rows() if row["NAME"] == name)
        assert row["LIFETIME"] == "owner-process" and str(pid) in row["OWNER"]
        assert f"owner      process {pid} of user" in ctl("dump", name).out
    wait_until(lambda: not is_there(ctl, name), "the space is removed")


def test_what_is_to_be_removed_says_when(ctl, fresh):
    name = fresh("owned")
    with attested(ctl, "space create", name, "--lifetime owner-process", "--grace 1h30m"):
        pass
    space = wait_until(lambda: (lambda found: found if "remove_time" in found else None)(
        ctl.json("space", "get", name)["space"]), "the owner's end is known")
    assert space["grace"] == 5400 and space["owner_gone_time"] < space["remove_time"]
    text = ctl("space", "get", name).out
    assert re.search(r"^Owner ended +20\d\d-.* UTC$", text, re.MULTILINE)
    assert re.search(r"^Lifetime +owner-process, grace 1h30m$", text, re.MULTILINE)
    assert re.search(r"^To be removed +20\d\d-.* UTC$", text, re.MULTILINE)
    row = next(row for row in ctl("space", "ls").rows() if row["NAME"] == name)
    assert row["LIFETIME"] == f"owner-process until {space['remove_time'][11:19]}"
    # Taken over, nothing of that is left.
    with attested(ctl, "space transfer", name, "--request-id mine") as (pid, after):
        assert after["space"]["owner_process"]["pid"] == pid
        assert "remove_time" not in after["space"] and "owner_gone_time" not in after["space"]
        text = ctl("space", "get", name).out
        assert "ended" not in text and "removed" not in text


def test_a_permanent_space_notes_its_owner(ctl, fresh):
    name = fresh("noted")
    with attested(ctl, "space create", name) as (pid, made):
        assert made["space"]["lifetime"] == "PERMANENT" and "grace" not in made["space"]
        assert made["space"]["owner_process"]["pid"] == pid
    wait_until(lambda: "Owner ended" in ctl("space", "get", name).out, "the owner's end is known")
    assert "To be removed" not in ctl("space", "get", name).out


@pytest.mark.parametrize("arguments, reason", [
    (["create", "vm", "--lifetime", "owner-process"], "MISSING_FIELD"),
    (["create", "vm", "--lifetime", "owner-process", "--owner-handle", "0" * 32],
     "HANDLE_NOT_FOUND"),
    (["create", "vm", "--grace", "1s"], "INVALID_VALUE"),
    (["create", "vm", "--lifetime", "owner-process", "--grace", "25h"], "INVALID_VALUE"),
])
def test_refusals(ctl, arguments, reason):
    assert ctl.reason("space", *arguments) == reason
    assert not is_there(ctl, "vm")


def test_a_command_that_has_ended_owns_nothing(ctl, space):
    handle = ctl("fd", "attest").out.strip()
    assert "iovactl fd attest -- COMMAND" in ctl("space", "transfer", space, "--owner-handle",
                                                 handle, code=1).err


@pytest.mark.parametrize("arguments, says", [
    (["create", "vm", "--lifetime", "forever"], "permanent, owner-process"),
    (["create", "vm", "--grace", "soon"], "--grace: \"soon\" is no duration"),
    (["create", "vm", "--grace", "-1s"], "--grace"),
    (["create", "vm", "--grace", "inf"], "--grace"),
    (["transfer", "vm"], "--owner-handle"),
    (["transfer"], "SPACE"),
])
def test_usage(ctl, arguments, says):
    assert says in ctl("space", *arguments, code=2).err
