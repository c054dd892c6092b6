"""iovactl fd: files and processes in, handles out, and back."""

import json
import os

import pytest


@pytest.fixture
def ram(tmp_path):
    """A file with something in it."""
    path = tmp_path / "ram"
    path.write_text("guest", encoding="utf-8")
    return str(path)


def deposit(ctl, *arguments):
    """A handle."""
    handle = ctl("fd", "deposit", *arguments).out.strip()
    assert len(handle) == 32 and int(handle, 16) >= 0
    return handle


def test_in_by_path_and_out_again(ctl, ram):
    handle = deposit(ctl, "--kind", "memory", "--name", "vm1", ram)
    assert ctl("fd", "withdraw", handle, "--", "sh", "-c", "cat <&$IOVAD_FD").out == "guest"
    # Once.
    error = ctl("--output", "json", "fd", "withdraw", handle, "--", "true", code=1).error
    assert error["reason"] == "HANDLE_NOT_FOUND" and error["code"] == "NOT_FOUND"
    assert error["hint"]


def test_in_by_descriptor(ctl, ram):
    run = ctl.shell(f"iovactl fd deposit --kind memory --fd 7 7<>{ram}")
    assert run.returncode == 0, run.stderr
    out = ctl("fd", "withdraw", run.stdout.strip(), "--fd", "0", "--", "cat").out
    assert out == "guest"


@pytest.mark.parametrize("number", [0, 3, 4, 5, 6, 7, 8, 9, 10, 200])
def test_the_command_gets_the_number_that_it_wants(ctl, ram, number):
    # Also where iovactl itself has something.
    handle = deposit(ctl, "--kind", "memory", ram)
    out = ctl("fd", "withdraw", handle, "--fd", number, "--",
              "sh", "-c", "echo $IOVAD_FD; readlink /proc/$$/fd/$IOVAD_FD").out
    assert out.splitlines() == [str(number), ram]


def test_the_command_gets_nothing_else(ctl, ram):
    handle = deposit(ctl, "--kind", "memory", ram)
    out = ctl("fd", "withdraw", handle, "--fd", "9", "--", "ls", "/proc/self/fd").out
    # 3 is the folder that ls looks at.
    assert out.split() == ["0", "1", "2", "3", "9"]


def test_the_command_decides_the_exit_code(ctl, ram):
    handle = deposit(ctl, "--kind", "memory", ram)
    ctl("fd", "withdraw", handle, "--", "sh", "-c", "exit 42", code=42)


def test_a_device_is_only_looked_at(ctl):
    deposit(ctl, "--kind", "device", "/dev/null")


def test_json(ctl, ram):
    assert list(ctl.json("fd", "deposit", "--kind", "memory", ram)) == ["handle"]
    attested = ctl.json("fd", "attest")
    assert set(attested) == {"handle", "pid", "uid"} and attested["uid"] == os.getuid()


def test_attest_is_about_the_command(ctl):
    script = 'echo "{\\"me\\": $$, \\"handle\\": \\"$IOVAD_OWNER_HANDLE\\"}"'
    # exec keeps the process.
    process = ctl.start("fd", "attest", "--", "sh", "-c", script)
    out, _ = process.communicate()
    answer = json.loads(out)
    assert answer["me"] == process.pid and len(answer["handle"]) == 32


def test_the_socket_can_be_named(ctl, server, ram):
    path = os.path.join(server.folder, "iovad.fd.sock")
    assert ctl("info").out.count(path) == 1
    deposit(ctl, "--socket", "/nowhere/at/all", "--fd-socket", path, "--kind", "memory", ram)
    error = ctl.refused("fd", "deposit", "--fd-socket", "/nowhere", "--kind", "memory", ram)
    assert error["code"] == "UNAVAILABLE" and "/nowhere" in error["message"]


@pytest.mark.parametrize("arguments,reason", [
    (["--kind", "memory", "/dev/null"], "MEMORY_UNSUITABLE"),
    (["--kind", "eventfd", "/dev/null"], "INVALID_VALUE"),
    (["--kind", "device", "--name", "x" * 65, "/dev/null"], "INVALID_LABEL"),
    (["--kind", "device", "--name", "a\nb", "/dev/null"], "INVALID_LABEL"),
])
def test_refusals(ctl, arguments, reason):
    assert ctl.refused("fd", "deposit", *arguments)["reason"] == reason


@pytest.mark.parametrize("arguments,says", [
    (["deposit", "--kind", "memory"], "[PATH,--fd]"),
    (["deposit", "/dev/null"], "--kind"),
    (["deposit", "--kind", "disk", "/dev/null"], "memory, device or eventfd"),
    (["deposit", "--kind", "memory", "/dev/null", "--fd", "0"], "[PATH,--fd]"),
    (["deposit", "--kind", "memory", "/nowhere"], "/nowhere: No such file"),
    (["deposit", "--kind", "memory", "--fd", "999"], "--fd 999: Bad file descriptor"),
    (["deposit", "--kind", "memory", "--fd", "-1"], "--fd"),
    (["withdraw", "0" * 32], "COMMAND"),
    (["withdraw"], "HANDLE"),
    (["attest", "--", "/nowhere/command"], "/nowhere/command: No such file"),
    ([], "subcommand"),
])
def test_usage(ctl, arguments, says):
    assert says in ctl("fd", *arguments, code=2).err


def test_completion(ctl):
    def offered(*words):
        return ctl("__complete", "--", *words).out.split()

    assert offered("fd", "") == ["deposit", "withdraw", "attest"]
    assert offered("fd", "deposit", "--kind", "") == ["memory", "device", "eventfd"]
    assert offered("fd", "deposit", "--kind", "memory", "") == [":files"]
    assert "--name" in offered("fd", "deposit", "--n")
