"""Attaching: replay, address spaces, ranges and budgets; what devices are told and when."""

import pytest

from device_table import (BATCH_BEGIN, BATCH_END, INVALIDATE, UPDATE, assert_in_step, device_log,
                          last_sequence, messages)
from harness import (GIB, HVA, MIB, PAGE, READ, WRITE, TOP, extent, ranges, refused, span, spec,
                     unchanged)
from stubs import types_pb2 as types


def types_since(client, device, after):
    return [e.type for e in device_log(client, device, after)]


def test_attaching_replays_in_one_batch(client, space, device, attach):
    client.update(space, spec(HVA, PAGE, gpa=0, iova=0x9000), spec(HVA, PAGE, READ, iova=0x3000),
                  spec(HVA + PAGE, 2 * PAGE, WRITE, gpa=MIB, iova=0x5000))
    before = client.space(space)
    attachment = attach(space, device)
    now = client.space(space)
    assert now.revision == before.revision + 1
    assert attachment.applied_revision == now.revision
    assert not attachment.last_error and not attachment.quarantined.ranges
    log = device_log(client, device)
    assert [e.type for e in log] == [BATCH_BEGIN, UPDATE, UPDATE, UPDATE, BATCH_END]
    assert [first for _, first, _ in messages(log)] == [0x3000, 0x5000, 0x9000]
    assert {e.space for e in log} == {space} and len({e.batch for e in log}) == 1
    assert not any(e.undo or e.os_errno for e in log)
    assert_in_step(client, space, device)


def test_every_change_is_one_batch(client, space, device, attach):
    attach(space, device)
    mark = last_sequence(client, device)
    client.map(space, HVA, PAGE, gpa=0)
    assert types_since(client, device, mark) == [BATCH_BEGIN, UPDATE, BATCH_END]
    mark = last_sequence(client, device)
    client.unmap(space, at_gpa=0)
    assert types_since(client, device, mark) == [BATCH_BEGIN, INVALIDATE, BATCH_END]
    assert_in_step(client, space, device)


def test_a_batch_is_the_net_effect_in_ascending_order(client, space, device, attach):
    client.update(space, *(spec(HVA, PAGE, gpa=n * MIB, iova=n * MIB) for n in (1, 2, 3)))
    attach(space, device)
    mark = last_sequence(client, device)
    client.update(
        space, spec(HVA, PAGE, gpa=9 * MIB, iova=9 * MIB), dict(at_gpa=3 * MIB),
        spec(HVA, PAGE, gpa=5 * MIB, iova=5 * MIB), dict(at_gpa=5 * MIB), dict(at_gpa=1 * MIB),
        spec(HVA + MIB, PAGE, gpa=1 * MIB, iova=1 * MIB))
    assert messages(device_log(client, device, mark)) == [
        (INVALIDATE, MIB, MIB + 0xFFF), (INVALIDATE, 3 * MIB, 3 * MIB + 0xFFF),
        (UPDATE, MIB, MIB + 0xFFF), (UPDATE, 9 * MIB, 9 * MIB + 0xFFF)]
    assert_in_step(client, space, device)


def test_a_split_invalidates_the_whole_and_maps_the_rest(client, space, device, attach):
    client.map(space, HVA, 8 * PAGE, gpa=0, iova=0x10000)
    attach(space, device)
    mark = last_sequence(client, device)
    client.unmap(space, gpa=extent(2 * PAGE, PAGE), allow_split=True)
    assert messages(device_log(client, device, mark)) == [
        (INVALIDATE, 0x10000, 0x17FFF), (UPDATE, 0x10000, 0x11FFF), (UPDATE, 0x13000, 0x17FFF)]
    assert_in_step(client, space, device)


def test_what_changes_nothing_pushes_nothing(client, space, device, attach):
    attach(space, device)
    client.map(space, HVA, PAGE, gpa=0)
    mark = last_sequence(client, device)
    client.Map(space=space, mapping=spec(HVA, PAGE, gpa=MIB), validate_only=True)
    client.unmap(space, gpa=span(GIB, TOP), allow_missing=True)
    refused("GPA_OVERLAP", client.map, space, HVA + MIB, PAGE, gpa=0)
    client.Map(space=space, mapping=spec(HVA, PAGE, gpa=MIB), request_id="a")
    once = last_sequence(client, device)
    client.Map(space=space, mapping=spec(HVA, PAGE, gpa=MIB), request_id="a")
    assert last_sequence(client, device) == once == mark + 3


def test_detaching_invalidates_what_is_mapped(client, space, device, attach):
    attach(space, device)
    client.update(space, spec(HVA, PAGE, gpa=0, iova=MIB), spec(HVA, PAGE, gpa=MIB, iova=GIB))
    mark = last_sequence(client, device)
    before = client.space(space)
    answer = client.DetachDevice(space=space, device=device)
    assert answer.space.revision == before.revision + 1
    assert not answer.space.attachments and answer.space.mapping_count == 2
    assert messages(device_log(client, device, mark)) == [
        (INVALIDATE, MIB, MIB + 0xFFF), (INVALIDATE, GIB, GIB + 0xFFF)]
    assert not client.GetDevice(device=device).device.attachments
    mark = last_sequence(client, device)
    client.map(space, HVA, PAGE, gpa=GIB)
    assert last_sequence(client, device) == mark
    attach(space, device)
    assert_in_step(client, space, device)
    with unchanged(client, space):
        refused("DEVICE_NOT_FOUND", client.DetachDevice, space=space, device=device, asid=1)


def test_detaching_what_is_not_attached(client, space, device):
    with unchanged(client, space):
        refusal = refused("DEVICE_NOT_FOUND", client.DetachDevice, space=space, device=device)
        assert device in refusal.message and space in refusal.message


def test_deleting_by_force_empties_the_device(client, space, device, attach):
    attach(space, device)
    client.update(space, spec(HVA, PAGE, gpa=0, iova=MIB), spec(HVA, PAGE, gpa=MIB, iova=GIB))
    mark = last_sequence(client, device)
    client.DeleteSpace(space=space, force=True)
    assert messages(device_log(client, device, mark)) == [
        (INVALIDATE, MIB, MIB + 0xFFF), (INVALIDATE, GIB, GIB + 0xFFF)]
    client.CloseDevice(device=device)


def test_deleting_an_empty_space_detaches(client, space, device, attach):
    attach(space, device)
    client.DeleteSpace(space=space)
    assert not client.GetDevice(device=device).device.attachments


def test_several_devices_get_the_same(client, space, make_device, attach):
    devices = [make_device() for _ in range(3)]
    client.map(space, HVA, PAGE, gpa=0)
    for device in devices:
        attach(space, device)
    client.update(space, dict(at_gpa=0), spec(HVA, 2 * PAGE, gpa=0), spec(HVA, PAGE))
    for device in devices:
        assert_in_step(client, space, device)
    assert [a.device for a in client.space(space).attachments] == devices


def test_an_address_space_is_one_spaces(client, make_space, make_device, attach):
    device = make_device(as_num=2, group_num=2)
    data, control, late = make_space(), make_space(), make_space()
    attach(data, device, 0)
    attach(control, device, 1, groups=[1])
    for space in (data, late):
        for asid in (0, 1):
            with unchanged(client, space):
                assert device in refused("DEVICE_BUSY", client.AttachDevice, space=space,
                                         device=device, asid=asid).message
    # The same IOVAs in both, for different memory.
    client.map(data, HVA, PAGE, gpa=0, iova=MIB)
    client.map(control, HVA + MIB, PAGE, iova=MIB)
    assert_in_step(client, data, device, 0)
    assert_in_step(client, control, device, 1)
    listed = client.GetDevice(device=device).device.attachments
    assert {(a.space, a.asid) for a in listed} == {(data, 0), (control, 1)}
    attachment, = client.space(control).attachments
    assert (attachment.asid, list(attachment.groups)) == (1, [1])
    client.DetachDevice(space=control, device=device, asid=1)
    assert_in_step(client, data, device, 0)
    attach(late, device, 1)


def test_one_space_on_both_address_spaces(client, space, make_device, attach):
    device = make_device(as_num=2)
    attach(space, device, 0)
    attach(space, device, 1)
    client.map(space, HVA, PAGE, gpa=0)
    assert_in_step(client, space, device, 0)
    assert_in_step(client, space, device, 1)


@pytest.mark.parametrize("reason, open_with, attach_with", [
    ("INVALID_VALUE", dict(as_num=2), dict(asid=2)), ("INVALID_VALUE", {}, dict(asid=1)),
    ("NO_DEVICE_CAPABILITY", {}, dict(groups=[0])),
    ("INVALID_VALUE", dict(as_num=2, group_num=2), dict(groups=[2])),
    ("DEVICE_RANGE_CONFLICT", dict(iova_range=span(0x2000, TOP)), {}),
    ("DEVICE_RANGE_CONFLICT", dict(iova_range=span(0, 0x5FFE)), {}),
    ("DEVICE_RANGE_CONFLICT", dict(iova_range=span(1 << 50, TOP)), {}),
    ("ENTRY_BUDGET", dict(entry_budget=2), {})])
def test_refusals_attach_nothing(client, space, make_device, reason, open_with, attach_with):
    client.update(space, *(spec(HVA, PAGE, gpa=n * MIB, iova=n) for n in (0x1000, 0x3000, 0x5000)))
    device = make_device(**open_with)
    with unchanged(client, space):
        refusal = refused(reason, client.AttachDevice, space=space, device=device, **attach_with)
        assert space in refusal.message and device in refusal.message
    assert not client.GetDevice(device=device).device.attachments
    assert messages(device_log(client, device)) == []
    if reason == "ENTRY_BUDGET":
        assert (refusal.detail.limit, refusal.detail.needed) == (2, 3)
        assert refusal.detail.device == device


def test_a_device_that_fits_exactly(client, space, make_device, attach):
    client.map(space, HVA, PAGE, gpa=0, iova=0x2000)
    attach(space, make_device(iova_range=span(0x2000, 0x2FFF), entry_budget=1))


def test_ranges_narrow_the_space(client, space, make_device, attach):
    low = make_device(iova_range=span(0, 0xFFFFFF))
    high = make_device(iova_range=span(0x100000, TOP))
    attach(space, low)
    attach(space, high)
    assert client.space(space).iova_range == span(0x100000, 0xFFFFFF)
    assert client.space(space).requested_iova_range == span(0, (1 << 48) - 1)
    assert client.map(space, HVA, PAGE, gpa=0).iova == 0x100000
    with unchanged(client, space):
        for iova in (0xFF000, 0x1000000):
            refusal = refused("OUTSIDE_IOVA_RANGE", client.map, space, HVA, PAGE, gpa=MIB,
                              iova=iova)
            assert refusal.detail.ranges[1] == span(0x100000, 0xFFFFFF)
    client.DetachDevice(space=space, device=high)
    assert client.space(space).iova_range == span(0, 0xFFFFFF)
    client.DetachDevice(space=space, device=low)
    assert client.space(space).iova_range == span(0, (1 << 48) - 1)
    assert client.map(space, HVA, PAGE, gpa=MIB, iova=1 << 40).iova == 1 << 40


def test_the_budget_is_each_devices(client, space, make_device, attach):
    small, large = make_device(entry_budget=4), make_device(entry_budget=8)
    attach(space, small)
    attach(space, large)
    client.update(space, *(spec(HVA, PAGE, gpa=n * PAGE) for n in range(4)))
    with unchanged(client, space):
        refusal = refused("ENTRY_BUDGET", client.map, space, HVA, PAGE, gpa=MIB)
        assert (refusal.detail.limit, refusal.detail.needed) == (4, 5)
        assert refusal.detail.device == small and small in refusal.message
    # What goes in the same request makes room.
    client.update(space, dict(at_gpa=0), spec(HVA, PAGE, gpa=MIB))
    client.update(space, spec(HVA, PAGE, gpa=0), dict(at_gpa=MIB))
    assert_in_step(client, space, small)
    client.DetachDevice(space=space, device=small)
    client.update(space, *(spec(HVA, PAGE, gpa=GIB + n * PAGE) for n in range(4)))
    assert_in_step(client, space, large)


def test_identity_at_zero(client, make_space, device, attach):
    space = make_space(placement=types.PLACEMENT_IDENTITY, reserved=ranges())
    attach(space, device)
    client.update(space, spec(HVA, PAGE, gpa=0), spec(HVA, PAGE, gpa=PAGE))
    assert_in_step(client, space, device)
    client.unmap(space, at_gpa=0)
    assert_in_step(client, space, device)
