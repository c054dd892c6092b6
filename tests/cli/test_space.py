"""iovactl space create|get|ls|label|rm"""

import re


def test_create_shows_the_space(ctl, fresh):
    name = fresh("vm")
    out = ctl("space", "create", name).out
    assert re.search(rf"^Name +{name}$", out, re.MULTILINE)
    assert re.search(r"^Revision +1$", out, re.MULTILINE)
    assert re.search(r"^IOVA range +0x0-0xffffffffffff$", out, re.MULTILINE)
    assert re.search(r"^Reserved +0xfee00000-0xfeefffff$", out, re.MULTILINE)
    assert re.search(r"^Placement +congruent$", out, re.MULTILINE)
    assert re.search(r"^Page size +0x1000 \(4 KiB\)$", out, re.MULTILINE)


def test_create_takes_every_property(ctl, fresh, device):
    name = fresh("vm")
    space = ctl.json("space", "create", name, "--range", "all", "--reserve", "0x1000+4K",
                     "--reserve", "0x10000-0x1ffff", "--placement", "identity",
                     "--page-size", "64K", "--max-mappings", "10", "--label", "a=b",
                     "--label", "vm=7", "--attach", f"{device}:1")["space"]
    assert space["iova_range"] == {"first": "0x0", "last": "0xffffffffffffffff"}
    assert space["reserved"]["ranges"] == [{"first": "0x1000", "last": "0x1fff"},
                                           {"first": "0x10000", "last": "0x1ffff"}]
    assert space["placement"] == "IDENTITY"
    assert space["iova_page_size"] == "0x10000"
    assert space["max_mappings"] == 10
    assert space["labels"] == {"a": "b", "vm": "7"}
    assert [(a["device"], a["asid"], a["state"]) for a in space["attachments"]] == [
        (device, 1, "LIVE")]
    table = ctl("space", "get", name).out
    assert re.search(rf"^Attachments +{device} \(asid 1\): live, at revision 1$", table,
                     re.MULTILINE)
    assert re.search(r"^Labels +a=b\n +vm=7$", table, re.MULTILINE)


def test_create_can_reserve_nothing(ctl, fresh):
    name = fresh("vm")
    assert ctl.json("space", "create", name, "--reserve-nothing")["space"]["reserved"] == {
        "ranges": []}
    assert re.search(r"^Reserved +nothing$", ctl("space", "get", name).out, re.MULTILINE)


def test_create_repeated_with_its_request_id_is_one_space(ctl, fresh):
    name = fresh("vm")
    first = ctl.json("space", "create", name, "--request-id", name)
    assert ctl.json("space", "create", name, "--request-id", name) == first
    assert ctl.reason("space", "create", name) == "NAME_TAKEN"


def test_get_is_one_space_in_both_forms(ctl, space):
    got = ctl.json("space", "get", space)["space"]
    assert got["name"] == space
    assert re.fullmatch(r"[0-9a-f]{32}", got["uid"])
    assert got["uid"] in ctl("space", "get", space).out
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", got["create_time"])


def test_ls_has_every_space(ctl, fresh):
    names = sorted(fresh("listed") for _ in range(3))
    for name in names:
        ctl("space", "create", name)
    assert [s["name"] for s in ctl.json("space", "ls")["spaces"] if s["name"] in names] == names
    rows = {row["NAME"]: row for row in ctl("space", "ls").rows()}
    assert set(names) <= set(rows)
    assert rows[names[0]]["REVISION"] == "1"
    assert rows[names[0]]["IOVA RANGE"] == "0x0-0xffffffffffff"


def test_label_sets_and_removes(ctl, space):
    assert ctl.json("space", "label", space, "a=1", "b=x=y", "c=")["space"]["labels"] == {
        "a": "1", "b": "x=y", "c": ""}
    out = ctl("space", "label", space, "a-", "c=3", "--expect-revision", "1").out
    assert re.search(r"^Labels +b=x=y\n +c=3$", out, re.MULTILINE)
    assert ctl.json("space", "get", space)["space"]["labels"] == {"b": "x=y", "c": "3"}
    assert ctl.reason("space", "label", space, "x" * 65 + "=") == "INVALID_LABEL"
    assert ctl.reason("space", "label", space, "a=1", "--expect-revision", "2") == (
        "REVISION_MISMATCH")
    for wrong in ("a", "-", "=1", ""):
        ctl("space", "label", space, wrong, code=2)
    ctl("space", "label", space, code=2)


def test_rm_wants_an_empty_space_or_force(ctl, space):
    ctl("map", space, "--hva", "0x7f0000000000", "--size", "4K")
    assert ctl.reason("space", "rm", space) == "SPACE_NOT_EMPTY"
    assert ctl("space", "rm", space, "--force").out == f"space {space} removed\n"
    assert ctl.reason("space", "get", space) == "SPACE_NOT_FOUND"


def test_rm_checks_uid_and_revision(ctl, space):
    assert ctl.reason("space", "rm", space, "--space-uid", "f" * 32) == "SPACE_NOT_FOUND"
    error = ctl.refused("space", "rm", space, "--expect-revision", "7")
    assert error["reason"] == "REVISION_MISMATCH"
    assert error["detail"]["current_revision"] == 1
    uid = ctl.json("space", "get", space)["space"]["uid"]
    assert ctl.json("space", "rm", space, "--space-uid", uid, "--expect-revision", "1") == {}
