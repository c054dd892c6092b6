"""Spaces that live as long as a process: what happens to them when it ends."""

import os
import signal
import time

import grpc
import pytest

from conftest import fresh_name
from daemon import scaled, wait_until
from device_table import assert_in_step, device_log, replay
from harness import HVA, MIB, PAGE, Refusal, refused, spec, unchanged
from owner_process import OWNER_PROCESS, PERMANENT, OwnerProcess
from relay_peer import CLIENT_HVA, RelayPeer
from stubs import device_pb2 as device_api
from stubs import types_pb2 as types
from watching import SpacesWatcher, Watcher, seconds

Fault = device_api.SimulatedDevice.Fault
# Long enough for anything that a test does meanwhile, and for ever.
SHORT, LONG = 2, 600


@pytest.fixture
def owner(client):
    """A process."""
    with OwnerProcess(client) as process:
        yield process


@pytest.fixture
def other(client):
    """Another one."""
    with OwnerProcess(client) as process:
        yield process


@pytest.fixture
def own(make_space, owner):
    """Makes a space that is tied to `owner`, or to `by`; its name."""

    def make(grace=SHORT, by=None, **fields):
        return make_space(lifetime=OWNER_PROCESS, grace=seconds(grace),
                          owner_handle=(by or owner).handle(), **fields)

    return make


def moment(timestamp):
    """A Timestamp in seconds."""
    return timestamp.seconds + timestamp.nanos / 1e9


def gone(client, space):
    """Waits until it is known that the owner has ended; the Space."""
    def known():
        found = client.space(space)
        return found if found.HasField("owner_gone_time") else None

    return wait_until(known, "the owner's end is known")


def is_there(client, space):
    """Whether there is a space of the name."""
    return space in [found.name for found in client.ListSpaces().spaces]


def removed(client, space):
    """Waits until there is no such space."""
    wait_until(lambda: not is_there(client, space), f"{space} is removed")
    refused("SPACE_NOT_FOUND", client.GetSpace, space=space)


# ---- What is asked for

def test_what_a_space_says_of_its_owner(client, owner):
    name = fresh_name("owned")
    space = client.CreateSpace(space=name, lifetime=OWNER_PROCESS,
                               owner_handle=owner.handle()).space
    assert space.lifetime == OWNER_PROCESS
    assert space.grace.seconds == 30  # owner-grace
    assert (space.owner_process.pid, space.owner_process.uid) == (owner.pid, os.getuid())
    assert str(owner.pid) in space.owner and str(os.getuid()) in space.owner
    assert not space.HasField("owner_gone_time") and not space.HasField("remove_time")
    assert client.space(name) == space


def test_a_space_may_have_no_owner(client, space):
    found = client.space(space)
    assert found.lifetime == PERMANENT and not found.owner
    assert not found.HasField("owner_process") and not found.HasField("grace")


@pytest.mark.parametrize("lifetime", [PERMANENT, types.LIFETIME_UNSPECIFIED])
def test_a_permanent_space_outlives_its_owner(client, make_space, own, owner, lifetime):
    space = make_space(owner_handle=owner.handle(), lifetime=lifetime)
    before = client.space(space)
    assert before.lifetime == PERMANENT and before.owner_process.pid == owner.pid
    tied = own(grace=0)
    owner.kill()
    after = gone(client, space)
    assert not after.HasField("remove_time")
    after.ClearField("owner_gone_time")
    assert after == before
    removed(client, tied)
    client.map(space, HVA, PAGE, gpa=0)


@pytest.mark.parametrize("lifetime", [PERMANENT, OWNER_PROCESS])
def test_an_owner_that_has_ended_already(client, space, owner, lifetime):
    handles = [owner.handle() for _ in range(2)]
    owner.kill()
    wait_until(lambda: "Z" in open(f"/proc/{owner.pid}/stat", encoding="utf-8").read().split()[2],
               "the owner is a zombie")
    name = fresh_name("late")
    refusal = refused("NO_IDENTITY", client.CreateSpace, space=name, lifetime=lifetime,
                      owner_handle=handles[0])
    assert name in refusal.message and str(owner.pid) in refusal.message
    assert not is_there(client, name)
    with unchanged(client, space):
        refusal = refused("NO_IDENTITY", client.TransferSpace, space=space,
                          owner_handle=handles[1])
    assert space in refusal.message


@pytest.mark.parametrize("reason, fields", [
    ("MISSING_FIELD", {}),
    ("HANDLE_NOT_FOUND", dict(owner_handle="0" * 32)),
    ("INVALID_VALUE", dict(owner_handle=None, grace=dict(seconds=-1))),
    ("INVALID_VALUE", dict(owner_handle=None, grace=dict(nanos=-1))),
    ("INVALID_VALUE", dict(owner_handle=None, grace=dict(seconds=1, nanos=-1))),
    ("INVALID_VALUE", dict(owner_handle=None, grace=dict(nanos=10**9))),
    ("INVALID_VALUE", dict(owner_handle=None, grace=dict(seconds=86_400, nanos=1))),
    ("INVALID_VALUE", dict(owner_handle=None, grace=dict(seconds=2**63 - 1))),
    ("INVALID_VALUE", dict(lifetime=PERMANENT, grace={})),
    ("NAME_TAKEN", dict(owner_handle=None, space=None)),
    ("INVALID_NAME", dict(owner_handle=None, space="No Name")),
])
def test_what_is_refused_leaves_the_handle_good(client, space, owner, reason, fields):
    handle = owner.handle()
    taken = {name: space if name == "space" and value is None else
             handle if name == "owner_handle" and value is None else value
             for name, value in fields.items()}
    refused(reason, client.CreateSpace,
            **{**dict(space=fresh_name("refused"), lifetime=OWNER_PROCESS), **taken})
    transferred = client.TransferSpace(space=space, owner_handle=handle).space
    assert transferred.owner_process.pid == owner.pid
    refused("HANDLE_NOT_FOUND", client.TransferSpace, space=space, owner_handle=handle)


@pytest.mark.parametrize("grace", [dict(), dict(nanos=1), dict(seconds=86_400)])
def test_the_shortest_and_the_longest_grace(client, make_space, owner, grace):
    space = make_space(lifetime=OWNER_PROCESS, grace=grace, owner_handle=owner.handle())
    assert client.space(space).grace == client.request("CreateSpace", grace=grace).grace


# ---- When the process ends

def test_removed_after_the_grace_time_and_not_before(client, own, owner, make_device, attach):
    space, device = own(), make_device()
    attach(space, device)
    client.map(space, HVA, MIB, gpa=0)
    client.AllocSVQ(space=space, queues=[dict(queue_index=0, queue_size=16)])
    before = client.space(space)
    assert client.ListMemory(space=space).memory
    with SpacesWatcher(client) as spaces, Watcher(client, space) as watcher:
        spaces.snapshot()
        watcher.snapshot()
        killed = time.monotonic()
        owner.kill()
        kind, changed = spaces.next_of(space)
        assert kind == "changed"
        assert changed.remove_time.seconds and abs(
            moment(changed.remove_time) - moment(changed.owner_gone_time) - scaled(SHORT)) < 1e-3
        for field in ("owner_gone_time", "remove_time"):
            changed.ClearField(field)
        assert changed == before
        # Until then it is a space like others.
        client.map(space, HVA, MIB, gpa=MIB)
        assert_in_step(client, space, device)
        kind = "changed"
        while kind != "deleted":
            kind, last = spaces.next_of(space)
        assert time.monotonic() - killed >= scaled(SHORT)
        assert last.HasField("owner_gone_time")
        with pytest.raises(grpc.RpcError) as ended:
            watcher.error()
        assert Refusal.from_rpc(ended.value).reason == "SPACE_NOT_FOUND"
    removed(client, space)
    refused("SPACE_NOT_FOUND", client.map, space, HVA, PAGE, gpa=4 * MIB)
    # The device has nothing of it, and is nobody's.
    assert not replay(device_log(client, device))[0]
    client.CloseDevice(device=device)
    # Nor is its memory kept open.
    client.CreateSpace(space=space)
    assert not client.ListMemory(space=space).memory


def test_at_once(client, own, owner):
    space = own(grace=0)
    client.map(space, HVA, PAGE, gpa=0)
    owner.kill()
    removed(client, space)


def test_a_child_is_not_the_owner(client, own, owner):
    space = own(grace=0)
    child = owner.fork()
    try:
        owner.bury()
        removed(client, space)
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_exec_makes_no_other_process(client, own, owner):
    space, watch = own(grace=0), own(grace=0)
    owner.execute()
    client.map(space, HVA, PAGE, gpa=0)
    assert not client.space(watch).HasField("owner_gone_time")
    owner.bury()
    removed(client, space)


def test_deleting_it_before(client, own, owner):
    space, tied = own(), own()
    client.DeleteSpace(space=space)
    again = client.CreateSpace(space=space).space
    owner.kill()
    removed(client, tied)
    # What has its name now is another space.
    assert client.space(space) == again


def test_many_spaces_of_one_process(client, own, owner):
    names = [own(grace=0) for _ in range(1000)]
    kept = own(grace=LONG)
    for name in names[::10]:
        client.map(name, HVA, PAGE, gpa=0)
    owner.kill()
    wait_until(lambda: not set(names) & {s.name for s in client.ListSpaces().spaces},
               "all are removed")
    assert gone(client, kept).HasField("remove_time")


# ---- Taken over

def test_taken_over_in_time(client, own, owner, other):
    space, lost = own(), own()
    client.map(space, HVA, PAGE, gpa=0)
    before = client.space(space)
    with SpacesWatcher(client) as spaces:
        spaces.snapshot()
        owner.kill()
        gone(client, space)
        after = client.TransferSpace(space=space, owner_handle=other.handle()).space
        assert spaces.next_of(space)[1].HasField("remove_time")
        assert spaces.next_of(space) == ("changed", after)
    # One that nobody took over is gone at about the time at which this one would have been.
    removed(client, lost)
    assert after == client.space(space)
    assert after.owner_process.pid == other.pid
    assert not after.HasField("owner_gone_time") and not after.HasField("remove_time")
    assert (after.revision, after.lifetime, after.grace) == (
        before.revision, OWNER_PROCESS, before.grace)
    # The next one's end counts as the first one's did.
    other.kill()
    removed(client, space)


def test_given_away_while_the_owner_lives(client, own, owner, other):
    space, tied = own(grace=0), own(grace=0)
    client.TransferSpace(space=space, owner_handle=other.handle())
    owner.kill()
    removed(client, tied)
    assert not client.space(space).HasField("owner_gone_time")
    other.kill()
    removed(client, space)


def test_to_the_same_process_again(client, own, owner):
    space = own(grace=0)
    first = client.space(space)
    assert client.TransferSpace(space=space, owner_handle=owner.handle()).space == first
    owner.kill()
    removed(client, space)


def test_a_permanent_space_may_change_hands(client, space, owner):
    after = client.TransferSpace(space=space, owner_handle=owner.handle()).space
    assert after.lifetime == PERMANENT and after.owner_process.pid == owner.pid


def test_a_transfer_is_repeated_with_the_same_answer(client, own, owner, other):
    space = own()
    request = dict(space=space, owner_handle=other.handle(), request_id="mine", space_uid=client.
                   space(space).uid, expected_revision=client.space(space).revision)
    first = client.raw("TransferSpace", **request)
    client.TransferSpace(space=space, owner_handle=owner.handle())
    # The handle is used up, and the space has another owner since.
    assert client.raw("TransferSpace", **request) == first
    assert client.space(space).owner_process.pid == owner.pid
    refused("REQUEST_ID_REUSED", client.TransferSpace, space=space, owner_handle=other.handle(),
            request_id="mine")


def test_a_transfer_that_is_refused_takes_no_handle(client, own, owner, other):
    space, handle = own(), other.handle()
    with unchanged(client, space):
        refused("REVISION_MISMATCH", client.TransferSpace, space=space, owner_handle=handle,
                expected_revision=99)
        refused("SPACE_NOT_FOUND", client.TransferSpace, space=space, owner_handle=handle,
                space_uid="another")
        refused("MISSING_FIELD", client.TransferSpace, space=space)
    assert client.TransferSpace(space=space, owner_handle=handle).space.owner_process.pid == \
        other.pid


def test_creating_is_repeated_with_the_same_answer(client, owner):
    name = fresh_name("repeated")
    request = dict(space=name, lifetime=OWNER_PROCESS, owner_handle=owner.handle(),
                   grace=seconds(LONG), labels={"b": "1", "a": "2"}, request_id=name)
    assert client.raw("CreateSpace", **request) == client.raw("CreateSpace", **request)


# ---- Devices

def test_a_device_that_refuses_is_asked_again(client, own, owner, make_device, attach):
    device = make_device(faults=[dict(op=Fault.OP_INVALIDATE, nth=1, os_errno=5),
                                 dict(op=Fault.OP_INVALIDATE, nth=2, os_errno=5)])
    space, free = own(grace=0), own(grace=0)
    attach(space, device)
    client.map(space, HVA, PAGE, gpa=0)
    owner.kill()
    removed(client, free)
    removed(client, space)
    client.CloseDevice(device=device)


def test_taken_over_while_a_device_refuses(client, own, owner, other, make_device, attach):
    device = make_device(faults=[dict(op=Fault.OP_INVALIDATE, nth=n, os_errno=5)
                                 for n in range(1, 30)])
    space = own(grace=0)
    attach(space, device)
    client.map(space, HVA, PAGE, gpa=0)
    owner.kill()
    wait_until(lambda: any(e.os_errno for e in client.DeviceLog(device=device).entries),
               "a removal was refused")
    after = client.TransferSpace(space=space, owner_handle=other.handle()).space
    assert after.mapping_count == 1
    assert_in_step(client, space, device)
    client.map(space, HVA, PAGE, gpa=MIB)


SLOW = 4


@pytest.fixture
def hanging(client, own, make_device, attach):
    """A tied space whose device takes its time over the next UPDATE, and that UPDATE's answer."""

    def make(grace):
        device = make_device(faults=[dict(op=Fault.OP_UPDATE, nth=1, delay=seconds(SLOW))])
        space = own(grace=grace)
        attach(space, device)
        running = client.future("Map", space=space, mapping=spec(HVA, PAGE, gpa=0))
        # The change has begun when another of its kind has to wait.
        waiting = client.future("Map", space=space, mapping=spec(HVA, PAGE, gpa=MIB))
        return space, device, running, waiting

    return make


def test_a_device_that_hangs_holds_up_its_own_space_only(client, own, owner, hanging):
    space, device, running, waiting = hanging(0)
    others = [own(grace=0) for _ in range(20)]
    owner.kill()
    for name in others:
        removed(client, name)
    found = gone(client, space)
    assert not running.done() and found.mapping_count == 0
    assert running.result().mapping.gpa == 0 and waiting.result().mapping.gpa == MIB
    removed(client, space)
    assert not replay(device_log(client, device))[0]


def test_a_transfer_that_waits_for_its_turn_is_in_time(client, own, owner, other, hanging):
    grace = SLOW / 4
    space, device, running, _ = hanging(grace)
    lost = own(grace=grace)
    owner.kill()
    gone(client, space)
    transferred = client.future("TransferSpace", space=space, owner_handle=other.handle())
    removed(client, lost)  # so is the time of this one over
    assert not running.done() and not transferred.done()
    assert transferred.result().space.owner_process.pid == other.pid
    client.map(space, HVA, PAGE, gpa=4 * MIB)
    assert_in_step(client, space, device)


def test_changes_and_the_end_do_not_meet_half_way(client, own, owner, make_device, attach):
    device, space = make_device(), own(grace=0)
    attach(space, device)
    futures = []
    for n in range(400):
        if n == 200:
            owner.kill()
        futures.append(client.future("Map", space=space, mapping=spec(HVA, PAGE, gpa=n * PAGE)))
    outcomes = []
    for future in futures:
        try:
            outcomes.append(future.result().revision)
        except grpc.RpcError as error:
            outcomes.append(Refusal.from_rpc(error).reason)
    done = [revision for revision in outcomes if revision != "SPACE_NOT_FOUND"]
    assert all(isinstance(revision, int) for revision in done), outcomes
    assert sorted(done) == list(range(3, 3 + len(done)))
    removed(client, space)
    assert not replay(device_log(client, device)).get(0)


def test_the_owner_is_also_the_relay(client, own, owner):
    """As a VMM is: with it go both the device and the space."""
    space, device = own(), fresh_name("relay")
    client.map(space, HVA, PAGE, gpa=0)
    peer = RelayPeer(client, space=space, device=device, uaddr_mode=CLIENT_HVA, pid=owner.pid,
                     owner_handle=owner.handle())
    peer.attach()
    owner.kill()
    peer.close()
    assert gone(client, space).attachments
    removed(client, space)
    refused("DEVICE_NOT_FOUND", client.GetDevice, device=device)


def test_a_relay_that_lives_on_is_told(client, own, owner):
    space, device = own(grace=0), fresh_name("relay")
    with RelayPeer(client, space=space, device=device) as peer:
        peer.attach()
        running = client.future("Map", space=space, mapping=spec(HVA, PAGE, gpa=0))
        peer.apply()
        running.result()
        owner.kill()
        peer.apply()
        assert not peer.table
        assert peer.refusal().reason == "SPACE_NOT_FOUND"
    removed(client, space)
