"""A request that is sent again because its answer was lost: every RPC that changes something,
also when the server was killed before or after, or in the middle of the first attempt."""

import itertools
import os
import shutil

import grpc
import pytest

from daemon import scaled, wait_until
from harness import HVA, MIB, PAGE, Refusal, make_ops, refused, spec
from migrating import export, header, messages
from migrating_guest import bindings, make_guest
from restarting import Server, folder  # noqa: F401 pylint: disable=unused-import
from stubs import address_space_pb2 as api
from stubs import migration_pb2 as migration

ID = "again"
SVQ = dict(queue_size=64, driver_hva=HVA + 64 * MIB, device_hva=HVA + 65 * MIB)
RAM = "ram"  # a file beside the state

# What they do is recorded as with the others, but only a device of the kernel can do it
# (tests/kernel); the handle of a TransferSpace dies with the server (test_owner_restart.py).
ELSEWHERE = {"StartDevice", "StopDevice", "WriteDeviceConfig", "TransferSpace"}


class World:
    """A server on a state of its own, with something of everything to change."""

    def __init__(self, folder):  # pylint: disable=redefined-outer-name
        self.folder = folder
        self.ram = os.path.join(os.path.dirname(folder), RAM)
        self.server = None
        self.records = None
        self.everything = None

    def start(self, **options):
        self.server = Server(self.folder, "--memory-paths", os.path.dirname(self.folder),
                             **options)
        return self.server.client

    @property
    def client(self):
        return self.server.client

    def make(self):
        """Makes what there is to change, and stops."""
        client = self.start()
        with open(self.ram, "wb") as made:
            made.truncate(4 * MIB)
        for name in ("used", "free", "idle"):
            client.OpenDevice(device=name, simulated=dict(as_num=2))
        client.CreateSpace(space="vm", labels={"a": "1"}, attachments=[dict(device="used")])
        client.map("vm", HVA, PAGE, gpa=0, label="ram")
        client.AllocSVQ(space="vm", queues=[SVQ])
        client.RegisterMemory(space="vm", hva=HVA + 256 * MIB, size=MIB, path=self.ram)
        client.CreateSpace(space="doomed")
        client.map("doomed", HVA, PAGE, gpa=0)

        def make_space(name, **fields):
            client.CreateSpace(space=name, **fields)
            return name

        self.records = export(client, make_guest(client, make_space))
        self.everything = everything(self.server.restart())
        self.server.stop()

    def copy(self, folder):  # pylint: disable=redefined-outer-name
        """The same in another folder."""
        shutil.copytree(self.folder, folder)
        shutil.copyfile(self.ram, os.path.join(os.path.dirname(folder), RAM))
        world = World(folder)
        world.records = self.records
        return world


def memory_of(client, space):
    """Registered memory. A restart loses files that came without a path: not what is told."""
    listed = client.ListMemory(space=space).memory
    for memory in listed:
        memory.ClearField("state")
    return list(listed)


def everything(client):
    """All that a request may change."""
    spaces = {s.name: (s, client.mappings(s.name), client.ListSVQs(space=s.name),
                       memory_of(client, s.name)) for s in client.ListSpaces().spaces}
    devices = {d.name: list(d.attachments) for d in client.ListDevices().devices}
    return spaces, devices


class Unary:
    """A request, and other content for one with the same id. "RAM" stands for the file."""

    def __init__(self, rpc, other, **fields):
        self.rpc, self.fields, self.other = rpc, fields, other

    def __repr__(self):
        return self.rpc

    def send(self, world, **other):
        """The answer's bytes."""
        fields = dict(self.fields, **other)
        if fields.get("path") == "RAM":
            fields["path"] = world.ram
        return world.client.raw(self.rpc, request_id=ID, **fields)

    def send_other(self, world):
        """The Refusal of the same id with other content."""
        return refused("REQUEST_ID_REUSED", self.send, world, **self.other)


def raw_bidi(client, path, requests):
    """All answers of a stream, as bytes."""
    call = client.channel.stream_stream(
        path, request_serializer=lambda request: request.SerializeToString())
    return list(call(iter(requests), timeout=scaled(30)))


class Streamed:
    """An Update inside StreamUpdates."""

    def __repr__(self):
        return "StreamUpdates"

    def send(self, world, gpa=MIB):
        update = dict(space="vm", request_id=ID, ops=make_ops([spec(HVA, PAGE, gpa=gpa)]))
        answer, = raw_bidi(world.client, "/iovad.v1.AddressSpaceService/StreamUpdates",
                           [api.StreamUpdatesRequest(sequence=7, update=update)])
        return answer

    def send_other(self, world):
        answer = api.StreamUpdatesResponse.FromString(self.send(world, gpa=2 * MIB))
        refusal = Refusal(answer.error)
        assert refusal.reason == "REQUEST_ID_REUSED"
        return refusal


class Imported:
    """An import: the answer is what comes last."""

    def __repr__(self):
        return "ImportSpace"

    def send(self, world, **fields):
        first = header("imported", request_id=ID, bindings=bindings(), **fields)
        *progress, last = raw_bidi(world.client, "/iovad.v1.MigrationService/ImportSpace",
                                   messages(first, world.records))
        assert all(migration.ImportSpaceResponse.FromString(p).HasField("progress")
                   for p in progress)
        return last

    def send_other(self, world):
        return refused("REQUEST_ID_REUSED", self.send, world, labels={"another": "one"})


REQUESTS = [
    Unary("CreateSpace", dict(labels={}), space="made", labels={"b": "2", "a": "1", "c": "3"}),
    Unary("UpdateSpace", dict(labels={}), space="vm", labels={"b": "2", "a": "3", "c": "4"}),
    Unary("DeleteSpace", dict(space="vm"), space="doomed", force=True),
    Unary("AttachDevice", dict(asid=1), space="vm", device="free", asid=0),
    Unary("DetachDevice", dict(asid=1), space="vm", device="used", asid=0),
    Unary("RegisterMemory", dict(label="x"), space="vm", hva=HVA, size=MIB, path="RAM",
          offset=MIB),
    Unary("UnregisterMemory", dict(memory_id=99), space="vm", memory_id=1),
    Unary("Map", dict(mapping=spec(HVA, PAGE, gpa=MIB, label="x")), space="vm",
          mapping=spec(HVA, PAGE, gpa=MIB)),
    Unary("Unmap", dict(target=dict(mapping_id=1)), space="vm", target=dict(at_gpa=0)),
    Unary("Update", dict(ops=[]), space="vm",
          ops=make_ops([dict(at_gpa=0), spec(HVA, PAGE, gpa=MIB)])),
    Unary("AllocSVQ", dict(queues=[]), space="vm",
          queues=[dict(queue_index=1, queue_size=16, driver_hva=HVA + 80 * MIB,
                       device_hva=HVA + 81 * MIB)]),
    Unary("FreeSVQ", dict(svq_ids=[]), space="vm", svq_ids=[1]),
    Unary("OpenDevice", dict(simulated=dict(as_num=2)), device="opened",
          simulated=dict(as_num=3)),
    Unary("CloseDevice", dict(device="free"), device="idle"),
    Unary("ResetDevice", dict(device="free"), device="used"),
    Streamed(),
    Imported(),
]
requests = pytest.mark.parametrize("request_", REQUESTS, ids=repr)


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory):
    world = World(str(tmp_path_factory.mktemp("made") / "state"))
    os.mkdir(world.folder)
    world.make()
    return world


@pytest.fixture(name="world")
def _world(made, folder):  # noqa: F811  pylint: disable=redefined-outer-name
    return made.copy(os.path.join(folder, "w"))


def test_every_rpc_is_here(client):
    """What has a request_id is tried, or it is said where else."""
    repeatable = {rpc for rpc in client.rpcs() if "request_id" in client.request(rpc).DESCRIPTOR
                  .fields_by_name} | {"StreamUpdates", "ImportSpace"}
    assert {repr(r) for r in REQUESTS} | ELSEWHERE == repeatable


@requests
def test_a_repeat_gets_the_first_answer_also_after_a_kill(world, request_):
    world.start()
    first = request_.send(world)
    now = everything(world.client)
    for kill in (False, True):
        if kill:
            world.server.restart()
            assert everything(world.client) == now
        assert request_.send(world) == first
        assert ID in request_.send_other(world).message
        assert everything(world.client) == now
    world.server.stop()


@requests
@pytest.mark.parametrize("point", ["store.before_commit", "store.after_commit"])
def test_a_first_attempt_that_a_kill_cut_off(made, folder, request_, point):  # noqa: F811
    """At each commit that the request comes to: it is wholly there afterwards or not at all,
    and the repeat does what is left to do, once."""
    before = made.everything
    cut_off = []  # (found, after) by commit
    for passing in itertools.count(1):
        world = made.copy(os.path.join(folder, str(passing)))
        try:
            world.start(environment={"IOVAD_FAULT": f"{point}:kill:{passing}"})
        except AssertionError:
            continue  # it commits something at the start already
        try:
            request_.send(world)
        except grpc.RpcError:
            pass
        else:
            world.server.stop()
            break
        assert world.server.daemon.wait() == -9
        world.server.restart()
        found = everything(world.client)
        answer = request_.send(world)
        after = everything(world.client)
        assert after != before or repr(request_) == "ResetDevice"
        assert found in (before, after)
        cut_off.append((found, after))
        assert request_.send(world) == answer
        assert everything(world.client) == after
        world.server.stop()
    if point == "store.before_commit":
        assert cut_off[0][0] == before
    else:
        found, after = cut_off[-1]
        assert found == after


def map_number(client, number):
    """A Map with an id of its own and an answer of some 15 KB: an Update, so."""
    ops = [dict(map=spec(HVA, PAGE, gpa=(150 * number + n) * PAGE, label="x" * 64))
           for n in range(150)]
    return client.raw("Update", space="vm", ops=ops, request_id=f"id-{number}")


@pytest.mark.parametrize("limit, value, kept", [("max-request-ids", 3, 3),
                                                ("request-id-bytes", 65536, 4)])
def test_the_oldest_answers_are_dropped_and_stay_so(folder, limit, value, kept):  # noqa: F811
    server = Server(folder, f"--limits.{limit}", str(value))
    server.client.CreateSpace(space="vm")
    answers = [map_number(server.client, n) for n in range(8)]
    assert 65536 // 5 < len(answers[0]) < 65536 // 4 - 100

    def check(client):
        for n in reversed(range(8)):
            if n >= 8 - kept:
                assert map_number(client, n) == answers[n]
            else:
                refused("MAPPING_EXISTS", map_number, client, n)

    check(server.client)
    check(server.restart())
    # Nor does the store keep what is dropped when others come after the restart.
    map_number(server.client, 8)
    client = server.restart()
    refused("MAPPING_EXISTS", map_number, client, 8 - kept)
    assert map_number(client, 7) == answers[7]
    # With room for all: what was dropped is not in the store, but for the last one, which goes
    # with the next answer that is kept.
    server.kill()
    server = Server(folder)
    for n in range(8 - kept):
        refused("MAPPING_EXISTS", map_number, server.client, n)
    server.stop()


def test_old_answers_are_dropped_and_stay_so(folder):  # noqa: F811
    server = Server(folder, "--limits.request-id-ttl", str(int(scaled(1))))
    client = server.client
    client.CreateSpace(space="vm")
    fields = dict(space="vm", mapping=spec(HVA, PAGE, gpa=0), request_id="old")
    client.Map(**fields)

    def forgotten():
        try:
            client.Map(**fields)
        except grpc.RpcError as error:
            return Refusal.from_rpc(error).reason == "MAPPING_EXISTS"
        return False

    wait_until(forgotten, "the answer is too old")
    client = server.restart()
    assert forgotten()
    client.Map(space="vm", mapping=spec(HVA, PAGE, gpa=MIB), request_id="new")
    server.kill()
    server = Server(folder)
    client = server.client
    assert forgotten()
    server.stop()
