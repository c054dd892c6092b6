"""Devices that refuse: everything is undone, and when undoing fails, said so.

A fault names the nth message of its kind. How many come before the request that is
to fail is counted on a device without faults that is taken through the same steps.
"""

import errno
from collections import Counter

import grpc
import pytest

from device_table import (BATCH_BEGIN, BATCH_END, INVALIDATE, UPDATE, assert_in_step, device_log,
                          last_sequence)
from harness import (HVA, IDENTITY, MIB, PAGE, Refusal, TOP, refused, span, spec, unchanged)
from stubs import device_pb2 as api
from stubs import types_pb2 as types
from watching import Watcher, kinds, seconds

Fault = api.SimulatedDevice.Fault
OP = {UPDATE: Fault.OP_UPDATE, INVALIDATE: Fault.OP_INVALIDATE, BATCH_BEGIN: Fault.OP_BATCH_BEGIN,
      BATCH_END: Fault.OP_BATCH_END}
NAMES = {UPDATE: "update", INVALIDATE: "invalidate", BATCH_BEGIN: "begin", BATCH_END: "end"}
BASE = [spec(HVA + n * MIB, 4 * PAGE, gpa=n * MIB, iova=n * MIB) for n in (1, 2, 3, 4)]
# Takes two away, splits one, and brings three: INVALIDATEs and UPDATEs, several of each.
CHANGE = [dict(at_gpa=1 * MIB), dict(gpa=span(2 * MIB, 2 * MIB + PAGE - 1), allow_split=True),
          spec(HVA, PAGE, gpa=0, iova=8 * MIB), spec(HVA + 9 * MIB, PAGE, iova=1 * MIB)]
CHANGE_MESSAGES = Counter({UPDATE: 3, INVALIDATE: 2, BATCH_BEGIN: 1, BATCH_END: 1})


@pytest.fixture
def count_before(client, make_space, make_device, attach):
    """Counts a device's messages, by type, up to the moment of the change."""

    def count(base=tuple(BASE), **space_fields):
        space, device = make_space(**space_fields), make_device()
        attach(space, device)
        client.update(space, *base)
        return Counter(e.type for e in device_log(client, device))

    return count


@pytest.fixture
def faulty(client, make_space, make_device, attach, count_before):
    """A space on a device that will strike at the change: at the given messages of it, each
    (type, nth of that type in the change, errno)."""

    def make(*strikes, undo=(), base=tuple(BASE), **space_fields):
        before = count_before(base, **space_fields)
        faults = [dict(op=OP[kind], nth=before[kind] + nth, os_errno=number)
                  for kind, nth, number in strikes]
        faults += [dict(op=Fault.OP_UNDO, nth=nth, os_errno=errno.EIO) for nth in undo]
        space, device = make_space(**space_fields), make_device(faults=faults)
        attach(space, device)
        client.update(space, *base)
        return space, device

    return make


def fail_change(client, space, device, number, reason="DEVICE_ERROR"):
    refusal = refused(reason, client.update, space, *CHANGE, request_id="change")
    assert (refusal.detail.os_errno, refusal.detail.device) == (number, device)
    assert device in refusal.message and space in refusal.message
    return refusal


def test_the_change_is_what_the_faults_count_on(client, make_space, device, attach):
    space = make_space()
    attach(space, device)
    client.update(space, *BASE)
    mark = last_sequence(client, device)
    client.update(space, *CHANGE)
    assert Counter(e.type for e in device_log(client, device, mark)) == CHANGE_MESSAGES


@pytest.mark.parametrize("kind, nth", [
    (kind, nth + 1) for kind, count in CHANGE_MESSAGES.items() for nth in range(count)],
    ids=lambda v: NAMES.get(v, str(v)))
def test_all_is_undone(client, faulty, kind, nth):
    space, device = faulty((kind, nth, errno.EFAULT))
    mark = last_sequence(client, device)
    errors = client.GetDevice(device=device).device.push_errors
    with unchanged(client, space):
        fail_change(client, space, device, errno.EFAULT)
        assert_in_step(client, space, device)
    assert client.space(space).attachments[0].state == types.ATTACHMENT_STATE_LIVE
    assert client.GetDevice(device=device).device.push_errors == errors + 1
    log = device_log(client, device, mark)
    assert [(e.type, e.os_errno) for e in log if e.os_errno] == [(kind, errno.EFAULT)]
    assert not [e for e in log if e.undo and e.os_errno]
    # It strikes once: the same request is done now, its request id was not used up.
    client.update(space, *CHANGE, request_id="change")
    assert_in_step(client, space, device)
    assert client.space(space).mapping_count == 5


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EIO, errno.ENOSPC])
def test_the_errno_is_told(client, faulty, number):
    space, device = faulty((UPDATE, 1, number))
    with unchanged(client, space):
        fail_change(client, space, device, number)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_other_devices_are_undone_too(client, make_device, attach, faulty, position):
    space, device = faulty((UPDATE, 2, errno.EFAULT))
    others = [make_device(), make_device()]
    client.DetachDevice(space=space, device=device)
    order = others[:position] + [device] + others[position:]
    # Counted anew: attaching replayed the base once more.
    client.CloseDevice(device=device)
    client.OpenDevice(device=device, simulated=dict(faults=[
        dict(op=Fault.OP_UPDATE, nth=len(BASE) + 2, os_errno=errno.EFAULT)]))
    for name in order:
        attach(space, name)
    with unchanged(client, space):
        fail_change(client, space, device, errno.EFAULT)
        for name in order:
            assert_in_step(client, space, name)
    client.update(space, *CHANGE)
    for name in order:
        assert_in_step(client, space, name)


def test_a_failed_update_at_zero_takes_the_whole_table(client, faulty):
    """So it is not enough to undo: the device is given everything again."""
    base = [spec(HVA + n * PAGE, PAGE, gpa=n * PAGE) for n in (1, 2, 3)]
    space, device = faulty((UPDATE, 1, errno.EFAULT), base=base, placement=IDENTITY)
    with unchanged(client, space):
        refusal = refused("DEVICE_ERROR", client.map, space, HVA, PAGE, gpa=0)
        assert refusal.detail.device == device
    assert_in_step(client, space, device)
    client.map(space, HVA, PAGE, gpa=0)
    assert_in_step(client, space, device)


def test_a_failed_replacement_at_zero(client, make_device, attach, faulty):
    """The same for one of several messages, with a second device that is merely undone."""
    base = [spec(HVA + n * PAGE, PAGE, gpa=n * PAGE) for n in range(4)]
    space, device = faulty((UPDATE, 1, errno.EFAULT), base=base, placement=IDENTITY)
    other = make_device()
    attach(space, other)
    change = [dict(at_gpa=0), dict(at_gpa=2 * PAGE), spec(HVA + MIB, PAGE, gpa=0),
              spec(HVA + 2 * MIB, PAGE, gpa=16 * PAGE)]
    with unchanged(client, space):
        refusal = refused("DEVICE_ERROR", client.update, space, *change)
        assert refusal.detail.device == device
        for name in (device, other):
            assert_in_step(client, space, name)
    client.update(space, *change)
    for name in (device, other):
        assert_in_step(client, space, name)


def test_attaching_fails_whole(client, space, make_device):
    client.update(space, *BASE)
    device = make_device(faults=[dict(op=Fault.OP_UPDATE, nth=3, os_errno=errno.EFAULT)])
    with unchanged(client, space):
        refusal = refused("DEVICE_ERROR", client.AttachDevice, space=space, device=device)
        assert (refusal.detail.os_errno, refusal.detail.device) == (errno.EFAULT, device)
    assert not client.GetDevice(device=device).device.attachments
    client.AttachDevice(space=space, device=device)
    assert_in_step(client, space, device)


def test_creating_attached_fails_whole(client, make_device, space):
    """An empty space needs no messages; two devices of which one is taken make it fail."""
    free, taken = make_device(), make_device()
    client.AttachDevice(space=space, device=taken)
    name = space + "-second"
    refused("DEVICE_BUSY", client.CreateSpace, space=name,
            attachments=[dict(device=free), dict(device=taken)])
    refused("SPACE_NOT_FOUND", client.GetSpace, space=name)
    assert not client.GetDevice(device=free).device.attachments


@pytest.mark.parametrize("call", ["FreeSVQ", "Unmap", "DetachDevice", "AllocSVQ"])
def test_other_requests_are_undone_too(client, space, make_device, attach, call):
    svq = dict(queue_size=256, driver_hva=HVA + 64 * MIB, device_hva=HVA + 80 * MIB)
    op, nth = (Fault.OP_UPDATE, 7) if call == "AllocSVQ" else (Fault.OP_INVALIDATE, 2)
    device = make_device(faults=[dict(op=op, nth=nth, os_errno=errno.EFAULT)])
    attach(space, device)
    client.update(space, *BASE)
    if call != "AllocSVQ":
        client.AllocSVQ(space=space, queues=[svq])
    fields = {"FreeSVQ": {}, "Unmap": dict(target=dict(gpa=span(0, TOP))),
              "DetachDevice": dict(device=device),
              "AllocSVQ": dict(queues=[dict(svq, driver_hva=HVA + 128 * MIB,
                                            device_hva=HVA + 160 * MIB), svq])}[call]
    with unchanged(client, space):
        refused("DEVICE_ERROR", getattr(client, call), space=space, **fields)
        assert_in_step(client, space, device)
    getattr(client, call)(space=space, **fields)


def test_a_failed_undo_fails_the_attachment(client, make_device, attach, faulty):
    space, device = faulty((UPDATE, 2, errno.EFAULT), undo=[1])
    healthy = make_device()
    attach(space, healthy)
    before = client.space(space)
    with Watcher(client, space) as watcher, \
            Watcher(client, space, start_revision=before.revision + 1,
                    progress_interval=seconds(0.02)) as resumed:
        watcher.snapshot()
        resumed.next()
        mappings = client.mappings(space)

        fail_change(client, space, device, errno.EFAULT)

        now = client.space(space)
        failed, = [a for a in now.attachments if a.device == device]
        other, = [a for a in now.attachments if a.device == healthy]
        assert failed.state == types.ATTACHMENT_STATE_FAILED
        assert failed.last_error and failed.quarantined.ranges
        assert other.state == types.ATTACHMENT_STATE_LIVE and not other.quarantined.ranges
        # A state takes no revision, and the mappings are as they were.
        assert now.revision == before.revision
        assert client.mappings(space) == mappings
        assert_in_step(client, space, healthy)
        events, revision = watcher.change()
        assert revision == before.revision
        assert set(kinds(events)) == {"attachment_state"}
        assert events[-1].attachment_state.state == types.ATTACHMENT_STATE_FAILED
        assert resumed.change() == (events, revision)

        with unchanged(client, space):
            for rpc, fields in (
                    ("Map", dict(mapping=spec(HVA, PAGE, gpa=1 << 40))),
                    ("Unmap", dict(target=dict(at_gpa=1 * MIB))),
                    ("AllocSVQ", dict(queues=[dict(queue_size=8, driver_hva=HVA + 64 * MIB,
                                                   device_hva=HVA + 65 * MIB)]))):
                refusal = refused("ATTACHMENT_FAILED", getattr(client, rpc), space=space, **fields)
                assert device in refusal.message and refusal.detail.device == device
            # Reading goes on.
            assert client.translate(space, gpa=1 * MIB).segments
        mark = last_sequence(client, device)

        answer = client.ResetDevice(device=device)

        assert answer.device.attachments[0].state == types.ATTACHMENT_STATE_LIVE
        now = client.space(space)
        for attachment in now.attachments:
            assert attachment.state == types.ATTACHMENT_STATE_LIVE
            assert not attachment.quarantined.ranges
        assert now.revision == before.revision
        assert_in_step(client, space, device, after=mark)
        events, _ = watcher.change()
        assert events[-1].attachment_state.state == types.ATTACHMENT_STATE_LIVE

    client.update(space, *CHANGE)
    assert_in_step(client, space, device, after=mark)
    assert_in_step(client, space, healthy)


def test_resetting_a_healthy_device_replays_it(client, make_space, make_device, attach):
    device = make_device(as_num=2)
    spaces = [make_space(), make_space()]
    for asid, space in enumerate(spaces):
        client.update(space, *BASE[:asid + 2])
        attach(space, device, asid)
    mark = last_sequence(client, device)
    before = [client.space(space).revision for space in spaces]
    client.ResetDevice(device=device)
    for asid, space in enumerate(spaces):
        assert_in_step(client, space, device, asid, after=mark)
    assert [client.space(space).revision for space in spaces] == before


def test_concurrent_changes_and_faults(client, space, make_device, attach):
    """Requests that were taken together and refused together are done again alone: whatever
    fails says so, whatever does not is there, and the device holds just that."""
    device = make_device(faults=[dict(op=Fault.OP_UPDATE, nth=nth, os_errno=errno.EFAULT)
                                 for nth in (5, 6, 17, 40, 41)])
    attach(space, device)
    futures = [client.future("Map", space=space, mapping=spec(HVA, PAGE, gpa=n * PAGE))
               for n in range(64)]
    done, failed = [], 0
    for future in futures:
        try:
            done.append(future.result().mapping)
        except grpc.RpcError as error:
            assert Refusal.from_rpc(error).reason == "DEVICE_ERROR"
            failed += 1
    assert len(done) + failed == 64 and failed <= 5
    assert client.mappings(space) == sorted(done, key=lambda m: m.iova)
    assert len({m.revision for m in done}) == len(done)
    assert client.space(space).revision == 2 + len(done)
    assert_in_step(client, space, device)
