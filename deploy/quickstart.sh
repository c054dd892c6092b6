#!/usr/bin/env bash
# From a fresh Debian 12 to a running iovad that is worth looking at: installs
# what is needed, builds, starts the daemon on a private socket with a simulated
# device, replays the memory of a real virtual machine into it, and asks it
# questions. Leaves nothing behind but build/release.
#
# usage: quickstart.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

trace=tests/data/c1_q35_ovmf.sections.jsonl
bin=$PWD/build/release/bin
scratch=$(mktemp -d "${TMPDIR:-/tmp}/iovad-quickstart.XXXXXX")
export IOVAD_SOCKET=$scratch/iovad.sock
daemon=
finished=

clean_up() {
  local status=$?
  if [[ -n $daemon ]]; then
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
  fi
  if [[ -z $finished ]]; then
    [[ -s $scratch/iovad.log ]] && { echo "-- iovad's log:" && tail -20 "$scratch/iovad.log"; } >&2
    echo "quickstart FAILED" >&2
    [[ $status -ne 0 ]] || status=1
  fi
  rm -rf "$scratch"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

heading() { printf '\n== %s\n' "$*"; }

# Runs a command of the session and shows it as one would type it.
iovactl() {
  local shown
  printf -v shown '%q ' iovactl "$@"
  printf '\n$ %s\n' "${shown% }"
  "$bin/iovactl" "$@"
}

# Ready when the socket accepts and a call is answered.
wait_until_ready() {
  local deadline=$((SECONDS + 20))
  until "$bin/iovactl" space ls >/dev/null 2>&1; do
    kill -0 "$daemon" 2>/dev/null || return 1
    ((SECONDS < deadline)) || return 1
    read -rt 0.1 <> <(:) || true
  done
}

heading 'installing what is needed'
deploy/setup.sh

heading 'building (some minutes the first time)'
cmake --preset release >"$scratch/configure.log" || { cat "$scratch/configure.log" && false; }
cmake --build --preset release --target iovad iovactl -- --quiet

heading 'starting iovad on a private socket'
"$bin/iovad" --socket "$IOVAD_SOCKET" --ephemeral >"$scratch/iovad.log" 2>&1 &
daemon=$!
wait_until_ready
"$bin/iovad" --version

heading 'a simulated device, and the memory of a real virtual machine'
iovactl device open sim0 --simulated
iovactl space create vm1 --attach sim0
iovactl replay "$trace" --space vm1 --verify

heading 'what is in the space'
iovactl space get vm1
iovactl dump vm1

heading 'translations: by guest-physical address, by IOVA, and through an alias'
iovactl translate vm1 gpa:0x1000
iovactl translate vm1 gpa:0xc0000000
iovactl translate vm1 gpa:0xa0000

heading 'what the device was told'
iovactl device get sim0
iovactl stats

finished=1
cat <<END

quickstart PASSED: the replay was verified, every command succeeded.
To go on, start a daemon and look around with --help:
  build/release/bin/iovad --socket /tmp/iovad.sock --ephemeral &
  IOVAD_SOCKET=/tmp/iovad.sock build/release/bin/iovactl --help
END
