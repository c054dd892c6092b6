"""What a Python client of iovad begins with: every RPC by its name, and errors taken apart.

    server = Iovad("/run/iovad/iovad.sock")
    server.CreateSpace(space="vm1", labels={"tenant": "blue"})
    for change in server.Watch(space="vm1"): ...

Needs what make_stubs.sh makes, on PYTHONPATH.
"""

import grpc
from google.rpc import status_pb2
from iovad.v1 import (address_space_pb2, address_space_pb2_grpc, device_pb2, device_pb2_grpc,
                      migration_pb2, migration_pb2_grpc, types_pb2)


class Refused(Exception):
    """Why there is no answer, for people. `reason` is what to branch on: "NAME_TAKEN", …; it is
    empty when the server has said nothing, as when it is `away`."""

    def __init__(self, message, reason="", away=False):
        super().__init__(message)
        self.reason, self.away = reason, away

    @classmethod
    def by(cls, error):
        """From what gRPC raises."""
        reason = ""
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                detail = types_pb2.ErrorDetail()
                status_pb2.Status.FromString(value).details[0].Unpack(detail)
                reason = types_pb2.Reason.Name(detail.reason)[len("REASON_"):]
        return cls(error.details(), reason, error.code() == grpc.StatusCode.UNAVAILABLE)


class Stream:
    """The answers of a call that has many. It may be cancelled from another thread."""

    def __init__(self, call):
        self._call, self.cancel = call, call.cancel

    def __iter__(self):
        try:
            yield from self._call
        except grpc.RpcError as error:
            raise Refused.by(error) from error


class Iovad:
    """A server. Calls take the fields of their request; those that stream requests, the requests.
    Where there is no server, calls with one answer wait for it, up to `patience` seconds."""

    def __init__(self, socket, patience=30):
        channel = grpc.insecure_channel("unix:" + socket)
        self._patience, self._rpcs = patience, {}
        for messages, stubs in ((address_space_pb2, address_space_pb2_grpc),
                                (device_pb2, device_pb2_grpc),
                                (migration_pb2, migration_pb2_grpc)):
            for name, service in messages.DESCRIPTOR.services_by_name.items():
                stub = getattr(stubs, name + "Stub")(channel)
                for method in service.methods:
                    self._rpcs[method.name] = (getattr(stub, method.name),
                                               getattr(messages, method.input_type.name))

    def __getattr__(self, name):
        if name not in self._rpcs:
            raise AttributeError(name)
        rpc, request = self._rpcs[name]

        def call(requests=None, **fields):
            if requests is not None:
                return Stream(rpc(iter(requests)))
            if not isinstance(rpc, grpc.UnaryUnaryMultiCallable):
                return Stream(rpc(request(**fields)))
            try:
                return rpc(request(**fields), timeout=self._patience, wait_for_ready=True)
            except grpc.RpcError as error:
                raise Refused.by(error) from error

        return call
