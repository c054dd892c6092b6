"""--help: on every command, with examples that work as they stand."""

import contextlib
import os
import re

import pytest
from daemon import Daemon
from iovactl import Iovactl


# A file of memory, where the examples have one.
RAM = "/dev/shm/vm1.ram"


@pytest.fixture(scope="module", autouse=True)
def no_ram_left():
    """Removes the file in the end."""
    yield
    if os.path.exists(RAM):
        os.unlink(RAM)


def commands(ctl):
    """Every command, as a list of words; the program itself is []."""
    found, todo = [], [[]]
    while todo:
        path = todo.pop()
        found.append(path)
        text = ctl(*path, "--help").out
        if "Subcommands:\n" in text:
            block = text.split("Subcommands:\n")[1].split("\n\n")[0]
            todo += [[*path, line.split()[0]] for line in block.splitlines()]
    return sorted(found)


def examples(text):
    """The command lines of a help text."""
    assert "\nExamples:\n" in text
    block = text.split("\nExamples:\n")[1].split("\n\n")[0]
    return [line.strip() for line in block.splitlines() if not line.strip().startswith("#")]


def prepare(ctl):
    """What the examples speak of: spaces vm1 (with memory, an alias and an SVQ) and vm2's
    absence, devices sim0 (attached to vm1) and sim1, a file of memory."""
    ctl("device", "open", "sim0", "--simulated", "--as-num", "2")
    ctl("device", "open", "sim1", "--simulated")
    ctl("space", "create", "vm1", "--attach", "sim0")
    ctl("map", "vm1", "--gpa", "0", "--hva", "0x7f7903e00000", "--size", "2G")
    with open(RAM, "ab") as ram:
        ram.truncate(64 << 10)
    ctl("map", "vm1", "--gpa", "0xfeda0000", "--hva", "0x7f7903ea0000", "--size", "128K")


def test_every_command_has_help_with_examples(ctl):
    paths = commands(ctl)
    assert len(paths) > 25
    for path in paths:
        text = ctl(*path, "--help").out
        assert examples(text), path
        for example in examples(text):
            assert f"iovactl {' '.join(path)}".strip() in example, (path, example)


def test_every_option_is_explained(ctl):
    for path in commands(ctl):
        for line in ctl(*path, "--help").out.splitlines():
            option = re.match(r"  (-\S+( \S+)*?)(  +(.*))?$", line)
            if option and line.startswith("  -"):
                # The explanation stands beside it or, behind long names, below.
                assert option.group(4) or len(line) > 30, (path, line)


def test_short_help_is_the_same(ctl):
    assert ctl("map", "-h").out == ctl("map", "--help").out


def paths_with_examples():
    return ["", "space", "space create", "space get", "space label", "space ls", "space rm",
            "space transfer", "map",
            "unmap", "translate", "resolve", "ls", "dump", "watch", "svq", "svq alloc", "svq free",
            "svq ls", "device", "device open", "device get", "device ls", "device attach",
            "device detach", "device reset", "device log", "device config", "device memlock",
            "device close", "memory", "memory register",
            "memory ls", "memory unregister", "fd", "fd deposit",
            "fd withdraw", "fd attest", "relay", "export", "import",
            "migrate", "migrate prepare", "migrate switch", "migrate abort", "migrate status",
            "replay", "stats",
            "info", "completion"]


def test_none_is_forgotten_below(ctl):
    assert sorted(" ".join(path) for path in commands(ctl)) == sorted(paths_with_examples())


# Where the other daemon of a migration is, in the examples.
OTHER = "/run/iovad-b/iovad.sock"


@pytest.mark.parametrize("path", paths_with_examples())
def test_the_examples_work(path):
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon())
        other = stack.enter_context(Daemon()) if path.startswith("migrate") else None
        ctl = Iovactl(daemon.socket_path)
        prepare(ctl)
        if path in ("migrate switch", "migrate abort", "migrate status"):
            ctl("migrate", "prepare", "vm1", "--to", other.socket_path, "--once", "--bind",
                "0+2G=0x7e0000000000", "--bind", "0xfeda0000+128K=0x7e00000a0000")
        if path == "memory unregister":
            ctl("memory", "register", "vm1", "0x7e0000000000", "64K", RAM)
        if path == "svq free":
            for index in range(2):
                base = 0x7f0000000000 + index * 0x10000
                ctl("svq", "alloc", "vm1", "--queue",
                    f"{index},size=256,driver={base:#x},device={base + 0x2000:#x}")
        text = ctl(*path.split(), "--help").out
        for example in examples(text):
            if "net0" in example:
                continue  # a device of the kernel's: tests/kernel has those
            if other is not None:
                example = example.replace(OTHER, other.socket_path)
            if "--live" in example:
                # Something has to happen while it watches.
                example = (f"{example} & watch=$!; i=0; while kill -0 $watch 2>/dev/null; do "
                           "i=$((i + 1)); iovactl map vm1 --hva $((0x7e0000000000 + i * 4096)) "
                           "--size 4K >/dev/null; done; wait $watch")
            run = ctl.shell(f"set -o pipefail; {example}")
            assert (run.returncode, run.stderr) == (0, ""), example
            assert run.stdout or "source" in example, example
