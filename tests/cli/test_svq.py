"""iovactl svq alloc|free|ls"""

PAIR = ["--queue", "0,size=256,driver=0x7f0000000000,device=0x7f0000002000",
        "--queue", "1,size=256,driver=0x7f0000003000,device=0x7f0000005000"]
CONTROL = ["--queue", "2,size=64,control,driver=0x7f0000006000,device=0x7f0000008000,"
           "out=0x7f0000009000,in=0x7f000000a000"]
PACKED = ["--queue", "0,size=256,format=packed,desc=0x7f0000010000,driver=0x7f0000011000,"
          "device=0x7f0000012000"]


def test_alloc_gives_the_addresses_for_the_device(ctl, space):
    result = ctl("svq", "alloc", space, *PAIR)
    assert result.out.startswith("allocated, revision 2; IOVAs for SET_VRING_ADDR:\n")
    rows = result.rows()
    assert [(row["ID"], row["QUEUE"], row["SIZE"], row["FORMAT"]) for row in rows] == [
        ("1", "0", "256", "split"), ("2", "1", "256", "split")]
    # Descriptors take 16 bytes an entry; the avail ring is right behind.
    for row in rows:
        assert int(row["DRIVER"], 16) == int(row["DESC"], 16) + 16 * 256


def test_alloc_in_json(ctl, space):
    answer = ctl.json("svq", "alloc", space, *CONTROL)
    svq = answer["svqs"][0]
    assert svq["control"] is True
    assert svq["control_out_iova"].startswith("0x")
    assert len(svq["mappings"]) == 4
    assert ctl.json("svq", "ls", space)["svqs"] == answer["svqs"]


def test_packed_queues_have_three_areas(ctl, space):
    svq = ctl.json("svq", "alloc", space, *PACKED)["svqs"][0]
    assert svq["format"] == "PACKED"
    assert len(svq["mappings"]) == 3


def test_alloc_can_be_tried(ctl, space):
    result = ctl("svq", "alloc", space, *PAIR, "--validate-only")
    assert result.out.startswith("would allocate (nothing was changed), at revision 1")
    assert ctl.json("svq", "ls", space) == {"svqs": [], "revision": 1}


def test_alloc_is_all_or_nothing(ctl, space):
    error = ctl.refused("svq", "alloc", space, *PAIR, "--queue",
                        "2,size=100,driver=0x7f0000016000,device=0x7f0000018000")
    assert error["reason"] == "INVALID_QUEUE_SIZE"
    assert error["detail"]["op_index"] == 2
    assert ctl.json("svq", "ls", space)["svqs"] == []


def test_ls_shows_what_there_is(ctl, space):
    ctl("svq", "alloc", space, *PAIR, *CONTROL)
    rows = ctl("svq", "ls", space).rows()
    assert [row["QUEUE"] for row in rows] == ["0", "1", "2"]
    assert [row["CONTROL"] for row in rows] == ["", "", "control"]
    assert rows[2]["OUT"].startswith("0x") and rows[0]["OUT"] == ""


def test_svq_memory_is_freed_not_unmapped(ctl, space):
    ctl("svq", "alloc", space, *PAIR)
    result = ctl("unmap", space, "--all", code=1)
    assert result.err.startswith("error: IN_USE: ")
    assert "iovactl svq free" in result.err


def test_free_takes_ids_or_all(ctl, space):
    ctl("svq", "alloc", space, *PAIR, *CONTROL)
    result = ctl("svq", "free", space, "2")
    assert result.out.startswith("freed 2 mappings, 0x3000 (12 KiB), revision 3\n")
    assert ctl.reason("svq", "free", space, "1", "2") == "SVQ_NOT_FOUND"
    assert ctl.json("svq", "free", space, "--all", "--validate-only")["revision"] == 3
    assert ctl.json("svq", "free", space, "--all")["result"]["removed_count"] == 6
    assert ctl.json("svq", "ls", space)["svqs"] == []


def test_changes_check_uid_revision_and_repeats(ctl, space):
    assert ctl.reason("svq", "alloc", space, *PAIR, "--expect-revision", "9") == "REVISION_MISMATCH"
    assert ctl.reason("svq", "alloc", space, *PAIR, "--space-uid", "9") == "SPACE_NOT_FOUND"
    first = ctl.json("svq", "alloc", space, *PAIR, "--request-id", "a")
    assert ctl.json("svq", "alloc", space, *PAIR, "--request-id", "a") == first
