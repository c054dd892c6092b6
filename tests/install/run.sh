#!/usr/bin/env bash
# Installs a build into a temporary prefix, has systemd look at the units, then
# configures, builds and runs the program in consumer/ with nothing but that prefix to
# find iovad by; the one in c_consumer/ is compiled as strict C99, by pkg-config, and run
# against the installed iovad.
#
# usage: run.sh BUILD_DIR CXX_COMPILER C_COMPILER
set -euo pipefail

build=$1
compiler=$2
c_compiler=$3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/iovad-install.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix

cmake --install "$build" --prefix "$prefix" >"$scratch/install.log" || {
  cat "$scratch/install.log"
  exit 1
}

for file in bin/iovad bin/iovactl share/iovad/proto/iovad/v1/address_space.proto \
  include/iovad/core/types.h include/iovad/iovad/v1/address_space.grpc.pb.h \
  lib/systemd/system/iovad.service lib/systemd/system/iovad-relay@.service \
  lib/sysusers.d/iovad.conf; do
  test -e "$prefix/$file" || { echo "not installed: $file" && exit 1; }
done
test -e "$prefix"/lib*/iovad/libiovad-qemu-plugin.so || { echo "not installed: the plugin" && exit 1; }
"$prefix/bin/iovad" --version

# It says nothing of what it has no complaint about, whatever its status.
if command -v systemd-analyze >/dev/null; then
  complaints=$(systemd-analyze verify --man=no "$prefix"/lib/systemd/system/iovad.service \
    "$prefix"/lib/systemd/system/iovad-relay@vhost-vdpa-0.service 2>&1) || {
    echo "$complaints"
    exit 1
  }
  [[ -z $complaints ]] || { echo "$complaints" && exit 1; }
else
  echo 'UNITS NOT CHECKED: systemd-analyze is not installed'
fi

cmake -S "$here/consumer" -B "$scratch/build" -G Ninja \
  -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$compiler"
cmake --build "$scratch/build"
"$scratch/build/consumer"

PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name iovad.pc)")
export PKG_CONFIG_PATH
read -ra flags < <(pkg-config --cflags --libs iovad)
"$c_compiler" -std=c99 -pedantic -Wall -Wextra -Werror "$here/c_consumer/consumer.c" \
  -o "$scratch/c_consumer" "${flags[@]}"
"$prefix/bin/iovad" --ephemeral --socket "$scratch/iovad.sock" --log-level error &
trap 'kill $!; wait; rm -rf "$scratch"' EXIT
LD_LIBRARY_PATH=$(pkg-config --variable=libdir iovad) "$scratch/c_consumer" "$scratch/iovad.sock"
