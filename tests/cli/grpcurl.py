#!/usr/bin/env python3
"""Stands in for grpcurl, which Debian 12 does not have: the part of it that our documents and
examples use. Knows the server's messages by reflection alone.

    grpcurl [-plaintext] [-unix] [-format-error] [-d JSON|@] ADDRESS list [SERVICE]
    grpcurl … ADDRESS describe SYMBOL
    grpcurl … ADDRESS SERVICE/METHOD
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

HERE = os.path.dirname(os.path.abspath(__file__))
PROTOS = os.path.join(os.path.dirname(HERE), "contract", "protos")
# What a refused call's exit code counts from.
REFUSED = 64


def reflection():
    """The messages of reflection itself."""
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "set")
        subprocess.run(["protoc", f"-I{PROTOS}", f"--descriptor_set_out={made}",
                        "reflection.proto"], check=True)
        with open(made, "rb") as file:
            files = descriptor_pb2.FileDescriptorSet.FromString(file.read()).file
    pool = descriptor_pool.DescriptorPool()
    for each in files:
        pool.Add(each)
    return [message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName(
        f"grpc.reflection.v1alpha.ServerReflection{kind}")) for kind in ("Request", "Response")]


class Server:
    """What a server says of itself."""

    def __init__(self, channel):
        self._channel = channel
        self._request, self._response = reflection()
        self.pool = descriptor_pool.DescriptorPool()
        self._known = set()
        self.factory = message_factory.MessageFactory(self.pool)

    def _ask(self, **fields):
        call = self._channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=self._response.FromString)
        answer = next(call(iter([self._request(**fields)]), timeout=20))
        if answer.HasField("error_response"):
            sys.exit(f"Failed to resolve symbol: {answer.error_response.error_message}")
        return answer

    def services(self):
        """Their names."""
        return sorted(s.name for s in self._ask(list_services="").list_services_response.service)

    def learn(self, **what):
        """Takes in the files that say what a symbol is."""
        for data in self._ask(**what).file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            if file.name in self._known:
                continue
            self._known.add(file.name)
            for name in file.dependency:
                self.learn(file_by_filename=name)
            self.pool.Add(file)


def documents(text):
    """The JSON values that follow each other."""
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield value
        rest = rest[end:].strip()


def invoke(options, channel, server, name):
    """Calls a method, and prints each answer."""
    service, _, method = name.rpartition("/")
    server.learn(file_containing_symbol=service)
    server.learn(file_containing_symbol="iovad.v1.ErrorDetail")
    server.learn(file_containing_symbol="google.rpc.Status")
    found = server.pool.FindServiceByName(service).methods_by_name[method]
    request, response = (server.factory.GetPrototype(kind)
                         for kind in (found.input_type, found.output_type))
    data = sys.stdin.read() if options.d == "@" else options.d
    messages = [json_format.ParseDict(value, request(), descriptor_pool=server.pool)
                for value in documents(data)] or [request()]
    call = channel.stream_stream(f"/{service}/{method}",
                                 request_serializer=lambda message: message.SerializeToString(),
                                 response_deserializer=response.FromString)
    try:
        for answer in call(iter(messages), timeout=20):
            print(json_format.MessageToJson(answer, descriptor_pool=server.pool), flush=True)
        return 0
    except grpc.RpcError as error:
        code = error.code().value[0]
        status = server.factory.GetPrototype(server.pool.FindMessageTypeByName(
            "google.rpc.Status"))(code=code, message=error.details())
        rich = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        if rich:
            status.ParseFromString(rich)
        text = json_format.MessageToJson(status, descriptor_pool=server.pool)
        if not options.format_error:
            text = f"ERROR:\n  Code: {error.code().name}\n  Message: {error.details()}"
        print(text, file=sys.stderr)
        return REFUSED + code


def main():
    """The program."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("-plaintext", "-unix", "-format-error"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-d", default="")
    parser.add_argument("address")
    parser.add_argument("symbol", nargs="+")
    options = parser.parse_args()
    if not options.plaintext:
        sys.exit("the server speaks no TLS: -plaintext")
    with grpc.insecure_channel(("unix:" if options.unix else "") + options.address) as channel:
        server = Server(channel)
        verb, symbols = options.symbol[0], options.symbol[1:]
        if verb == "list" and not symbols:
            print("\n".join(server.services()))
            return 0
        if verb not in ("list", "describe"):
            return invoke(options, channel, server, verb)
        server.learn(file_containing_symbol=symbols[0])
        if verb == "list":
            service = server.pool.FindServiceByName(symbols[0])
            print("\n".join(sorted(method.full_name for method in service.methods)))
        else:
            print(f"{symbols[0]} is known")
        return 0


if __name__ == "__main__":
    sys.exit(main())
