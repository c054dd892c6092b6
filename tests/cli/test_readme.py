#!/usr/bin/env python3
"""Every example of client/README.md, run in order against one server: `console` blocks
with what they print, and the C++ program.

As a program, with `--write`, it puts into the file what the commands print now:
    IOVAD_BIN_DIR=build/release/bin PYTHONPATH=tests/contract tests/cli/test_readme.py --write
"""

import os
import re
import subprocess
import sys

from conftest import Daemon
from daemon import scaled
from iovactl import IOVACTL, ROOT, Iovactl, environment

README = os.path.join(ROOT, "client", "README.md")
BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)

# What differs from run to run.
VOLATILE = [
    (re.compile(r"\b[0-9a-f]{32}\b"), "<uid>"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC"), "<time>"),
    (re.compile(r"\b\d\d:\d\d:\d\d\.\d{3}\b"), "<clock>"),
    (re.compile(r"\b\d+\.\d{3} \(\d+ operations/s\)"), "<rate>"),
    (re.compile(r"\bprocess \d+ of user \d+\b"), "<process>"),
]


def settled(text):
    for pattern, replacement in VOLATILE:
        text = pattern.sub(replacement, text)
    return text


def run_block(block, ctl, folder=ROOT):
    """The block again, with what its commands print now, in `folder`."""
    now = ""
    for line in block.splitlines():
        if line.startswith("$ "):
            # Both outputs in the order they come, as on a terminal.
            run = subprocess.run(["bash", "-c", line[2:] + " 2>&1"], stdout=subprocess.PIPE,
                                 text=True, env=environment(ctl.socket), cwd=folder,
                                 timeout=scaled(60), check=False)
            now += line + "\n" + run.stdout
    return now


def rewritten(text, ctl):
    return BLOCK.sub(lambda match: run_block(match.group(1), ctl), text)


def test_the_session_is_as_shown():
    with open(README, encoding="utf-8") as file:
        text = file.read()
    assert text.count("$ iovactl") > 15
    with Daemon() as daemon:
        now = rewritten(text, Iovactl(daemon.socket_path))
    assert settled(now).splitlines() == settled(text).splitlines(), (
        "client/README.md shows what is so no longer; look, and `test_readme.py --write`")


def test_the_program_does_what_it_says(ctl, space):
    program = os.path.join(os.path.dirname(IOVACTL), "readme_example")
    def run(*arguments):
        return subprocess.run([program, *arguments], capture_output=True, text=True,
                              timeout=scaled(30), check=False)
    first = run(ctl.socket, space)
    assert (first.returncode, first.stdout) == (0, "mapped at 0x1000\nthe buffer is at 0x3340\n"), first
    again = run(ctl.socket, space)
    assert (again.returncode, again.stdout) == (0, "mapped before, at 0x1000\n")
    refused = run(ctl.socket, "no-such-space")
    assert refused.returncode == 1
    assert "no-such-space" in refused.stdout
    assert run().returncode == 2


def main():
    if sys.argv[1:] != ["--write"]:
        print(__doc__, file=sys.stderr)
        return 2
    with open(README, encoding="utf-8") as file:
        text = file.read()
    with Daemon() as daemon:
        now = rewritten(text, Iovactl(daemon.socket_path))
    with open(README, "w", encoding="utf-8") as file:
        file.write(now)
    return 0


if __name__ == "__main__":
    sys.exit(main())
