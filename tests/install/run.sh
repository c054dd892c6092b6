#!/usr/bin/env bash
# Installs a build into a temporary prefix, then configures, builds and runs the
# program in consumer/ with nothing but that prefix to find iovad by.
#
# usage: run.sh BUILD_DIR CXX_COMPILER
set -euo pipefail

build=$1
compiler=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/iovad-install.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix

cmake --install "$build" --prefix "$prefix" >"$scratch/install.log" || {
  cat "$scratch/install.log"
  exit 1
}

for file in bin/iovad bin/iovactl share/iovad/proto/iovad/v1/address_space.proto \
  include/iovad/core/types.h include/iovad/iovad/v1/address_space.grpc.pb.h; do
  test -e "$prefix/$file" || { echo "not installed: $file" && exit 1; }
done
"$prefix/bin/iovad" --version

cmake -S "$here/consumer" -B "$scratch/build" -G Ninja \
  -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$compiler"
cmake --build "$scratch/build"
"$scratch/build/consumer"
