"""What cannot be understood: exit code 2, a message that names the option, and nothing
done."""

import json

import pytest

MAP = ["map", "vm", "--hva", "0x1000", "--size", "4K"]

WRONG = [
    # (arguments, what the message says)
    ([], "command is required"),
    (["frob"], '"frob" is no command of iovactl'),
    (["space"], "command is required"),
    (["space", "frob"], '"frob" is no command of space'),
    (["space", "get"], "SPACE is required"),
    (["space", "get", "a", "b"], "b"),
    (["--nope", "info"], "--nope"),
    (["info", "--output", "yaml"], "--output: it is table or json"),
    (["info", "--color", "blue"], "--color: it is auto, always or never"),
    (["info", "--timeout", "5"], "--timeout: write it like"),
    (["info", "--timeout", "-5s"], "--timeout: write it like"),
    (["info", "--socket", "127.0.0.1:x"], "--socket: "),
    (["map", "vm", "--hva", "0x1000"], "--size is required"),
    (["map", "vm", "--size", "4K"], "--hva is required"),
    ([*MAP, "--gpa", ""], '--gpa: "": is empty'),
    ([*MAP, "--gpa", "-1"], '--gpa: "-1": is negative'),
    ([*MAP, "--gpa=-1"], '--gpa: "-1": is negative'),
    ([*MAP, "--gpa", "0x1_0000_0000_0000_0000"], "more than 64 bits"),
    ([*MAP, "--gpa", "12x"], "--gpa: "),
    ([*MAP, "--gpa", "ram"], "is not a number"),
    ([*MAP, "--iova", "1.5"], "--iova: "),
    ([*MAP, "--access", "r"], '"r" is none of rw, ro, wo'),
    ([*MAP, "--expect-revision", "x"], "--expect-revision: "),
    ([*MAP, "--expect-revision", "-1"], "is negative"),
    (["map", "vm", "--hva", "0", "--size", "0"], "a size is at least 1 byte"),
    (["map", "vm", "--hva", "0", "--size", "16E"], "more than 64 bits"),
    (["map", "vm", "--hva", "0", "--size", "4KB"], "unknown suffix"),
    (["map", "vm", "--hva", "0", "--size", "-4K"], "is negative"),
    (["unmap", "vm"], "Exactly 1 option from [--id,--gpa,"),
    (["unmap", "vm", "--id", "1", "--gpa", "0"], "2 were given"),
    (["unmap", "vm", "--gpa-range", "0x1000"], "is not a range"),
    (["unmap", "vm", "--gpa-range", "2-1"], "ends before it begins"),
    (["unmap", "vm", "--gpa-range", "0xfffffffffffff000+8K"], "beyond 2^64"),
    (["translate", "vm"], "QUERY is required"),
    (["translate", "vm", "0x1000"], "gpa:ADDRESS"),
    (["translate", "vm", "gpa:0x1000+0"], "at least 1 byte"),
    (["resolve", "vm", "pa:0"], "gpa:ADDRESS"),
    (["ls", "vm", "--kind", "ghost"], "none of guest, host"),
    (["svq", "alloc", "vm"], "--queue is required"),
    (["svq", "alloc", "vm", "--queue", "0"], "size= is missing"),
    (["svq", "alloc", "vm", "--queue", "0,size=1,depth=2"], "is none of size="),
    (["svq", "free", "vm"], "Exactly 1 option from [ID,--all]"),
    (["svq", "free", "vm", "1", "--all"], "2 were given"),
    (["svq", "free", "vm", "x"], "ID: "),
    (["space", "create", "vm", "--reserve", "1", "--reserve-nothing"], "reserve"),
    (["space", "create", "vm", "--placement", "best-fit"], "none of congruent"),
    (["space", "create", "vm", "--label", "x"], "is not KEY=VALUE"),
    (["space", "create", "vm", "--attach", ":1"], "name is needed"),
    (["space", "create", "vm", "--attach", "sim0:x"], "--attach: "),
    (["device", "open", "sim"], "Exactly 1 option from [--path,--fd-handle,--simulated]"),
    (["device", "open", "sim", "--simulated", "--path", "x"], "2 were given"),
    (["device", "open", "sim", "--path", "x", "--as-num", "2"], "--simulated"),
    (["device", "open", "sim", "--simulated", "--as-num", "4294967296"], "32 bits"),
    (["device", "open", "sim", "--simulated", "--fault", "update:1:ENOPE"], "no errno"),
    (["device", "log", "sim", "--last", "all"], "--last: "),
    (["watch", "vm", "--from", "1", "--live"], "--live"),
    (["watch", "vm", "--snapshot", "--live"], "--live"),
    (["completion", "fish"], "SHELL"),
    (["replay"], "TRACE is required"),
    (["replay", "x", "--asid", "-1"], "is negative"),
]


@pytest.mark.parametrize("arguments, message", WRONG, ids=[" ".join(w[0])[:60] for w in WRONG])
def test_is_told_and_nothing_is_done(ctl, arguments, message):
    result = ctl(*arguments, code=2)
    assert result.out == ""
    assert message in result.err.splitlines()[0]
    as_json = ctl(*arguments, "--output=json", code=2)
    if "--output" in arguments:
        return  # which of the two counts is not the point
    assert as_json.out == ""
    assert as_json.error["code"] == "USAGE"
    assert as_json.error["reason"] is None
    assert message in as_json.error["message"]


def test_no_mistake_made_anything(ctl):
    assert ctl.json("space", "ls")["spaces"] == []
    assert ctl.json("device", "ls")["devices"] == []


def test_the_hint_names_the_commands_own_help(ctl):
    result = ctl("space", "create", "vm", "--page-size", "x", code=2)
    assert result.err.splitlines()[1] == "hint:  `iovactl space create --help` says how it is written"
    assert ctl("space", "create", "--help").out.startswith("Make a space\n")


def test_names_of_commands_are_fine_as_names_of_spaces(ctl):
    for name in ("map", "ls", "space", "create"):
        ctl("space", "create", name)
        ctl("map", name, "--hva", "0", "--size", "4K")
        ctl("ls", name)
        ctl("space", "get", name)
        ctl("space", "rm", name, "--force")


def test_errors_of_the_server_are_not_usage_errors(ctl):
    error = ctl.refused("space", "get", "Not_A_Name")
    assert error["code"] == "INVALID_ARGUMENT"
    assert error["reason"] == "INVALID_NAME"
    assert json.dumps(error["detail"])
