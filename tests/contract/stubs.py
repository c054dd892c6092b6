"""Python messages and stubs, generated from the repository's .proto files.

They go into a temporary folder at import and leave with the process: what is
tested is always what the .proto files say now. `iovad.v1` and `google.rpc` are
imported as any client would; for the services of gRPC itself, whose packages
would hide behind the installed `grpc` package, that package's path is extended.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile

import grpc

HERE = os.path.dirname(os.path.abspath(__file__))
PROTO_ROOT = os.path.join(os.path.dirname(os.path.dirname(HERE)), "proto")


def _generate(into):
    plugin = shutil.which("grpc_python_plugin")
    assert plugin, "grpc_python_plugin is missing (Debian: protobuf-compiler-grpc)"
    common = ["protoc", f"--plugin=protoc-gen-grpc_python={plugin}",
              f"--python_out={into}", f"--grpc_python_out={into}"]
    own = [os.path.relpath(os.path.join(folder, name), PROTO_ROOT)
           for folder, _, names in os.walk(PROTO_ROOT) for name in names
           if name.endswith(".proto")]
    subprocess.run([*common, f"-I{PROTO_ROOT}", *sorted(own)], check=True)
    subprocess.run([*common, f"-I{HERE}/protos", "reflection.proto", "channelz.proto"], check=True)


STUB_ROOT = tempfile.mkdtemp(prefix="iovad-stubs-")
atexit.register(shutil.rmtree, STUB_ROOT, ignore_errors=True)
_generate(STUB_ROOT)
sys.path.insert(0, STUB_ROOT)
grpc.__path__.append(os.path.join(STUB_ROOT, "grpc"))

# pylint: disable=wrong-import-position
import channelz_pb2  # noqa: E402
import channelz_pb2_grpc  # noqa: E402
import reflection_pb2  # noqa: E402
import reflection_pb2_grpc  # noqa: E402
from google.rpc import status_pb2  # noqa: E402
from grpc.health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from iovad.v1 import (address_space_pb2, address_space_pb2_grpc, debug_pb2,  # noqa: E402
                      debug_pb2_grpc, device_pb2, device_pb2_grpc, migration_pb2,
                      migration_pb2_grpc, relay_pb2, relay_pb2_grpc, types_pb2)

__all__ = ["address_space_pb2", "address_space_pb2_grpc", "channelz_pb2", "channelz_pb2_grpc",
           "debug_pb2", "debug_pb2_grpc", "device_pb2", "device_pb2_grpc", "health_pb2",
           "health_pb2_grpc", "migration_pb2", "migration_pb2_grpc", "reflection_pb2",
           "reflection_pb2_grpc", "relay_pb2", "relay_pb2_grpc", "status_pb2", "types_pb2"]
