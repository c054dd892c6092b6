"""A client of iovad for tests: short calls, errors taken apart, states compared.

    client.Map(space="a", mapping=spec(HVA, PAGE, gpa=0))    # any RPC, by its name
    client.map("a", HVA, PAGE, gpa=0)                        # the frequent ones, shorter
    refused("GPA_OVERLAP", client.map, "a", HVA, PAGE, gpa=0)
    with unchanged(client, "a"): ...
"""

import contextlib

import grpc
import pytest

import stubs
from daemon import scaled, wait_until
from stubs import types_pb2 as types

PAGE = 0x1000
MIB = 1 << 20
GIB = 1 << 30
TOP = (1 << 64) - 1
# Where the tests' pretended client has its memory.
HVA = 0x7F0000000000

READ = types.ACCESS_READ_ONLY
WRITE = types.ACCESS_WRITE_ONLY
READ_WRITE = types.ACCESS_READ_WRITE
GUEST = types.MAPPING_KIND_GUEST
HOST = types.MAPPING_KIND_HOST
FIRST_FIT = types.PLACEMENT_FIRST_FIT
IDENTITY = types.PLACEMENT_IDENTITY
CONGRUENT = types.PLACEMENT_CONGRUENT

# A reason's block of a hundred -> the status code that goes with it.
_CODES = {
    1: grpc.StatusCode.INVALID_ARGUMENT, 2: grpc.StatusCode.NOT_FOUND,
    3: grpc.StatusCode.ALREADY_EXISTS, 4: grpc.StatusCode.OUT_OF_RANGE,
    5: grpc.StatusCode.RESOURCE_EXHAUSTED, 6: grpc.StatusCode.FAILED_PRECONDITION,
    7: grpc.StatusCode.ABORTED, 8: grpc.StatusCode.UNAVAILABLE,
    9: grpc.StatusCode.PERMISSION_DENIED, 10: grpc.StatusCode.INTERNAL,
    11: grpc.StatusCode.DATA_LOSS,
}


def spec(hva, size, access=READ_WRITE, **fields):
    """A MappingSpec."""
    return types.MappingSpec(hva=hva, size=size, access=access, **fields)


def span(first, last):
    """The range with both ends."""
    return types.Range(first=first, last=last)


def extent(first, size):
    """The range of `size` bytes from `first`."""
    return span(first, first + size - 1)


def ranges(*pairs):
    """A RangeSet; ranges() is the empty one."""
    return types.RangeSet(ranges=[span(*pair) for pair in pairs])


def code_of(reason):
    """The status code that the error table gives a reason (named without REASON_)."""
    if reason == "NO_IDENTITY":
        return grpc.StatusCode.UNAUTHENTICATED
    return _CODES[types.Reason.Value("REASON_" + reason) // 100]


class Refusal:
    """An error answer, taken apart and checked for its form."""

    def __init__(self, status):
        assert len(status.details) == 1, f"not one detail: {status}"
        self.detail = types.ErrorDetail()
        assert status.details[0].Unpack(self.detail), f"not an ErrorDetail: {status}"
        self.reason = types.Reason.Name(self.detail.reason)[len("REASON_"):]
        self.message = status.message
        assert self.message, f"no message with {self.reason}"
        assert status.code == code_of(self.reason).value[0], \
            f"{self.reason} came with code {status.code}: {self.message}"

    @classmethod
    def from_rpc(cls, error):
        """From what a failed call raised."""
        trailer = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        assert trailer is not None, f"an error without details: {error.code()} {error.details()}"
        status = stubs.status_pb2.Status.FromString(trailer)
        assert status.code == error.code().value[0] and status.message == error.details(), \
            f"the details disagree with the status: {status} against {error}"
        return cls(status)

    def __repr__(self):
        return f"Refusal({self.reason}: {self.message})"


def refused(reason, call, *args, **fields):
    """Makes a call that has to be refused for `reason`. Returns the Refusal."""
    with pytest.raises(grpc.RpcError) as raised:
        call(*args, **fields)
    refusal = Refusal.from_rpc(raised.value)
    assert refusal.reason == reason, f"expected {reason}, got {refusal}"
    return refusal


class Client:
    """A channel to iovad. Every RPC is a method of its own name, taking the request's fields."""

    def __init__(self, target, **options):
        self.channel = grpc.insecure_channel(target, options=[
            # Answers of any size come through: that they are bounded is for the
            # server to see to. Each client has its own connection.
            ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1), *options.items()])
        self._rpcs = {}
        for module, stub_module in ((stubs.address_space_pb2, stubs.address_space_pb2_grpc),
                                    (stubs.device_pb2, stubs.device_pb2_grpc),
                                    (stubs.debug_pb2, stubs.debug_pb2_grpc)):
            for name, service in module.DESCRIPTOR.services_by_name.items():
                stub = getattr(stub_module, name + "Stub")(self.channel)
                for method in service.methods:
                    self._rpcs[method.name] = (
                        getattr(stub, method.name), getattr(module, method.input_type.name),
                        f"/{service.full_name}/{method.name}")
        self.health = stubs.health_pb2_grpc.HealthStub(self.channel)

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def rpcs(self):
        """The names of all RPCs."""
        return list(self._rpcs)

    def __getattr__(self, rpc):
        if rpc not in self._rpcs:
            raise AttributeError(rpc)
        multi_callable, request_class, _ = self._rpcs[rpc]

        def call(request=None, timeout=30, **fields):
            return multi_callable(request_class(**fields) if request is None else request,
                                  timeout=scaled(timeout))

        return call

    def request(self, rpc, **fields):
        """A request message, not sent."""
        return self._rpcs[rpc][1](**fields)

    def future(self, rpc, timeout=60, **fields):
        """Sends a request and returns a future of its answer."""
        multi_callable, request_class, _ = self._rpcs[rpc]
        return multi_callable.future(request_class(**fields), timeout=scaled(timeout))

    def raw(self, rpc, **fields):
        """The answer's bytes as they came."""
        _, request_class, path = self._rpcs[rpc]
        call = self.channel.unary_unary(path, request_serializer=request_class.SerializeToString)
        return call(request_class(**fields), timeout=scaled(30))

    def raw_stream(self, rpc, timeout=60, **fields):
        """A stream of answers' bytes as they come."""
        _, request_class, path = self._rpcs[rpc]
        call = self.channel.unary_stream(path, request_serializer=request_class.SerializeToString)
        return call(request_class(**fields), timeout=scaled(timeout))

    def health_status(self, service=""):
        """What health says of a service: SERVING or NOT_SERVING."""
        answer = self.health.Check(stubs.health_pb2.HealthCheckRequest(service=service),
                                   wait_for_ready=True, timeout=scaled(30))
        return stubs.health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def wait_ready(self):
        """Returns the client when health says SERVING."""
        assert self.health_status() == "SERVING"
        return self

    def wait_until_draining(self):
        """Returns when new requests are turned away, which is a little after health says so."""
        def turned_away():
            try:
                self.GetServerInfo()
            except grpc.RpcError as error:
                return Refusal.from_rpc(error).reason == "DRAINING"
            return False

        wait_until(turned_away, "the server turns requests away")

    # The frequent calls, shorter.

    def map(self, space, hva, size, access=READ_WRITE, **fields):
        """Maps; returns the Mapping."""
        return self.Map(space=space, mapping=spec(hva, size, access, **fields)).mapping

    def unmap(self, space, **target):
        """Unmaps; returns the UnmapResult."""
        return self.Unmap(space=space, target=target).result

    def update(self, space, *ops, **fields):
        """One batch. Each op is a MappingSpec, or a dict for an UnmapTarget."""
        return self.Update(space=space, ops=make_ops(ops), **fields)

    def translate(self, space, size=1, access=types.ACCESS_UNSPECIFIED, **address):
        """One query; returns its Translation."""
        answer = self.Translate(space=space, queries=[dict(size=size, access=access, **address)])
        assert len(answer.translations) == 1
        return answer.translations[0]

    def space(self, name):
        """The Space as it is."""
        return self.GetSpace(space=name).space

    def mappings(self, space, page_size=0, **fields):
        """All mappings, through all pages, which have to agree on the revision."""
        mappings, token, revisions = [], "", set()
        while True:
            page = self.ListMappings(space=space, page_size=page_size, page_token=token, **fields)
            mappings += page.mappings
            revisions.add(page.revision)
            assert len(revisions) == 1, f"pages of different revisions: {revisions}"
            token = page.next_page_token
            if not token:
                return mappings


def make_ops(ops):
    """Op messages from MappingSpecs and, for unmaps, dicts."""
    return [dict(unmap=op) if isinstance(op, dict) else dict(map=op) for op in ops]


def state_of(client, space):
    """Everything that a refused request must leave as it was."""
    return (client.space(space), client.mappings(space), client.ListSVQs(space=space))


@contextlib.contextmanager
def unchanged(client, *spaces):
    """Checks that what happens inside leaves the spaces as they were."""
    before = [state_of(client, space) for space in spaces]
    yield
    after = [state_of(client, space) for space in spaces]
    assert after == before


def bounds(mapping):
    """(first, last) of a mapping's IOVA."""
    return mapping.iova, mapping.iova + mapping.size - 1
