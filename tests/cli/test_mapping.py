"""iovactl map, unmap, translate, resolve, ls, dump"""

import pytest

RAM = ["--gpa", "0", "--hva", "0x7f79_03e0_0000", "--size", "2G", "--label", "ram"]
ALIAS = ["--gpa", "0xfeda0000", "--hva", "0x7f7903ea0000", "--size", "128K", "--access", "ro"]


@pytest.fixture
def aliased(ctl, space):
    """A space with 2 GiB at IOVA 0x1000 and a read-only alias of 128 KiB behind it."""
    ctl("map", space, *RAM)
    ctl("map", space, *ALIAS)
    return space


def test_map_says_where(ctl, space):
    result = ctl("map", space, *RAM)
    assert result.out.startswith("mapped, revision 2\n")
    assert result.rows() == [{"ID": "1", "IOVA": "0x1000-0x80000fff", "SIZE": "0x80000000 (2 GiB)",
                              "GPA": "0x0", "HVA": "0x7f7903e00000", "ACCESS": "rw",
                              "KIND": "guest", "LABEL": "ram"}]


def test_map_in_json_has_hex_addresses_and_plain_counts(ctl, space):
    answer = ctl.json("map", space, *ALIAS, "--iova", "0x2_0000_0000")
    assert answer == {
        "mapping": {"mapping_id": 1, "iova": "0x200000000", "size": "0x20000", "gpa": "0xfeda0000",
                    "hva": "0x7f7903ea0000", "access": "READ_ONLY", "kind": "GUEST", "label": "",
                    "svq_id": 0, "memory_id": 0, "revision": 2},
        "revision": 2}


def test_memory_without_a_gpa_is_the_hosts_own(ctl, space):
    mapping = ctl.json("map", space, "--hva", "0x7f0000000000", "--size", "8192")["mapping"]
    assert mapping["kind"] == "HOST"
    assert "gpa" not in mapping


def test_validate_only_changes_nothing(ctl, space):
    result = ctl("map", space, *RAM, "--validate-only")
    assert result.out.startswith("would map (nothing was changed), at revision 1\n")
    assert result.rows()[0]["ID"] == "0"
    assert ctl.json("ls", space) == {"mappings": [], "revision": 1}


def test_map_checks_uid_and_revision_and_knows_repeats(ctl, space):
    assert ctl.reason("map", space, *RAM, "--space-uid", "0" * 32) == "SPACE_NOT_FOUND"
    assert ctl.reason("map", space, *RAM, "--expect-revision", "9") == "REVISION_MISMATCH"
    first = ctl.json("map", space, *RAM, "--expect-revision", "1", "--request-id", "one")
    assert ctl.json("map", space, *RAM, "--expect-revision", "1", "--request-id", "one") == first
    assert ctl.reason("map", space, *RAM) == "MAPPING_EXISTS"
    assert ctl.reason("map", space, *ALIAS, "--request-id", "one") == "REQUEST_ID_REUSED"


def test_a_refusal_shows_what_is_in_the_way(ctl, aliased):
    result = ctl("map", aliased, "--gpa", "0x1000", "--hva", "0x7f0000000000", "--size", "4K",
                 code=1)
    assert result.out == ""
    lines = result.err.splitlines()
    assert lines[0].startswith(f"error: GPA_OVERLAP: space '{aliased}': ")
    assert lines[1].startswith("hint:  unmap what is there first")
    assert "in the way:" in lines
    assert "0x1000-0x80000fff" in result.err
    error = ctl.refused("map", aliased, "--gpa", "0x1000", "--hva", "0x7f0000000000", "--size",
                        "4K")
    assert error["code"] == "ALREADY_EXISTS"
    assert [c["mapping_id"] for c in error["detail"]["conflicts"]] == [1]
    assert error["hint"]


@pytest.mark.parametrize("target, left", [
    (["--id", "2"], [1]),
    (["--gpa", "0xfeda0000"], [1]),
    (["--iova", "0x80001000"], [1]),
    (["--gpa-range", "0xfeda0000-0xfedbffff"], [1]),
    (["--iova-range", "0x80001000+128K"], [1]),
    (["--gpa-range", "0-0x7fffffff"], [2]),
    (["--all"], []),
])
def test_unmap_takes_what_is_named(ctl, aliased, target, left):
    answer = ctl.json("unmap", aliased, *target)
    assert answer["result"]["removed_count"] == 2 - len(left)
    assert answer["revision"] == 4
    assert [m["mapping_id"] for m in ctl.json("ls", aliased)["mappings"]] == left


def test_unmap_by_hva_sees_the_hosts_own_only(ctl, aliased):
    ctl("map", aliased, "--hva", "0x7f0000000000", "--size", "4K")
    result = ctl("unmap", aliased, "--hva-range", "all")
    assert result.out.startswith("unmapped 1 mapping, 0x1000 (4 KiB), revision 5\n")
    assert result.rows()[0]["KIND"] == "host"


def test_unmap_cuts_only_when_allowed(ctl, aliased):
    half = ["unmap", aliased, "--gpa-range", "0x4000_0000+1G"]
    result = ctl(*half, code=1)
    assert result.err.startswith("error: WOULD_SPLIT: ")
    assert "--allow-split" in result.err
    answer = ctl.json(*half, "--allow-split")
    assert [r["size"] for r in answer["result"]["remainders"]] == ["0x40000000"]
    text = ctl("unmap", aliased, "--gpa-range", "0+512M", "--allow-split").out
    assert "left of what was cut, mapped anew:" in text


def test_unmap_of_nothing_is_an_error_unless_allowed(ctl, space):
    assert ctl.reason("unmap", space, "--all") == "MAPPING_NOT_FOUND"
    result = ctl("unmap", space, "--all", "--allow-missing")
    assert result.out == "unmapped 0 mappings, 0x0, revision 1\n"


def test_unmap_can_be_tried(ctl, aliased):
    result = ctl("unmap", aliased, "--id", "1", "--validate-only")
    assert result.out.startswith("would unmap 1 mapping, 0x80000000 (2 GiB) (nothing was changed)")
    assert len(ctl.json("ls", aliased)["mappings"]) == 2


def test_translate_answers_by_all_kinds_of_address(ctl, aliased):
    rows = ctl("translate", aliased, "gpa:0xfeda1000", "hva:0x7f7903ea0000+256K",
               "iova:0x1000").rows()
    assert rows[0] == {"QUERY": "gpa:0xfeda1000", "IOVA": "0x80002000-0x80002000", "SIZE": "0x1",
                       "GPA": "0xfeda1000", "HVA": "0x7f7903ea1000", "ACCESS": "ro",
                       "MAPPING": "2", "ALIASES": "1"}
    assert rows[1]["MAPPING"] == "1"
    assert rows[1]["SIZE"] == "0x40000 (256 KiB)"
    assert rows[2]["GPA"] == "0x0"


def test_translate_shows_every_segment_and_where_it_ends(ctl, space):
    ctl("map", space, "--gpa", "0", "--hva", "0x7f0000000000", "--size", "8K")
    ctl("map", space, "--gpa", "0x2000", "--hva", "0x7f0100000000", "--size", "4K")
    result = ctl("translate", space, "gpa:0x1000+16K", code=1)
    rows = result.rows()
    assert [row["MAPPING"] for row in rows] == ["1", "2", ""]
    assert rows[2]["FAULT"] == "nothing mapped at 0x3000"
    answer = ctl.json("translate", space, "gpa:0x1000+16K", code=1)
    translation = answer["translations"][0]
    assert translation["query"] == "gpa:0x1000+16K"
    assert translation["fault"] == {"kind": "MISS", "address": "0x3000"}
    assert [s["size"] for s in translation["segments"]] == ["0x1000", "0x1000"]


def test_translate_checks_access_when_asked(ctl, aliased):
    ctl("translate", aliased, "gpa:0xfeda0000", "--access", "ro")
    answer = ctl.json("translate", aliased, "gpa:0xfeda0000", "--access", "wo", code=1)
    assert answer["translations"][0]["fault"]["kind"] == "ACCESS"
    rows = ctl("translate", aliased, "gpa:0xfeda0000", "--access", "rw", code=1).rows()
    assert rows[0]["FAULT"] == "access not permitted at 0xfeda0000"


def test_translate_checks_the_uid(ctl, aliased):
    assert ctl.reason("translate", aliased, "gpa:0", "--space-uid", "x") == "SPACE_NOT_FOUND"


def test_resolve_shows_the_aliases(ctl, aliased):
    out = ctl("resolve", aliased, "hva:0x7f7903ea0000", "--size", "64K").out
    assert "is also reached through 1 other mapping" in out
    answer = ctl.json("resolve", aliased, "hva:0x7f7903ea0000")
    assert [a["mapping_id"] for a in answer["aliases"]] == [1, 2]
    miss = ctl.json("resolve", aliased, "gpa:0xdead0000", code=1)
    assert miss["fault"] and miss["pieces"] == []


def test_ls_is_by_iova_and_can_be_narrowed(ctl, aliased):
    ctl("map", aliased, "--hva", "0x7f0000000000", "--size", "4K")
    assert [row["ID"] for row in ctl("ls", aliased).rows()] == ["1", "2", "3"]
    assert [m["mapping_id"] for m in ctl.json("ls", aliased, "--kind", "host")["mappings"]] == [3]
    assert [m["mapping_id"] for m in
            ctl.json("ls", aliased, "--iova", "0x80001000+1")["mappings"]] == [2]
    listing = ctl.json("ls", aliased, "--iova", "0xffff_0000_0000-0xffff_ffff_ffff")
    assert listing == {"mappings": [], "revision": 4}


def test_ls_of_an_empty_space_has_titles_only(ctl, space):
    assert ctl("ls", space).out.split() == ["ID", "IOVA", "SIZE", "GPA", "HVA", "ACCESS", "KIND",
                                            "SVQ", "LABEL"]


def test_dump_is_the_servers_own_view(ctl, aliased):
    out = ctl("dump", aliased).out
    assert out.splitlines()[0].startswith(f"space      {aliased} ")
    assert "0x7f7903ea0000" in out
    assert ctl.json("dump", aliased)["text"].strip() == out.strip()


def test_labels_cannot_steer_a_terminal(ctl, space):
    assert ctl.reason("map", space, *RAM[:-1], "a\x1b[31m") == "INVALID_LABEL"
