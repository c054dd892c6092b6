#!/usr/bin/env bash
# Installs what building and testing iovad need on Debian 12. Safe to run again:
# when everything is there it says nothing, uses no network and takes no time.
#
# usage: setup.sh
# Needs root, or sudo.
set -euo pipefail

packages=(
  # compilers and tools
  g++ clang clang-tidy clang-format libclang-rt-14-dev lld
  cmake ninja-build ccache pkg-config git jq
  # libraries
  libabsl-dev libfmt-dev libspdlog-dev libcli11-dev nlohmann-json3-dev libssl-dev
  liblmdb-dev libsystemd-dev
  libgrpc-dev libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  # tests and benchmarks
  libgtest-dev libgmock-dev valgrind
  python3 python3-grpcio python3-grpc-tools python3-pytest
  # tests with a real QEMU
  qemu-system-x86 qemu-system-common seabios ovmf
  # tests with a real kernel in a virtual machine
  busybox-static iproute2 cpio xz-utils make gcc binutils libelf1
  systemd
)

# Prints the packages that are not installed.
missing_packages() {
  local installed
  # dpkg-query fails when any name is unknown to it; the list is what counts.
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null ||
    true)
  local package
  for package in "${packages[@]}"; do
    grep -qxF "$package installed" <<<"$installed" || echo "$package"
  done
}

if ! command -v dpkg-query >/dev/null; then
  echo "setup.sh: this script knows Debian's packages only; README.md lists what iovad needs" >&2
  exit 1
fi

mapfile -t missing < <(missing_packages)
[[ ${#missing[@]} -eq 0 ]] && exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "setup.sh: run as root, or install sudo; missing: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "setup.sh: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

mapfile -t missing < <(missing_packages)
if [[ ${#missing[@]} -ne 0 ]]; then
  echo "setup.sh: still missing: ${missing[*]}" >&2
  exit 1
fi
echo "setup.sh: done"
