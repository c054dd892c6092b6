#!/bin/sh
# Makes the Python code of the API from its .proto files, into a folder for PYTHONPATH.
#
# usage: make_stubs.sh FOLDER
# Debian 12: protobuf-compiler, protobuf-compiler-grpc, python3-grpcio. Not with
# grpc_tools: python3-grpc-tools there is 1.14, which knows no optional fields.
set -eu
out=${1:?usage: make_stubs.sh FOLDER}
cd "$(dirname "$0")/../../proto"
mkdir -p "$out"
protoc --plugin=protoc-gen-grpc_python="$(command -v grpc_python_plugin)" -I. \
  --python_out="$out" --grpc_python_out="$out" iovad/v1/*.proto google/rpc/*.proto
