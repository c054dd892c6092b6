#!/usr/bin/env python3
"""What client/qemu/README.md shows: the VM is started as it says, and looks so.

As a program, with `--write`, it puts into the file what the commands print now:
    IOVAD_BIN_DIR=build/release/bin tests/qemu/test_session.py --write
"""

import os
import re
import subprocess
import sys
import tempfile

sys.path += [os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), folder)
             for folder in ("contract", "cli")]

# pylint: disable=wrong-import-position
from daemon import Daemon, scaled, wait_until  # noqa: E402
from iovactl import ROOT, Iovactl, environment  # noqa: E402
from test_readme import BLOCK, run_block, settled  # noqa: E402
from vm import PLUGIN, needs_qemu  # noqa: E402

pytestmark = needs_qemu

README = os.path.join(ROOT, "client", "qemu", "README.md")
SCRIPT = re.compile(r"(?<=^```sh\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
# What is so only here.
HERE = [(re.compile(r"0x7[0-9a-f]{11}"), "<hva>"), (re.compile(r"process +\d+"), "process <pid>"),
        (re.compile(r"pid=\d+"), "pid=<pid>"), (re.compile(r"run=[0-9a-f]+"), "run=<run>")]


def text_now(text, folder):
    """The README again, with what its commands print now."""
    with Daemon() as daemon:
        (script,) = SCRIPT.findall(text)
        script = script.replace("/usr/local/lib/iovad/libiovad-qemu-plugin.so", PLUGIN)
        script = script.replace("/run/iovad/iovad.sock", daemon.socket_path)
        subprocess.run(["bash", "-c", script], cwd=folder, timeout=scaled(60), check=True)
        ctl = Iovactl(daemon.socket_path)
        wait_until(lambda: any(space["mapping_count"] for space in
                               ctl.json("space", "ls")["spaces"]), "the memory is mapped")
        return BLOCK.sub(lambda match: run_block(match.group(1), ctl, folder), text)


def test_the_session_is_as_shown(tmp_path):
    with open(README, encoding="utf-8") as file:
        text = file.read()
    now = text_now(text, tmp_path)
    for pattern, replacement in HERE:
        now, text = pattern.sub(replacement, now), pattern.sub(replacement, text)
    assert settled(now).splitlines() == settled(text).splitlines(), (
        "client/qemu/README.md shows what is so no longer; look, and `test_session.py --write`")


def main():
    if sys.argv[1:] != ["--write"]:
        print(__doc__, file=sys.stderr)
        return 2
    with open(README, encoding="utf-8") as file:
        text = file.read()
    with tempfile.TemporaryDirectory() as folder:
        now = text_now(text, folder)
    with open(README, "w", encoding="utf-8") as file:
        file.write(now)
    return 0


if __name__ == "__main__":
    sys.exit(main())
