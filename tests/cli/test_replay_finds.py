"""What `iovactl replay --verify` is for: it finds a server that is wrong. Between it and
a right one stands somebody who changes answers."""

import json
import os

import pytest
from iovactl import ROOT, Iovactl
from tampering import Tampering

# Aliases, several batches, read-only memory.
TRACE = os.path.join(ROOT, "tests", "data", "b2_q35_128g.sections.jsonl")
DEVICE_TRACE = os.path.join(ROOT, "tests", "data", "b4_q35_128g_svq_qemu10.vdpa.jsonl")


def segment(translation, field, value):
    """Changes a translation's first segment."""
    setattr(translation.segments[0], field, value)


def first_translation(field, delta):
    """Changes a field in the first answer of each Translate."""
    def change(message, _):
        for translation in message.translations[:1]:
            if translation.segments:
                segment(translation, field, getattr(translation.segments[0], field) + delta)
    return change


def fault(message, _):
    """Says that the last query does not translate."""
    if message.translations:
        last = message.translations[-1]
        del last.segments[:]
        last.fault.kind = 1


def miss_is_hit(message, _):
    """Says that memory which is gone is still there."""
    for translation in message.translations:
        if translation.HasField("fault"):
            translation.ClearField("fault")
            translation.segments.add(iova=0x1000, hva=0x1000, size=1, mapping_id=1, access=3)


def wrong_alias(message, _):
    """Where there are aliases, forgets one."""
    for translation in message.translations:
        if translation.alias_count:
            translation.alias_count -= 1


def short(message, _):
    """Cuts the last byte off long answers."""
    for translation in message.translations:
        if translation.segments and translation.segments[-1].size > 1:
            translation.segments[-1].size -= 1


def drop_query(message, _):
    if message.translations:
        del message.translations[-1]


def lose_a_mapping(message, _):
    if message.mappings:
        del message.mappings[-1]


def add_a_mapping(message, _):
    if message.mappings and not message.next_page_token:
        last = message.mappings[-1]
        message.mappings.add().CopyFrom(last)
        message.mappings[-1].iova += last.size


def overlap(message, _):
    if len(message.mappings) > 1:
        message.mappings[1].iova = message.mappings[0].iova


def other(field, value):
    def change(message, _):
        for mapping in message.mappings[-1:]:
            setattr(mapping, field, value)
    return change


def no_gpa(message, _):
    for mapping in message.mappings[-1:]:
        mapping.ClearField("gpa")


def mapped_elsewhere(message, _):
    for result in message.results:
        if result.HasField("mapped"):
            result.mapped.hva += 0x1000


def mapped_over_another(message, calls):
    for result in message.results:
        if result.HasField("mapped") and calls > 0:
            result.mapped.iova = 0x1000


def removed_more(message, _):
    for result in message.results:
        if result.HasField("unmapped"):
            result.unmapped.removed_count += 1


def lose_a_result(message, _):
    if message.results:
        del message.results[-1]


@pytest.mark.parametrize("method, change, says", [
    ("Translate", first_translation("iova", 1), "translates to IOVA"),
    ("Translate", first_translation("hva", 1), "translates to HVA"),
    ("Translate", first_translation("gpa", 1), "translates to GPA"),
    ("Translate", first_translation("mapping_id", 1), "translates to mapping"),
    ("Translate", first_translation("access", -1), "translates to access"),
    ("Translate", fault, "does not translate"),
    ("Translate", miss_is_hit, "still translates after it was unmapped"),
    ("Translate", wrong_alias, "aliases instead of"),
    ("Translate", short, "bytes instead of"),
    ("Translate", drop_query, "another number of queries"),
    ("ListMappings", lose_a_mapping, "is not listed"),
    ("ListMappings", add_a_mapping, "is listed and should be gone"),
    ("ListMappings", overlap, "meet those of the one before"),
    ("ListMappings", other("hva", 0x1000), "HVA is 0x1000 instead of"),
    ("ListMappings", other("size", 0x1000), "size is 0x1000 instead of"),
    ("ListMappings", other("gpa", 0x777000), "GPA is 0x777000 instead of"),
    ("ListMappings", other("access", 2), "the access is another"),
    ("ListMappings", other("kind", 2), "the kind is another"),
    ("ListMappings", other("mapping_id", 99), "is listed where mapping"),
    ("ListMappings", no_gpa, "the GPA is missing"),
    ("Update", mapped_elsewhere, "the answer to map: HVA"),
    ("Update", mapped_over_another, "were given out while"),
    ("Update", removed_more, "unmap took"),
    ("Update", lose_a_result, "another number of operations"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_answer(server, method, change, says):
    with Tampering(server.target, method, change) as wrong:
        ctl = Iovactl(wrong.socket_path)
        result = ctl("replay", TRACE, "--verify", code=1)
        assert wrong.changed
        assert result.err.startswith("error: DATA_LOSS: ")
        assert says in result.err
        assert "verified     NO, " in result.out
        report = ctl("replay", TRACE, "--verify", "--output", "json", code=1)
        assert report.json["verified"] is False
        assert report.error["code"] == "DATA_LOSS"
    # The space is gone all the same.
    assert Iovactl(server.socket_path).json("space", "ls")["spaces"] == []


def move(message, calls):
    if calls == 3:
        message.mapping.iova += 0x1000


def more(message, calls):
    if calls == 3:
        message.result.removed_count = 0


@pytest.mark.parametrize("method, change, says", [
    ("Map", move, "mapped at IOVA"),
    ("Unmap", more, "unmap took 0 mappings instead of 1"),
], ids=["Map", "Unmap"])
def test_a_wrong_answer_in_the_device_view(server, method, change, says):
    with Tampering(server.target, method, change) as wrong:
        result = Iovactl(wrong.socket_path)("replay", DEVICE_TRACE, "--verify", code=1)
        assert says in result.err


def test_nobody_in_between_is_fine(server):
    """The one in between is not what is found."""
    with Tampering(server.target, "Translate", lambda message, calls: None) as right:
        ctl = Iovactl(right.socket_path)
        assert ctl.json("replay", TRACE, "--verify")["verified"] is True
        report = ctl.json("replay", os.path.join(ROOT, "tests", "data",
                                                 "b3_q35_128g_svq_qemu72.vdpa.jsonl"), "--verify")
        assert json.dumps(report["refused"]).count("WOULD_SPLIT") == 3
