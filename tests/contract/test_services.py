"""What every gRPC client may ask: health, reflection, channelz."""

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import stubs
from daemon import scaled
from harness import HVA, PAGE
from stubs import channelz_pb2, health_pb2, reflection_pb2

SERVED = ["iovad.v1.AddressSpaceService", "iovad.v1.DeviceService", "iovad.v1.DebugService",
          "iovad.v1.MigrationService", "iovad.v1.RelayService"]
Status = health_pb2.HealthCheckResponse


@pytest.fixture
def ask(client):
    """Asks the reflection service one thing."""
    stub = stubs.reflection_pb2_grpc.ServerReflectionStub(client.channel)

    def do(**question):
        request = reflection_pb2.ServerReflectionRequest(**question)
        answer, = stub.ServerReflectionInfo(iter([request]), timeout=scaled(10))
        return answer

    return do


@pytest.mark.parametrize("service", ["", *SERVED])
def test_health_of_each_service(client, service):
    request = health_pb2.HealthCheckRequest(service=service)
    assert client.health.Check(request, timeout=scaled(10)).status == Status.SERVING
    watch = client.health.Watch(request, timeout=scaled(10))
    assert next(watch).status == Status.SERVING
    watch.cancel()


def test_health_of_an_unknown_service(client):
    request = health_pb2.HealthCheckRequest(service="iovad.v1.NoSuchService")
    with pytest.raises(grpc.RpcError) as raised:
        client.health.Check(request, timeout=scaled(10))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    watch = client.health.Watch(request, timeout=scaled(10))
    assert next(watch).status == Status.SERVICE_UNKNOWN
    watch.cancel()


def test_reflection_lists_every_service(ask):
    listed = [s.name for s in ask(list_services="").list_services_response.service]
    assert set(SERVED) | {"grpc.health.v1.Health", "grpc.channelz.v1.Channelz",
                          "grpc.reflection.v1alpha.ServerReflection"} <= set(listed)


def files(answer):
    """The FileDescriptorProtos of an answer."""
    assert answer.HasField("file_descriptor_response"), answer
    return [descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in answer.file_descriptor_response.file_descriptor_proto]


@pytest.mark.parametrize("module, file", [
    (stubs.address_space_pb2, "iovad/v1/address_space.proto"),
    (stubs.device_pb2, "iovad/v1/device.proto"), (stubs.debug_pb2, "iovad/v1/debug.proto"),
    (stubs.types_pb2, "iovad/v1/types.proto"), (stubs.status_pb2, "google/rpc/status.proto")])
def test_what_is_served_is_what_the_repository_says(ask, module, file):
    served, = [f for f in files(ask(file_by_filename=file)) if f.name == file]
    expected = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(expected)
    for proto in (served, expected):
        proto.ClearField("source_code_info")
        strip_json_names(proto)
    assert served == expected


def strip_json_names(proto):
    """Some libraries spell out what follows from the name."""
    def strip(message):
        for field in message.field:
            field.ClearField("json_name")
        for nested in message.nested_type:
            strip(nested)

    for message in proto.message_type:
        strip(message)


@pytest.mark.parametrize("service", [*SERVED, "grpc.health.v1.Health"])
def test_reflection_describes_every_service(ask, service):
    found = files(ask(file_containing_symbol=service))
    assert service in {f"{f.package}.{s.name}" for f in found for s in f.service}


def test_an_error_can_be_decoded_with_reflection_alone(ask, client, space):
    """As grpcurl does, knowing nothing of iovad."""
    pool = descriptor_pool.DescriptorPool()
    fetched = {}

    def fetch(answer):
        for file in files(answer):
            fetched.setdefault(file.name, file)
            for dependency in file.dependency:
                if dependency not in fetched:
                    fetch(ask(file_by_filename=dependency))

    def add(name):
        for dependency in fetched[name].dependency:
            add(dependency)
        pool.Add(fetched[name])

    fetch(ask(file_containing_symbol="google.rpc.Status"))
    fetch(ask(file_containing_symbol="iovad.v1.ErrorDetail"))
    for name in fetched:
        add(name)
    factory = message_factory.MessageFactory(pool)
    status_class = factory.GetPrototype(pool.FindMessageTypeByName("google.rpc.Status"))

    with pytest.raises(grpc.RpcError) as raised:
        client.map(space, HVA, PAGE + 1, gpa=0)
    trailer = dict(raised.value.trailing_metadata())["grpc-status-details-bin"]
    detail = status_class.FromString(trailer).details[0]
    assert detail.type_url.endswith("/iovad.v1.ErrorDetail")
    error_class = factory.GetPrototype(pool.FindMessageTypeByName(
        detail.type_url.rpartition("/")[2]))
    error = error_class.FromString(detail.value)
    reasons = error_class.DESCRIPTOR.fields_by_name["reason"].enum_type
    assert reasons.values_by_number[error.reason].name == "REASON_UNALIGNED"


def test_reflection_of_what_is_not_there(ask):
    assert ask(file_containing_symbol="iovad.v1.Nothing").HasField("error_response")


def test_channelz(client):
    stub = stubs.channelz_pb2_grpc.ChannelzStub(client.channel)
    before = stub.GetServers(channelz_pb2.GetServersRequest(), timeout=scaled(10))
    assert before.end and before.server
    client.ListSpaces()
    after = stub.GetServers(channelz_pb2.GetServersRequest(), timeout=scaled(10))
    started = [sum(s.data.calls_started for s in answer.server) for answer in (before, after)]
    assert started[1] >= started[0] + 2


def test_an_unknown_method(client):
    call = client.channel.unary_unary("/iovad.v1.AddressSpaceService/NoSuchMethod")
    with pytest.raises(grpc.RpcError) as raised:
        call(b"", timeout=scaled(10))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
