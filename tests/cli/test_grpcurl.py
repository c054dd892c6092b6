"""client/examples/guest.sh, and the grpcurl lines of the documents: everything is run, with a
stand-in for grpcurl."""

import json
import os
import re
import stat
import subprocess
import sys

import pytest

from daemon import Daemon, scaled
from iovactl import ROOT, environment
from migrating_pair import HERE

EXAMPLES = os.path.join(ROOT, "client", "examples")


@pytest.fixture(scope="module")
def grpcurl(tmp_path_factory):
    """A folder with the stand-in, for PATH."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "grpcurl"
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "grpcurl.py")
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(folder)


def run(grpcurl, command, **options):  # pylint: disable=redefined-outer-name
    """Runs a shell's line with the stand-in."""
    env = environment()
    env["PATH"] = grpcurl + os.pathsep + env["PATH"]
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env,
                          cwd=ROOT, timeout=scaled(60), check=False, **options)


def grpcurl_lines(*path):
    """The grpcurl commands of a document, in order."""
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        text = file.read().replace("\\\n", " ")
    return re.findall(r"^grpcurl -.*$", text, re.MULTILINE)


@pytest.mark.parametrize("path", [("README.md",), ("client", "examples", "README.md")])
def test_the_documents_lines_work(grpcurl, path):
    lines = grpcurl_lines(*path)
    assert len(lines) >= 2
    with Daemon() as daemon:
        if path == ("README.md",):
            for setup in ('{"space": "vm1"}', None):
                method = "CreateSpace" if setup else "Map"
                data = setup or ('{"space": "vm1", "mapping": {"gpa": "0", "hva": "4096", "size": '
                                 '"65536", "access": "ACCESS_READ_WRITE"}}')
                assert run(grpcurl, f"grpcurl -plaintext -unix -d '{data}' {daemon.socket_path} "
                           f"iovad.v1.AddressSpaceService/{method}").returncode == 0
        for line in lines:
            assert "/run/iovad/iovad.sock" in line
            result = run(grpcurl, line.replace("/run/iovad/iovad.sock", daemon.socket_path))
            assert (result.returncode, result.stderr) == (0, ""), (line, result)
            assert result.stdout, line


def guest(grpcurl, *arguments):
    """Runs guest.sh."""
    return run(grpcurl, " ".join([os.path.join(EXAMPLES, "guest.sh"), *arguments]))


def test_a_guest_from_the_shell(grpcurl, ctl):
    first = guest(grpcurl, "make", ctl.socket, "shell1", hex(HERE), "0x40000000")
    assert (first.returncode, first.stderr) == (0, "")
    made = json.loads(first.stdout)
    space = ctl.json("space", "get", "shell1")["space"]
    assert made["uid"] == space["uid"] and (space["mapping_count"], space["svq_count"]) == (5, 2)
    assert made["iova"] == ctl.json("translate", "shell1", "gpa:0")["translations"][0]["segments"][
        0]["iova"]
    assert [queue["index"] for queue in made["queues"]] == [0, 1]
    assert [int(q["driver"]) for q in made["queues"]] == [
        int(q["driver_iova"], 16) for q in ctl.json("svq", "ls", "shell1")["svqs"]]
    # Again: what was done stays, once.
    again = guest(grpcurl, "make", ctl.socket, "shell1", hex(HERE), "0x40000000")
    assert again.stdout == first.stdout
    assert ctl.json("space", "get", "shell1")["space"] == space
    # Other memory at that place is another thing.
    other = guest(grpcurl, "make", ctl.socket, "shell1", hex(HERE + 4096), "0x40000000")
    assert other.returncode == 1 and "GPA" in other.stderr
    assert ctl.json("space", "get", "shell1")["space"] == space
    for _ in range(2):
        gone = guest(grpcurl, "remove", ctl.socket, "shell1")
        assert (gone.returncode, gone.stdout, gone.stderr) == (0, "", "")
    assert ctl.reason("space", "get", "shell1") == "SPACE_NOT_FOUND"


@pytest.mark.parametrize("arguments, code, says", [
    ([], 2, "usage: guest.sh make SOCKET"), (["make", "SOCKET", "x"], 2, "usage"),
    (["mend", "SOCKET", "x"], 2, "usage"), (["make", "SOCKET", "No", "0", "4096"], 1, "No"),
    (["make", "/nowhere", "x", "0", "4096"], 1, ""),
    (["make", "SOCKET", "x", "0", "4095"], 1, "multiple"),
])
def test_what_the_shell_is_refused(grpcurl, ctl, arguments, code, says):
    result = guest(grpcurl, *[ctl.socket if a == "SOCKET" else a for a in arguments])
    assert (result.returncode, result.stdout) == (code, "")
    assert says in result.stderr and result.stderr
