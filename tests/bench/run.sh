#!/usr/bin/env bash
# Runs the benchmarks of a release build, prints one table with what each figure
# must reach, and writes everything as JSON.
#
# usage: tests/bench/run.sh [--smoke] [--json FILE]
#   --smoke       small sizes and no verdict: that the benchmarks run, not how
#                 fast
#   --json FILE   default: build/release/bench.json
#
# Close everything else first: the figures are ratios within one run, but a busy
# machine still spoils them. Exit status 1 when a figure misses its target.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

smoke=()
json=build/release/bench.json
while (($#)); do
  case $1 in
    --smoke) smoke=(--smoke) ;;
    --json) json=$2; shift ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
  esac
  shift
done

if [[ ! -e build/release/build.ninja ]]; then cmake --preset release >/dev/null; fi
cmake --build --preset release --target core_bench rpc_bench mirror_bench store_bench \
  state_bench iovad_qemu_plugin -- --quiet

bin=build/release/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# One core for the whole of a benchmark: no migration in the middle of it.
taskset -c 0 "$bin/core_bench" "${smoke[@]}" --json "$work/core.json"
"$bin/rpc_bench" "${smoke[@]}" --json "$work/rpc.json"
"$bin/mirror_bench" "${smoke[@]}" --json "$work/mirror.json"
taskset -c 0 "$bin/store_bench" "${smoke[@]}" --json "$work/store.json"
"$bin/state_bench" "${smoke[@]}" --json "$work/state.json"
/usr/bin/python3 tests/bench/qemu_start.py "${smoke[@]}" --json "$work/qemu.json"
/usr/bin/python3 tests/bench/table.py "${smoke[@]}" "$work"/{core,rpc,mirror,store,state,qemu}.json \
  "$json"
