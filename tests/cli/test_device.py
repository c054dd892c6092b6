"""iovactl device open|ls|get|close|reset|log|config|memlock|attach|detach"""

import re

import pytest


def test_open_shows_the_device(ctl, fresh):
    name = fresh("sim")
    out = ctl("device", "open", name, "--simulated").out
    assert re.search(rf"^Name +{name}$", out, re.MULTILINE)
    assert re.search(r"^Backend +simulated$", out, re.MULTILINE)
    assert re.search(r"^IOVA range +0x0-0xffffffffffffffff$", out, re.MULTILINE)
    assert re.search(r"^Attached +to no space$", out, re.MULTILINE)


def test_open_takes_every_property(ctl, fresh):
    name = fresh("sim")
    device = ctl.json("device", "open", name, "--simulated", "--range", "0x1000-0xff_ffff_ffff",
                      "--as-num", "3", "--group-num", "2", "--vq-num", "5", "--entry-budget", "7",
                      "--capability", "IOTLB_BATCH", "--capability", "IOTLB_ASID")["device"]
    assert device["iova_range"] == {"first": "0x1000", "last": "0xffffffffff"}
    assert (device["as_num"], device["group_num"], device["vq_num"]) == (3, 2, 5)
    assert device["entry_budget"] == 7
    assert device["capabilities"] == ["IOTLB_BATCH", "IOTLB_ASID"]
    assert device["backend"] == "SIMULATED"


def test_real_devices_are_opened_by_path_or_by_handle(ctl, fresh):
    name = fresh("real")
    for option in ([], ["--path"]):
        assert ctl.reason("device", "open", name, *option, "/dev/none") == "DEVICE_NOT_FOUND"
        assert ctl.reason("device", "open", name, *option, "/dev/null") == "INVALID_VALUE"
    assert ctl.reason("device", "open", name, "--fd-handle", "0" * 32) == "HANDLE_NOT_FOUND"


@pytest.mark.parametrize("source", [
    [], ["/dev/null", "--simulated"], ["--path", "/dev/null", "--fd-handle", "0"],
    ["/dev/null", "--vq-num", "2"]])
def test_open_takes_one_source(ctl, fresh, source):
    ctl("device", "open", fresh("real"), *source, code=2)


def test_a_simulated_device_has_no_configuration_and_pins_nothing(ctl, device, space):
    assert ctl.reason("device", "config", device) == "NO_DEVICE_CAPABILITY"
    assert ctl.reason("device", "config", device, "--offset", "2") == "NO_DEVICE_CAPABILITY"
    assert ctl.reason("device", "memlock", device, space) == "NO_DEVICE_CAPABILITY"


def test_ls_and_get(ctl, device, space):
    ctl("device", "attach", device, space)
    assert device in [d["name"] for d in ctl.json("device", "ls")["devices"]]
    row = next(row for row in ctl("device", "ls").rows() if row["NAME"] == device)
    assert row["BACKEND"] == "simulated"
    assert row["SPACES"] == f"{space}:0"
    got = ctl.json("device", "get", device)["device"]
    assert [(a["space"], a["asid"]) for a in got["attachments"]] == [(space, 0)]
    assert re.search(rf"^Attached +space {space}, asid 0: live, 0 entries$",
                     ctl("device", "get", device).out, re.MULTILINE)


def test_attach_replays_and_detach_takes_away(ctl, device, space):
    ctl("map", space, "--gpa", "0", "--hva", "0x7f0000000000", "--size", "64K")
    attached = ctl.json("device", "attach", device, space, "--asid", "1")["space"]["attachments"]
    assert [(a["device"], a["asid"], a["state"]) for a in attached] == [(device, 1, "LIVE")]
    assert ctl.reason("device", "attach", device, space, "--asid", "1") == "DEVICE_BUSY"
    assert ctl.reason("device", "close", device) == "IN_USE"
    out = ctl("device", "detach", device, space, "--asid", "1").out
    assert re.search(r"^Attachments +none$", out, re.MULTILINE)
    types = [e["type"] for e in ctl.json("device", "log", device)["entries"]]
    assert types == ["BATCH_BEGIN", "UPDATE", "BATCH_END", "BATCH_BEGIN", "INVALIDATE", "BATCH_END"]


def test_attach_can_point_groups(ctl, fresh, space):
    name = fresh("sim")
    ctl("device", "open", name, "--simulated", "--as-num", "2", "--group-num", "2", "--vq-num", "3")
    attached = ctl.json("device", "attach", name, space, "--asid", "1", "--group", "1")
    assert attached["space"]["attachments"][0]["groups"] == [1]
    assert ctl.reason("device", "attach", name, space, "--group", "7") == "INVALID_VALUE"


def test_attach_checks_uid_and_revision(ctl, device, space):
    assert ctl.reason("device", "attach", device, space,
                      "--expect-revision", "5") == "REVISION_MISMATCH"
    assert ctl.reason("device", "attach", device, space, "--space-uid", "5") == "SPACE_NOT_FOUND"


def test_close_lets_it_go(ctl, device):
    assert ctl("device", "close", device).out == f"device {device} closed\n"
    assert ctl.reason("device", "get", device) == "DEVICE_NOT_FOUND"


def test_a_fault_is_told_with_its_errno_and_undone(ctl, fresh, space):
    name = fresh("sim")
    ctl("device", "open", name, "--simulated", "--fault", "update:1:ENOMEM")
    ctl("device", "attach", name, space)
    result = ctl("map", space, "--gpa", "0", "--hva", "0x7f0000000000", "--size", "4K", code=1)
    assert result.err.startswith("error: DEVICE_ERROR: ")
    assert re.search(rf"^device +device {name} answered ENOMEM \(12: .*\)$", result.err,
                     re.MULTILINE)
    assert ctl.json("ls", space)["mappings"] == []
    ctl("map", space, "--gpa", "0", "--hva", "0x7f0000000000", "--size", "4K")


def test_log_shows_what_was_pushed(ctl, device, space):
    ctl("device", "attach", device, space)
    ctl("map", space, "--gpa", "0", "--hva", "0x7f0000000000", "--size", "64K", "--access", "ro")
    rows = ctl("device", "log", device, "--last", "2").rows()
    assert [row["MESSAGE"] for row in rows] == ["UPDATE", "BATCH_END"]
    assert rows[0]["IOVA"] == "0x1000-0x10fff"
    assert rows[0]["UADDR"] == "0x7f0000000000"
    assert rows[0]["ACCESS"] == "ro"
    assert rows[0]["RESULT"] == "ok"
    assert rows[0]["SPACE"] == space


def test_reset_replays_the_space(ctl, device, space):
    ctl("map", space, "--gpa", "0", "--hva", "0x7f0000000000", "--size", "64K")
    ctl("device", "attach", device, space)
    out = ctl("device", "reset", device).out
    assert re.search(rf"^Attached +space {space}, asid 0: live, 1 entry$", out, re.MULTILINE)
