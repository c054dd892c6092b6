"""iovactl replay: real traces, both views, held against a model."""

import glob
import json
import os
import signal
import time

import pytest
from daemon import scaled
from iovactl import ROOT

DATA = os.path.join(ROOT, "tests", "data")
TRACES = sorted(os.path.basename(path)[:-len(".jsonl")]
                for path in glob.glob(os.path.join(DATA, "*.jsonl")))

KEYS = ["trace", "operations", "maps", "unmaps", "batches", "peak_live", "live", "alias_pairs",
        "refused", "verified", "seconds"]

# What the recorder of the traces counted: maps, unmaps, batches, peak live, alias pairs,
# live at the end.
COUNTS = {
    "b2_q35_128g.sections": (22, 15, 14, 8, 4, 7),
    "b2_q35_128g.vdpa": (17, 17, 8, 8, 1, 0),
    "b3_q35_128g_svq_qemu72.sections": (22, 15, 14, 8, 4, 7),
    # Of what the VMM's bug did, four requests are refused: two mappings and not one are
    # left, and the alias that one of them would have made is none.
    "b3_q35_128g_svq_qemu72.vdpa": (25, 25, 8, 12, 2, 2),
    "b4_q35_128g_svq_qemu10.sections": (22, 22, 15, 8, 4, 0),
    "b4_q35_128g_svq_qemu10.vdpa": (25, 25, 8, 12, 2, 0),
    "c1_q35_ovmf.sections": (33, 26, 49, 7, 2, 7),
    "c1_q35_ovmf.vdpa": (7, 7, 3, 7, 1, 0),
    "f1_q35_viommu_strict.sections": (19, 19, 10, 6, 3, 0),
    "f1_q35_viommu_strict.vdpa": (5168, 4590, 2, 344, 2312, 0),
    "h2_q35_svq_qemu10.sections": (36, 36, 35, 11, 3, 0),
    "h2_q35_svq_qemu10.vdpa": (60, 60, 12, 15, 0, 0),
    "i2_q35_tpm_crb_qemu10.sections": (19, 19, 16, 6, 3, 0),
    "i2_q35_tpm_crb_qemu10.vdpa": (6, 6, 2, 6, 0, 0),
}
REFUSED = {
    "b3_q35_128g_svq_qemu72.vdpa": [(56, "WOULD_SPLIT"), (59, "IOVA_OVERLAP"),
                                    (62, "WOULD_SPLIT"), (71, "WOULD_SPLIT")],
}


def path_of(trace):
    return os.path.join(DATA, trace + ".jsonl")


def test_both_views_are_there():
    assert set(COUNTS) == set(TRACES)


@pytest.mark.parametrize("trace", TRACES)
def test_replays_and_verifies(ctl, trace):
    report = ctl.json("replay", path_of(trace), "--verify")
    assert list(report) == KEYS
    assert report["trace"] == path_of(trace)
    assert report["verified"] is True
    assert report["operations"] == report["maps"] + report["unmaps"]
    assert tuple(report[key] for key in ("maps", "unmaps", "batches", "peak_live", "alias_pairs",
                                         "live")) == COUNTS[trace]
    assert [(r["seq"], r["reason"]) for r in report["refused"]] == REFUSED.get(trace, [])
    assert report["seconds"] > 0


@pytest.mark.parametrize("trace", [t for t in TRACES if t.endswith(".sections")])
@pytest.mark.parametrize("placement", ["identity", "first-fit"])
def test_sections_fit_with_every_placement(ctl, trace, placement):
    report = ctl.json("replay", path_of(trace), "--verify", "--placement", placement)
    assert (report["verified"], report["refused"]) == (True, [])


@pytest.mark.parametrize("trace", ["c1_q35_ovmf.sections", "h2_q35_svq_qemu10.vdpa"])
def test_a_device_holds_what_is_live(ctl, fresh, device, trace):
    space = fresh("replayed")
    report = ctl.json("replay", path_of(trace), "--verify", "--device", device, "--space", space,
                      "--keep")
    assert report["verified"] is True
    attached = ctl.json("device", "get", device)["device"]
    assert [(a["space"], a["entries"]) for a in attached["attachments"]] == [(space, report["live"])]
    assert attached["push_errors"] == 0
    # One batch for each that changed something (sections), or for each request.
    expected = report["batches"] if trace.endswith(".sections") else report["operations"]
    assert attached["batches_pushed"] <= expected


def test_the_space_goes_unless_it_is_kept(ctl, fresh):
    before = ctl.json("space", "ls")
    space = fresh("replayed")
    ctl("replay", path_of("c1_q35_ovmf.sections"), "--space", space)
    assert ctl.json("space", "ls") == before
    out = ctl("replay", path_of("c1_q35_ovmf.sections"), "--space", space, "--keep").out
    assert f"space        {space}\n" in out
    assert len(ctl.json("ls", space)["mappings"]) == 7
    error = ctl.refused("replay", path_of("c1_q35_ovmf.sections"), "--space", space)
    assert error["reason"] == "NAME_TAKEN"
    assert len(ctl.json("ls", space)["mappings"]) == 7


def test_for_people_it_says_what_was_refused_and_how_fast(ctl):
    result = ctl("replay", path_of("b3_q35_128g_svq_qemu72.vdpa"), "--verify")
    fields = dict(line.split("  ", 1) for line in result.out.split("\n\n")[0].splitlines())
    assert fields["operations"].strip() == "50 (25 maps, 25 unmaps, 8 batches)"
    assert fields["peak live"].strip() == "12"
    assert fields["verified"].strip().startswith("yes, ")
    assert "operations/s)" in fields["seconds"]
    table = result.out.split("\n\n")[1].splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["56", "WOULD_SPLIT"], ["59", "IOVA_OVERLAP"], ["62", "WOULD_SPLIT"],
        ["71", "WOULD_SPLIT"]]


def test_without_verify_nothing_is_verified(ctl):
    report = ctl.json("replay", path_of("c1_q35_ovmf.vdpa"))
    assert report["verified"] is False
    assert "not asked for" in ctl("replay", path_of("c1_q35_ovmf.vdpa")).out


HEADER = '{"format":"qemu-section-trace-1","scenario":"t","view":"%s"}'
GOOD = '{"seq":%d,"op":"map","as":"vdpa:%d","iova":"%s","size":"0x1000","hva":"0x1000","perm":3}'


@pytest.fixture
def write_trace(tmp_path):
    def write(*lines, view="vdpa"):
        path = tmp_path / "trace.jsonl"
        path.write_text("\n".join([HEADER % view, *lines]) + "\n")
        return str(path)
    return write


@pytest.mark.parametrize("lines, message", [
    (["nonsense"], "line 2: is not JSON"),
    ([GOOD % (0, 0, "0x1000"), GOOD % (1, 0, "0xzz")], "line 3: \"iova\""),
    (['{"seq":0,"op":"unmap","iova":"0x1000","size":"0x0"}'], "line 2: \"size\" is 0"),
    ([GOOD % (0, 0, "0x1000"), GOOD % (1, 1, "0x1000")], "address spaces 0, 1"),
])
def test_a_bad_trace_is_told_with_its_line(ctl, write_trace, lines, message):
    path = write_trace(*lines)
    before = ctl.json("space", "ls")
    result = ctl("replay", path, code=2)
    assert result.out == ""
    assert result.err.startswith(f"error: USAGE: {path}: ")
    assert message in result.err
    error = ctl("replay", path, "--output", "json", code=2).error
    assert error["code"] == "USAGE" and message in error["message"]
    assert ctl.json("space", "ls") == before


def test_a_file_that_is_none(ctl, tmp_path):
    assert "No such file" in ctl("replay", str(tmp_path / "none"), code=2).err
    assert ctl("replay", str(tmp_path), code=2).err.startswith("error: USAGE: ")
    empty = tmp_path / "empty"
    empty.touch()
    assert "empty" in ctl("replay", str(empty), code=2).err


def test_one_address_space_of_several(ctl, write_trace):
    path = write_trace(GOOD % (0, 0, "0x1000"), GOOD % (1, 1, "0x1000"), GOOD % (2, 1, "0x2000"))
    assert ctl.json("replay", path, "--asid", "1", "--verify")["live"] == 2


def test_a_whole_batch_is_refused_by_its_one_bad_operation(ctl, write_trace):
    section = '{"seq":%d,"op":"map","as":"memory","gpa":"%s","size":"0x1000","hva":"%s","ro":false}'
    path = write_trace('{"seq":0,"op":"batch_begin"}', section % (1, "0x0", "0x1000"),
                       section % (2, "0x10000", "0x2000"), '{"seq":3,"op":"batch_commit"}',
                       '{"seq":4,"op":"batch_begin"}', section % (5, "0x20000", "0x3000"),
                       section % (6, "0x10000", "0x4000"), section % (7, "0x30000", "0x4000"),
                       '{"seq":8,"op":"batch_commit"}', view="sections")
    report = ctl.json("replay", path, "--verify")
    assert report["refused"] == [{"seq": 6, "reason": "GPA_OVERLAP"}]
    assert (report["live"], report["verified"]) == (2, True)


def test_the_last_address_can_be_mapped(ctl, write_trace):
    path = write_trace(GOOD % (0, 0, "0xfffffffffffff000"),
                       '{"seq":1,"op":"unmap","iova":"0x8000000000000000",'
                       '"size":"0x8000000000000000"}')
    report = ctl.json("replay", path, "--verify", "--verify-every", "1")
    assert (report["peak_live"], report["live"], report["refused"]) == (1, 0, [])


def test_ctrl_c_ends_it_and_leaves_no_space(ctl, fresh):
    space, slow = fresh("replayed"), fresh("slow")
    ctl("device", "open", slow, "--simulated", "--fault", "batch-end:1:delay=500ms",
        "--fault", "batch-end:2:delay=500ms")
    process = ctl.start("replay", path_of("c1_q35_ovmf.sections"), "--space", space, "--device",
                        slow, "--output", "json")
    deadline = time.monotonic() + scaled(20)
    while space not in [s["name"] for s in ctl.json("space", "ls")["spaces"]]:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=scaled(20))
    assert process.returncode == 1
    assert json.loads(err)["error"]["code"] == "CANCELLED"
    assert out == "" or json.loads(out)["operations"] < 59
    assert space not in [s["name"] for s in ctl.json("space", "ls")["spaces"]]
