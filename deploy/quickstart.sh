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
    sleep 0.1
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

heading 'a simulated device, and the memory of a real virtual machine booting OVMF and Linux'
iovactl device open sim0 --simulated
iovactl replay "$trace" --verify --keep --space vm1 --device sim0

heading 'the space'
iovactl dump vm1

heading 'an alias: the VGA memory is one piece of host memory at two guest-physical addresses'
iovactl resolve vm1 gpa:0xa0000

heading 'translations: by GPA, by IOVA, across mappings, by HVA'
iovactl translate vm1 gpa:0x1000 iova:0x200000 gpa:0x9f000+8K hva:0x7f4f32c00000

heading 'may the device write to the BIOS? (exit code 1 says no)'
if iovactl translate vm1 gpa:0xc0000 --access wo; then exit 1; fi

heading 'what the device was told'
iovactl device log sim0 --last 4
iovactl device get sim0

finished=1
cat <<END

quickstart PASSED: the replay was verified, every answer was as expected.
To go on, keep a daemon of your own and ask iovactl --help:
  build/release/bin/iovad --socket /tmp/iovad.sock --ephemeral &
  IOVAD_SOCKET=/tmp/iovad.sock build/release/bin/iovactl --help
END
