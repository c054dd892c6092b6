"""How to provoke each reason of the error table: one function a reason.

Each gets a World, prepares it and returns a Provocation: the call that has to be
refused, the space that it must leave as it was, and what its message has to name.
"""

import errno
from concurrent.futures import ThreadPoolExecutor

import grpc

from conftest import fresh_name
from daemon import wait_until
from harness import (FIRST_FIT, HVA, MIB, PAGE, TOP, Client, extent, ranges, span, spec)
from migrating import bind, export, header, import_
from owner_process import OwnerProcess
from relay_peer import DISCONNECTED, REGISTERED, RelayPeer, attachment_of
from restarting import full_disk
from stubs import device_pb2 as device_api
from stubs import types_pb2 as types
from watching import Watcher, seconds

Fault = device_api.SimulatedDevice.Fault
SVQ = dict(queue_size=8, driver_hva=HVA + 64 * MIB, device_hva=HVA + 65 * MIB)
PROVOKE = {}


def provokes(reason):
    """Registers a function as the way to provoke a reason."""
    def register(function):
        assert reason not in PROVOKE
        PROVOKE[reason] = function
        return function
    return register


class Provocation:
    """A call that has to be refused."""

    def __init__(self, call, space=None, client=None, names=(), **fields):
        """`call` gets the space and the other fields, or nothing when there are none.
        `client` is needed when it is not the one of the World that came in."""
        self.call, self.space, self.client, self.names = call, space, client, names
        self.fields = fields

    def __call__(self):
        return self.call(space=self.space, **self.fields)


def error_of(watcher):
    """A call that reads a stream to its end."""
    return lambda space: watcher.error()


class World:
    """A server, what it takes to fill it, and more servers with limits of their own."""

    def __init__(self, client, start):
        self.client, self._start = client, start

    def space(self, **fields):
        """A first-fit space that reserves nothing."""
        fields = {**dict(placement=FIRST_FIT, reserved=ranges()), **fields}
        return self.client.CreateSpace(space=fresh_name("space"), **fields).space.name

    def device(self, *faults, **fields):
        """A simulated device."""
        name = fresh_name("device")
        self.client.OpenDevice(device=name, simulated=dict(fields, faults=faults))
        return name

    def attached(self, *faults, **fields):
        """A space on a simulated device: both names."""
        space, device = self.space(), self.device(*faults, **fields)
        self.client.AttachDevice(space=space, device=device)
        return space, device

    def elsewhere(self, *arguments, **options):
        """A World on a server of its own. Its Daemon is `daemon`."""
        daemon = self._start(*arguments, **options)
        world = World(Client(daemon.target).wait_ready(), self._start)
        world.daemon = daemon
        return world

    def restart(self):
        """Kills the server of its own, and starts it again."""
        self.client.close()
        self.daemon.kill()
        self.client = Client(self.daemon.start().target).wait_ready()


def map_refused(world, space, hva=HVA, size=PAGE, names=(), **fields):
    """A Map that has to be refused; the message names what it is about."""
    return Provocation(world.client.Map, space=space, client=world.client, names=names,
                       mapping=spec(hva, size, **fields))


# --- INVALID_ARGUMENT ---


@provokes("INVALID_NAME")
def invalid_name(world):
    return Provocation(world.client.CreateSpace, space="No Name", names=["No Name"])


@provokes("INVALID_LABEL")
def invalid_label(world):
    return map_refused(world, world.space(), gpa=0, label="x" * 65)


@provokes("UNALIGNED")
def unaligned(world):
    return map_refused(world, world.space(), hva=HVA + 0x123, gpa=0, names=[hex(HVA + 0x123)])


@provokes("EMPTY_RANGE")
def empty_range(world):
    return map_refused(world, world.space(), size=0, gpa=0)


@provokes("RANGE_WRAPS")
def range_wraps(world):
    return map_refused(world, world.space(), size=2 * PAGE, gpa=TOP - 0xFFF,
                       names=[hex(TOP - 0xFFF)])


@provokes("INVALID_ACCESS")
def invalid_access(world):
    return map_refused(world, world.space(), gpa=0, access=0)


@provokes("INVALID_QUEUE_SIZE")
def invalid_queue_size(world):
    return Provocation(world.client.AllocSVQ, space=world.space(), names=["3"],
                       queues=[dict(SVQ, queue_size=3)])


@provokes("TOO_MANY_OPS")
def too_many_ops(world):
    return Provocation(world.client.Update, space=world.space(), names=["65536", "65537"],
                       ops=[dict(unmap=dict(mapping_id=1))] * 65537)


@provokes("MISSING_FIELD")
def missing_field(world):
    return Provocation(world.client.Map, space=world.space(), names=["mapping"])


@provokes("INVALID_PAGE_TOKEN")
def invalid_page_token(world):
    return Provocation(world.client.ListMappings, space=world.space(), page_token="mangled")


@provokes("REQUEST_ID_REUSED")
def request_id_reused(world):
    space = world.space()
    world.client.Map(space=space, mapping=spec(HVA, PAGE, gpa=0), request_id="my-id")
    return Provocation(world.client.Map, space=space, names=["my-id"], request_id="my-id",
                       mapping=spec(HVA, PAGE, gpa=MIB))


@provokes("INVALID_VALUE")
def invalid_value(world):
    return Provocation(world.client.CreateSpace, space=fresh_name("space"), names=["5000"],
                       iova_page_size=5000)


# --- NOT_FOUND ---


@provokes("SPACE_NOT_FOUND")
def space_not_found(world):
    return Provocation(world.client.GetSpace, space="no-such-space", names=["no-such-space"])


@provokes("DEVICE_NOT_FOUND")
def device_not_found(world):
    return Provocation(world.client.AttachDevice, space=world.space(), device="no-such-device",
                       names=["no-such-device"])


@provokes("MAPPING_NOT_FOUND")
def mapping_not_found(world):
    return Provocation(world.client.Unmap, space=world.space(), target=dict(at_gpa=0xABC000),
                       names=["0xabc000"])


@provokes("MEMORY_NOT_FOUND")
def memory_not_found(world):
    return Provocation(world.client.GetMemoryHandle, space=world.space(), memory_id=77,
                       names=["77"])


@provokes("SVQ_NOT_FOUND")
def svq_not_found(world):
    return Provocation(world.client.FreeSVQ, space=world.space(), svq_ids=[77], names=["77"])


@provokes("HANDLE_NOT_FOUND")
def handle_not_found(world):
    return Provocation(world.client.TransferSpace, space=world.space(), owner_handle="0" * 32)


# --- ALREADY_EXISTS ---


@provokes("NAME_TAKEN")
def name_taken(world):
    return Provocation(world.client.CreateSpace, space=world.space())


def occupied(world):
    """A space with guest memory at GPA and IOVA 0x40000 and host-only memory at HVA."""
    space = world.space()
    world.client.update(space, spec(HVA, 4 * PAGE, gpa=0x40000, iova=0x40000),
                        spec(HVA, 4 * PAGE, iova=0x80000))
    return space


@provokes("IOVA_OVERLAP")
def iova_overlap(world):
    return map_refused(world, occupied(world), gpa=0, iova=0x43000, names=["0x43000"])


@provokes("GPA_OVERLAP")
def gpa_overlap(world):
    return map_refused(world, occupied(world), gpa=0x43000, names=["0x43000"])


@provokes("HOST_HVA_OVERLAP")
def host_hva_overlap(world):
    return map_refused(world, occupied(world), hva=HVA + PAGE, names=[hex(HVA + PAGE)])


@provokes("MAPPING_EXISTS")
def mapping_exists(world):
    return map_refused(world, occupied(world), size=4 * PAGE, gpa=0x40000, names=["0x40000"])


# --- OUT_OF_RANGE ---


@provokes("OUTSIDE_IOVA_RANGE")
def outside_iova_range(world):
    return map_refused(world, world.space(iova_range=span(0, 0xFFFF)), gpa=0, iova=0x10000,
                       names=["0x10000", "0xffff"])


@provokes("RESERVED_OVERLAP")
def reserved_overlap(world):
    return map_refused(world, world.space(reserved=None), gpa=0, iova=0xFEE00000,
                       names=["0xfee00000"])


@provokes("REVISION_COMPACTED")
def revision_compacted(world):
    space = world.space()
    for n in range(3):
        world.client.map(space, HVA, PAGE, gpa=n * PAGE)
    return Provocation(error_of(Watcher(world.client, space, start_revision=1)), space=space,
                       names=["1"])


# --- RESOURCE_EXHAUSTED ---


@provokes("IOVA_EXHAUSTED")
def iova_exhausted(world):
    return map_refused(world, world.space(iova_range=span(0, 0xFFFF)), size=MIB, gpa=0,
                       names=["0x100000"])


@provokes("MAPPING_LIMIT")
def mapping_limit(world):
    space = world.space(max_mappings=1)
    world.client.map(space, HVA, PAGE, gpa=0)
    return map_refused(world, space, gpa=PAGE, names=["1"])


@provokes("SPACE_LIMIT")
def space_limit(world):
    world = world.elsewhere("--limits.max-spaces", "1")
    world.space()
    return Provocation(world.client.CreateSpace, space="late", client=world.client, names=["1"])


@provokes("ENTRY_BUDGET")
def entry_budget(world):
    space, device = world.attached(entry_budget=1)
    world.client.map(space, HVA, PAGE, gpa=0)
    return map_refused(world, space, gpa=PAGE, names=[device, "1"])


def slow_map(world, count=1):
    """A space on a slow device where a Map is being done and `count - 1` wait behind it."""
    space, _ = world.attached(dict(op=Fault.OP_UPDATE, nth=1, delay=seconds(1.5)))
    twin = dict(space=space, mapping=spec(HVA, PAGE, gpa=0), request_id="slow")
    futures = [world.client.future("Map", **twin) for _ in range(2)]
    while not any(future.done() for future in futures):
        world.client.space(space)
    for n in range(1, count):
        futures.append(world.client.future("Map", space=space,
                                           mapping=spec(HVA, PAGE, gpa=n * PAGE)))
    return space, futures


@provokes("MEMLOCK_LIMIT")
def memlock_limit(world):
    space, device = world.space(), fresh_name("relay")
    peer = RelayPeer(world.client, space=space, device=device)
    peer.attach()

    def refuse():
        peer.refuse(peer.batch(), os_errno=errno.ENOMEM, message="too much is pinned",
                    cause=dict(reason=types.REASON_MEMLOCK_LIMIT, limit=MIB, needed=2 * MIB))

    def call(**fields):
        with ThreadPoolExecutor(1) as relay:
            refusing = relay.submit(refuse)
            try:
                world.client.Map(**fields)
            finally:
                refusing.result()
                peer.close()

    return Provocation(call, space=space, names=[device, "too much is pinned"],
                       mapping=spec(HVA, PAGE, gpa=0))


@provokes("STORE_FULL")
def store_full(world):
    # After what a new store begins with, and the space.
    other = world.elsewhere(keeps=True, environment=full_disk(3))
    return Provocation(other.client.Map, space=other.space(), client=other.client,
                       names=["state"], mapping=spec(HVA, PAGE, gpa=0))


@provokes("OVERLOADED")
def overloaded(world):
    world = world.elsewhere("--limits.writer-queue", "4")
    space, futures = slow_map(world, 16)
    # More than fit are waiting by now, or have been turned away themselves.
    while not any(future.done() for future in futures[2:]):
        world.client.space(space)
    return map_refused(world, space, gpa=MIB)


@provokes("WATCHER_TOO_SLOW")
def watcher_too_slow(world):
    world = world.elsewhere("--limits.watcher-queue-events", "1000",
                            "--limits.watcher-queue-bytes", "65536")
    space = world.space()
    watcher = Watcher(world.client, space)
    watcher.snapshot()
    # Nobody reads: the transport takes some megabytes, then the queue fills.
    for _ in range(60):
        world.client.update(space, *(spec(HVA, PAGE, gpa=n * PAGE, label="x" * 64)
                                     for n in range(500)))
        world.client.unmap(space, gpa=extent(0, 500 * PAGE))
    return Provocation(error_of(watcher), space=space, client=world.client)


# --- FAILED_PRECONDITION ---


@provokes("WOULD_SPLIT")
def would_split(world):
    return Provocation(world.client.Unmap, space=occupied(world), names=["0x41000"],
                       target=dict(gpa=span(0x41000, 0x41FFF)))


@provokes("MEMORY_NOT_REGISTERED")
def memory_not_registered(world):
    space, device = world.space(), fresh_name("relay")
    peer = RelayPeer(world.client, space=space, device=device, uaddr_mode=REGISTERED)
    peer.attach()
    return Provocation(world.client.Map, space=space, names=[device, f"{HVA:#x}"],
                       mapping=spec(HVA, PAGE, gpa=0))


@provokes("MEMORY_UNSUITABLE")
def memory_unsuitable(world):
    other = world.elsewhere("--memory-paths", "/dev/zero")
    return Provocation(other.client.RegisterMemory, space=other.space(), client=other.client,
                       hva=HVA, size=PAGE, path="/dev/zero")


@provokes("SPACE_NOT_EMPTY")
def space_not_empty(world):
    return Provocation(world.client.DeleteSpace, space=occupied(world), names=["force"])


@provokes("IN_USE")
def in_use(world):
    space = world.space()
    svq, = world.client.AllocSVQ(space=space, queues=[SVQ]).svqs
    return Provocation(world.client.Unmap, space=space, target=dict(at_iova=svq.desc_iova),
                       names=[hex(svq.desc_iova)])


@provokes("DEVICE_BUSY")
def device_busy(world):
    _, device = world.attached()
    return Provocation(world.client.AttachDevice, space=world.space(), device=device,
                       names=[device])


@provokes("DEVICE_RANGE_CONFLICT")
def device_range_conflict(world):
    device = world.device(iova_range=span(0, 0x40FFF))
    return Provocation(world.client.AttachDevice, space=occupied(world), device=device,
                       names=[device, "0x40fff"])


@provokes("NO_DEVICE_CAPABILITY")
def no_device_capability(world):
    device = world.device()
    return Provocation(world.client.AttachDevice, space=world.space(), device=device, groups=[0],
                       names=[device, "IOTLB_ASID"])


@provokes("SPACE_FROZEN")
def space_frozen(world):
    there = world.elsewhere(keeps=True)
    space, device = there.attached(outlives_server=True)
    there.restart()
    return map_refused(there, space, gpa=0, names=[device, "ResetDevice"])


@provokes("ATTACHMENT_FAILED")
def attachment_failed(world):
    space, device = world.attached(dict(op=Fault.OP_UPDATE, nth=2, os_errno=errno.EFAULT),
                                   dict(op=Fault.OP_UNDO, nth=1, os_errno=errno.EIO))
    try:
        world.client.update(space, spec(HVA, PAGE, gpa=0), spec(HVA, PAGE, gpa=MIB))
    except grpc.RpcError:
        pass  # test_faults.py looks at this one
    return map_refused(world, space, gpa=0, names=[device])


# --- UNAVAILABLE ---


@provokes("RELAY_DISCONNECTED")
def relay_disconnected(world):
    space, device = world.space(), fresh_name("relay")
    with RelayPeer(world.client, space=space, device=device) as peer:
        peer.attach()
    wait_until(lambda: attachment_of(world.client, space, device).state == DISCONNECTED,
               "the loss is noticed")
    return map_refused(world, space, gpa=0, names=[device])


@provokes("ACK_TIMEOUT")
def ack_timeout(world):
    other = world.elsewhere("--relay.ack-timeout", "300ms")
    space, device = other.space(), fresh_name("relay")
    peer = RelayPeer(other.client, space=space, device=device)
    peer.attach()

    def call(**fields):
        try:
            other.client.Map(**fields)
        finally:
            peer.close()

    return Provocation(call, space=space, client=other.client, names=[device],
                       mapping=spec(HVA, PAGE, gpa=0))


# --- ABORTED ---


@provokes("REVISION_MISMATCH")
def revision_mismatch(world):
    return Provocation(world.client.Map, space=world.space(), expected_revision=99, names=["1"],
                       mapping=spec(HVA, PAGE, gpa=0))


@provokes("REQUEST_IN_FLIGHT")
def request_in_flight(world):
    space, _ = slow_map(world)
    return Provocation(world.client.Map, space=space, mapping=spec(HVA, PAGE, gpa=0),
                       request_id="slow", names=["slow"])


@provokes("SNAPSHOT_EXPIRED")
def snapshot_expired(world):
    world = world.elsewhere("--limits.max-open-snapshots", "1")
    space = occupied(world)
    first = world.client.ListMappings(space=space, page_size=1).next_page_token
    world.client.map(space, HVA, PAGE, gpa=0)
    world.client.ListMappings(space=space, page_size=1)
    return Provocation(world.client.ListMappings, space=space, page_size=1, page_token=first,
                       client=world.client)


# --- PERMISSION_DENIED ---


@provokes("PATH_NOT_ALLOWED")
def path_not_allowed(world):
    return Provocation(world.client.RegisterMemory, space=world.space(), names=["/dev/zero"],
                       hva=HVA, size=PAGE, path="/dev/zero")


# --- UNAUTHENTICATED ---


@provokes("NO_IDENTITY")
def no_identity(world):
    with OwnerProcess(world.client) as owner:
        handle = owner.handle()
    return Provocation(world.client.TransferSpace, space=world.space(), owner_handle=handle,
                       names=[str(owner.pid)])


# --- UNAVAILABLE, INTERNAL ---


@provokes("DRAINING")
def draining(world):
    world = world.elsewhere()
    space = world.space()
    slow_map(world)  # keeps the server from ending at once
    world.daemon.terminate()
    world.client.wait_until_draining()
    return map_refused(world, space, gpa=0)


@provokes("DEVICE_ERROR")
def device_error(world):
    space, device = world.attached(dict(op=Fault.OP_UPDATE, nth=1, os_errno=errno.EFAULT))
    return map_refused(world, space, gpa=0, names=[device])


# --- Imports ---


def import_refused(world, records, **fields):
    """An ImportSpace that has to be refused."""
    return Provocation(lambda space: import_(world.client, header(space, **fields), records),
                       space=fresh_name("there"))


@provokes("UNBOUND_MEMORY")
def unbound_memory(world):
    space = world.space()
    world.client.map(space, HVA, PAGE, gpa=MIB)
    provoked = import_refused(world, export(world.client, space), bindings=[bind(0, MIB, HVA)])
    provoked.names = [hex(MIB)]
    return provoked


@provokes("EXPORT_CORRUPT")
def export_corrupt(world):
    return import_refused(world, export(world.client, world.space())[:-1])
