"""A device that takes its time holds up the changes of its own spaces and nothing else."""

import time

import grpc
import pytest

from daemon import scaled
from device_table import assert_in_step
from harness import (HVA, MIB, PAGE, Refusal, refused, spec)
from stubs import device_pb2 as api
from watching import Watcher, seconds

# How long the device takes for one message; everything else has to be much faster.
DELAY = 1.5
SLOW_UPDATE = dict(op=api.SimulatedDevice.Fault.OP_UPDATE, nth=2, delay=seconds(DELAY))


@pytest.fixture
def slow(client, space, make_device, attach):
    """A space on a device whose next UPDATE is slow."""
    device = make_device(faults=[SLOW_UPDATE])
    attach(space, device)
    client.map(space, HVA, PAGE, gpa=0)
    return space, device


def start_slow_map(client, space, **fields):
    """Sends a Map that is certainly being done when this returns: of two that are alike one is
    told that the other is running."""
    request = dict(space=space, mapping=spec(HVA + MIB, PAGE, gpa=MIB), request_id="slow")
    twins = [client.future("Map", **request, **fields) for _ in range(2)]
    while not any(twin.done() for twin in twins):
        time.sleep(0.002)
    told, running = sorted(twins, key=lambda twin: not twin.done())
    with pytest.raises(grpc.RpcError) as raised:
        told.result()
    refusal = Refusal.from_rpc(raised.value)
    assert refusal.reason == "REQUEST_IN_FLIGHT" and not running.done()
    return running, refusal


def timed(call, *args, **fields):
    """Calls and checks that it did not wait for the device."""
    begin = time.monotonic()
    result = call(*args, **fields)
    assert time.monotonic() - begin < scaled(DELAY) / 2, "it waited for the slow device"
    return result


def test_reads_of_the_same_space_go_on(client, slow):
    space, device = slow
    before = client.space(space)
    running, _ = start_slow_map(client, space)
    rounds = 0
    while rounds < 3 or not running.done():
        state = timed(client.space, space)
        listed = timed(client.mappings, space)
        missing = timed(client.translate, space, gpa=MIB)
        timed(client.Dump, space=space)
        timed(client.ListSpaces)
        timed(client.GetDevice, device=device)
        timed(client.DeviceLog, device=device)
        rounds += 1
        if rounds == 1:
            assert not running.done()
            # Nothing is seen before it is on the device.
            assert state == before and len(listed) == 1 and missing.HasField("fault")
    assert running.result().mapping in client.mappings(space)
    assert_in_step(client, space, device)


def test_other_spaces_go_on(client, slow, make_space, make_device, attach):
    space, _ = slow
    attached, free = make_space(), make_space()
    other = make_device()
    attach(attached, other)
    running, _ = start_slow_map(client, space)
    for name in (attached, free):
        timed(client.map, name, HVA, PAGE, gpa=0)
        timed(client.unmap, name, at_gpa=0)
    timed(client.CreateSpace, space=space + "-other")
    timed(client.OpenDevice, device=space + "-other", simulated={})
    timed(client.AttachDevice, space=free, device=space + "-other")
    assert not running.done()
    running.result()


def test_labels_wait_for_their_turn(client, slow):
    space, _ = slow
    running, _ = start_slow_map(client, space)
    labelled = client.UpdateSpace(space=space, labels={"a": "1"}).space
    assert labelled.labels == {"a": "1"}
    assert labelled.revision == running.result().revision


def test_watching_goes_on(client, slow):
    space, _ = slow
    running, _ = start_slow_map(client, space)
    with Watcher(client, space, progress_interval=seconds(0.02)) as watcher:
        events, revision = timed(watcher.snapshot)
        assert len(events) == 2 and revision == 3 and not running.done()  # attached, mapped
        assert not timed(watcher.next).events
        mapping = running.result().mapping
        events, revision = watcher.change()
        assert (events[0].mapped, revision) == (mapping, mapping.revision)


def test_the_first_is_still_running(client, slow):
    space, _ = slow
    running, refusal = start_slow_map(client, space)
    assert "slow" in refusal.message and space in refusal.message
    # Also other content: which of the two reasons answers is open, but none waits.
    timed(refused, "REQUEST_IN_FLIGHT", client.Map, space=space, request_id="slow",
          mapping=spec(HVA + MIB, PAGE, gpa=MIB))
    answer = running.result()
    assert client.Map(space=space, mapping=spec(HVA + MIB, PAGE, gpa=MIB),
                      request_id="slow") == answer


def test_cancelling_does_not_abort_what_was_planned(client, slow):
    space, device = slow
    running, _ = start_slow_map(client, space)
    running.cancel()
    # The next change waits its turn behind the cancelled one.
    second = client.map(space, HVA + 2 * MIB, PAGE, gpa=2 * MIB)
    assert [m.gpa for m in client.mappings(space)] == [0, MIB, 2 * MIB]
    assert second.revision == 5
    done = client.Map(space=space, mapping=spec(HVA + MIB, PAGE, gpa=MIB), request_id="slow")
    assert done.revision == 4
    assert_in_step(client, space, device)


def test_changes_queue_behind_and_all_come_through(client, slow):
    space, device = slow
    running, _ = start_slow_map(client, space)
    futures = [client.future("Map", space=space, mapping=spec(HVA, PAGE, gpa=(8 + n) * MIB))
               for n in range(50)]
    futures.append(client.future("Map", space=space, mapping=spec(HVA + 1, PAGE, gpa=0)))
    with pytest.raises(grpc.RpcError) as raised:
        futures.pop().result()
    assert Refusal.from_rpc(raised.value).reason == "UNALIGNED"
    mappings = [running.result().mapping] + [future.result().mapping for future in futures]
    assert len({m.revision for m in mappings}) == len({m.mapping_id for m in mappings}) == 51
    assert client.space(space).revision == 54
    assert_in_step(client, space, device)
