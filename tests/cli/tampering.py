"""A server between iovactl and iovad that changes answers: what a wrong iovad would
say."""

import os
import tempfile
from concurrent import futures

import grpc
from stubs import address_space_pb2


class Tampering(grpc.GenericRpcHandler):
    """Passes every call on, bytes for bytes, but for one method, whose answer goes
    through `change` (which is given the message and how often it was called before)."""

    def __init__(self, target, method, change):
        self._upstream = grpc.insecure_channel(target)
        self._method = "/iovad.v1.AddressSpaceService/" + method
        self._answer_type = getattr(address_space_pb2, method + "Response")
        self._change = change
        self._calls = 0
        self.changed = False
        # A socket's path is short.
        self.socket_path = os.path.join(tempfile.mkdtemp(prefix="iovad-"), "wrong.sock")
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port("unix:" + self.socket_path)

    def service(self, handler_call_details):
        method = handler_call_details.method

        def call(request, context):
            try:
                answer = self._upstream.unary_unary(method)(request)
            except grpc.RpcError as error:
                context.set_trailing_metadata(error.trailing_metadata())
                context.abort(error.code(), error.details())
            return self._changed(answer) if method == self._method else answer

        return grpc.unary_unary_rpc_method_handler(call)

    def _changed(self, answer):
        message = self._answer_type.FromString(answer)
        self._change(message, self._calls)
        self._calls += 1
        changed = message.SerializeToString()
        self.changed = self.changed or message != self._answer_type.FromString(answer)
        return changed

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *unused):
        self._server.stop(None).wait()
        self._upstream.close()
        os.rmdir(os.path.dirname(self.socket_path))
