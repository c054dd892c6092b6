"""iovactl export and import"""

import os
import pty
import re
import stat
import select
import subprocess

import pytest

from daemon import scaled
from harness import FIRST_FIT, PAGE, Client, spec
from iovactl import IOVACTL, environment, on_a_terminal, read_terminal

HERE = 0x7F0000000000
THERE = 0x7E0000000000
BIND = ["--bind", f"0+2G={THERE:#x}", "--bind", f"0xfeda0000+128K={THERE + 0xA0000:#x}"]


@pytest.fixture
def guest(ctl, space):
    """A space with memory, an alias of a part of it, host-only memory and a queue."""
    ctl("map", space, "--gpa", "0", "--hva", hex(HERE), "--size", "2G", "--label", "ram")
    ctl("map", space, "--gpa", "0xfeda0000", "--hva", hex(HERE + 0xA0000), "--size", "128K",
        "--label", "smram")
    ctl("map", space, "--hva", "0x7d0000000000", "--size", "4K", "--label", "host")
    ctl("svq", "alloc", space, "--queue", "0,size=256")
    return space


@pytest.fixture
def file(ctl, guest, tmp_path):
    """Its export."""
    path = tmp_path / "vm.space"
    ctl("export", guest, "--file", path)
    return path


def test_export_says_what_it_wrote(ctl, guest, tmp_path):
    path = tmp_path / "vm.space"
    out = ctl("export", guest, "--file", path).out
    assert re.fullmatch(rf"space {guest} at revision 5: 3 mappings and 1 shadow virtqueues in "
                        rf"{path} \(.*\)\n", out)
    assert path.read_bytes().startswith(b"iovad export 1\n")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    report = ctl.json("export", guest, "--file", path)
    assert report["uid"] == ctl.json("space", "get", guest)["space"]["uid"]
    assert (report["space"], report["revision"], report["mappings"], report["svqs"]) == (
        guest, 5, 3, 1)
    assert report["bytes"] == path.stat().st_size
    assert os.listdir(tmp_path) == ["vm.space"]


def test_export_leaves_what_is_there_when_it_is_refused(ctl, guest, tmp_path):
    path = tmp_path / "vm.space"
    path.write_text("before")
    assert ctl.reason("export", "nobody", "--file", str(path)) == "SPACE_NOT_FOUND"
    assert ctl.reason("export", guest, "--file", str(path), "--space-uid", "0" * 32) == (
        "SPACE_NOT_FOUND")
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["vm.space"]
    error = ctl.refused("export", guest, "--file", str(tmp_path / "none" / "vm.space"))
    assert "No such file" in error["message"]


def test_export_does_not_write_on_a_terminal(ctl, guest):
    terminal, end = pty.openpty()
    run = subprocess.run([IOVACTL, "export", guest], stdout=end, stderr=subprocess.PIPE,
                         env=environment(ctl.socket), check=False)
    os.close(end)
    os.close(terminal)
    assert run.returncode == 2 and b"--file" in run.stderr


@pytest.mark.parametrize("placement", ["keep", "anew"])
def test_round_trip(ctl, guest, file, fresh, placement):
    name = fresh("there")
    result = ctl.json("import", name, "--file", file, *BIND, "--placement", placement)
    assert result["space"] == ctl.json("space", "get", name)["space"]
    assert [q["queue_size"] for q in result["svqs"]] == [256]
    assert [m["label"] for m in result["skipped"]] == ["host"] and result["skipped_count"] == 1
    here = {m["label"]: m for m in ctl.json("ls", guest)["mappings"]}
    there = {m["label"]: m for m in ctl.json("ls", name)["mappings"]}
    for label in ("ram", "smram"):
        assert there[label]["gpa"] == here[label]["gpa"]
        if placement == "keep":
            assert there[label]["iova"] == here[label]["iova"]
    assert there["smram"]["hva"] == hex(THERE + 0xA0000)


def test_import_shows_what_it_made(ctl, file, fresh):
    name = fresh("there")
    out = ctl("import", name, "--file", file, *BIND).out
    assert re.search(rf"^Name +{name}$", out, re.MULTILINE)
    assert "1 host-only mappings were left out" in out and "host" in out
    assert re.search(r"^imported in \d+\.\d\d s$", out, re.MULTILINE)


def test_import_is_named_as_it_was_exported(ctl, guest, file):
    assert ctl.reason("import", "--file", str(file), *BIND) == "NAME_TAKEN"
    ctl("space", "rm", guest, "--force")
    assert ctl.json("import", "--file", file, *BIND)["space"]["name"] == guest


def test_pipe(ctl, guest, fresh):
    name = fresh("there")
    run = ctl.shell(f"set -o pipefail; iovactl export {guest} | "
                    f"iovactl import {name} --file - {' '.join(BIND)} --output json")
    assert (run.returncode, run.stderr) == (0, "")
    assert ctl.json("space", "get", name)["space"]["name"] == name


def test_memory_by_descriptor(ctl, guest, file, fresh, tmp_path):
    """A file bound twice is one memory, and its alias one."""
    ram = tmp_path / "ram"
    with open(ram, "wb") as opened:
        opened.truncate(2 << 30)
    name = fresh("there")
    ctl("import", name, "--file", file, "--bind-memory", f"0+2G={ram}",
        "--bind-memory", f"0xfeda0000+128K={ram}@640K")
    memory, own = ctl.json("memory", "ls", name)["memory"]
    assert (memory["memory_id"], memory["size"], memory["offset"]) == (1, "0x80000000", "0x0")
    assert own["label"] == "shadow virtqueues"
    mappings = {m["label"]: m for m in ctl.json("ls", name)["mappings"]}
    assert mappings["ram"]["memory_id"] == mappings["smram"]["memory_id"] == 1
    assert int(mappings["smram"]["hva"], 16) - int(mappings["ram"]["hva"], 16) == 0xA0000
    ctl.refused("import", fresh("there"), "--file", str(file), "--bind-memory",
                f"0+2G=server:{ram}", "--bind-memory", f"0xfeda0000+128K=server:{ram}@640K")


def test_refusals(ctl, file, fresh, tmp_path):
    name = fresh("there")
    error = ctl.refused("import", name, "--file", str(file), *BIND[:2])
    assert error["reason"] == "UNBOUND_MEMORY" and "--bind" in error["hint"]
    assert error["detail"]["ranges"] == [{"first": "0xfeda0000", "last": "0xfedbffff"}]
    content = bytearray(file.read_bytes())
    content[content.index(b"smram")] ^= 1
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)
    assert ctl.reason("import", name, "--file", str(damaged), *BIND) == "EXPORT_CORRUPT"
    assert ctl.reason("space", "get", name) == "SPACE_NOT_FOUND"


def test_repeat(ctl, file, fresh):
    name = fresh("there")
    arguments = ["import", name, "--file", file, *BIND, "--request-id", name]
    first, second = ctl.json(*arguments), ctl.json(*arguments)
    del first["seconds"], second["seconds"]
    assert first == second


def test_what_is_no_export_is_a_mistake_of_the_callers(ctl, file, fresh, tmp_path):
    other = tmp_path / "other"
    for content in (b"", b"iovad export 2\n", b"something else entirely",
                    file.read_bytes()[:-1], b"iovad export 1\n\xff\xff\xff\xff\x7f",
                    b"iovad export 1\n\x05hello"):
        other.write_bytes(content)
        result = ctl("import", fresh("there"), "--file", other, *BIND, code=2)
        assert str(other) in result.err
    assert "No such file" in ctl("import", "--file", tmp_path / "none", code=2).err


@pytest.mark.parametrize("arguments", [
    ["--bind", "0+2G"], ["--bind", "0+2G="], ["--bind", "=0x1000"], ["--bind", "0+2G=here"],
    ["--bind-memory", "0+2G=fd:x"], ["--bind-memory", "0+2G=/dev/null@1Q"],
    ["--bind-memory", "0+2G=@4K"], ["--bind-memory", "all=/dev/null"],
    ["--bind-memory", "0+2G=/nowhere/at/all"], ["--placement", "somewhere"], ["--attach", ":1"],
])
def test_usage(ctl, file, fresh, arguments):
    ctl("import", fresh("there"), "--file", file, *arguments, code=2)


MANY = 30_000  # pages, a mapping each; an import maps 10,000 at a time
BAR = r"\r\[(#*)\.*\] +(\d+) %  (.*?)\x1b\[K"
GONE = "\r\x1b[K"


@pytest.fixture(scope="module", name="api")
def _api(server):
    with Client(server.target) as connected:
        yield connected


@pytest.fixture(scope="module", name="many")
def _many(api):
    api.CreateSpace(space="many", placement=FIRST_FIT)
    for first in range(0, MANY, 10_000):
        api.update("many", *[spec(HERE + n * PAGE, PAGE, gpa=n * PAGE)
                             for n in range(first, first + 10_000)])
    return "many"


def bars_of(shown):
    """[(part of the bar that is full, per cent, text)] and what else is shown."""
    return re.findall(BAR, shown), re.sub(BAR, "", shown)


def slow_device(api, name):
    """A device that takes its time for the second and the third step of an import."""
    api.OpenDevice(device=name, simulated=dict(entry_budget=MANY, faults=[
        dict(op="OP_UPDATE", nth=nth, delay=dict(seconds=1)) for nth in (15_000, 25_000)]))
    return name


def test_import_shows_how_far_it_is_on_a_terminal(ctl, api, many, fresh, tmp_path):
    """Bytes mapped and the rate, once it takes longer than half a second."""
    path = tmp_path / "many.space"
    ctl("export", many, "--file", path)
    bind = ["--bind", f"0+{MANY * PAGE}={THERE:#x}"]
    shown = on_a_terminal(ctl, "import", fresh("there"), "--file", path, *bind, "--attach",
                          slow_device(api, fresh("slow")))
    bars, rest = bars_of(shown)
    assert [(len(full), int(share)) for full, share, _ in bars] == [(20, 67), (30, 100)]
    for (_, _, text), mapped in zip(bars, ("~78.1 MiB", "~117.2 MiB")):
        assert re.fullmatch(rf"{mapped} of ~117.2 MiB mapped, ~?[\d.]+ [KMG]iB/s", text), text
    # It goes before the answer comes.
    assert rest.startswith(GONE) and "imported in" in rest and "\r[" not in rest

    # Not where nobody looks: ctl() sees to it that standard error is empty.
    ctl("import", fresh("there"), "--file", path, *bind, "--attach",
        slow_device(api, fresh("slow")))
    # Nor when it is quick.
    assert "\r[" not in on_a_terminal(ctl, "import", fresh("there"), "--file", path, *bind)


def test_export_shows_how_far_it_is_on_a_terminal(ctl, many):
    """When what it writes to is slow: a pipe that nobody reads for a while."""
    master, slave = pty.openpty()
    with subprocess.Popen([IOVACTL, "export", many], stdout=subprocess.PIPE, stderr=slave,
                          env=environment(ctl.socket)) as process:
        os.close(slave)
        # It has begun; while the pipe is full, its first half second goes by.
        assert select.select([process.stdout], [], [], scaled(30))[0]
        assert not select.select([master], [], [], scaled(0.6))[0]
        exported = process.stdout.read()
        bars, rest = bars_of(read_terminal(master))
        assert process.wait(scaled(30)) == 0
    os.close(master)
    assert exported.startswith(b"iovad export 1\n")
    assert rest == GONE and bars
    _, share, text = bars[0]
    assert 0 < int(share) < 100
    assert re.fullmatch(rf"\d+ of {MANY} mappings, ~?[\d.]+ [KM]iB, \d+/s", text), text
