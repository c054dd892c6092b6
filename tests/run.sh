#!/usr/bin/env bash
# Installs what is needed and runs every test, in stages. A failed stage does not
# stop the others; the verdict is that of the last stage, `tests`, which runs the
# release build's tests and, among them, one test for each earlier stage.
#
# usage: tests/run.sh [--quick | --stage NAME | --list | --help]
#   --quick        the release build and its tests only
#   --stage NAME   one stage only
#   --list         the stages' names
#
# Everything is built below build/; ccache makes a second run short. Compilers
# run as many at a time as there are processors (IOVAD_JOBS overrides).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stages=(setup release format asan tidy tsan quickstart bench tests)
jobs=${IOVAD_JOBS:-$(nproc)}
results=build/ci

# configure_and_build PRESET [CMAKE_OPTION]...
configure_and_build() {
  cmake --preset "$@" >"build/$1.configure.log" || {
    cat "build/$1.configure.log"
    return 1
  }
  cmake --build --preset "$1" --parallel "$jobs" -- --quiet
}

# For the sanitizers: random runs are shorter, where each operation takes ten times as
# long. Those that take longest mostly wait, so twice as many run at once.
build_and_test() {
  configure_and_build "$1"
  IOVAD_TEST_OPS=${IOVAD_TEST_OPS:-0.2} ctest --preset "$1" --parallel $((2 * jobs)) --no-tests=error
}

stage_setup() { deploy/setup.sh; }
stage_release() { configure_and_build release -DIOVAD_UNITY=ON; }

# Both compile with clang's -Wthread-safety, and warnings are errors.
stage_asan() { build_and_test asan; }
stage_tsan() { build_and_test tsan; }

stage_format() {
  git ls-files -z -- '*.h' '*.cc' '*.c' '*.inc' | xargs -0 clang-format --dry-run --Werror
}

# Needs the compile commands and the generated code of a build by clang.
stage_tidy() {
  [[ -e build/asan/compile_commands.json ]] || configure_and_build asan
  tests/tidy.sh build/asan "$jobs"
}

stage_quickstart() { deploy/quickstart.sh; }

# That the benchmarks run and agree with each other, not how fast they are.
stage_bench() { tests/bench/run.sh --smoke; }

stage_tests() {
  stage_release
  local configuration=()
  [[ -n ${IOVAD_WITH_STAGES:-} ]] && configuration=(-C "$IOVAD_WITH_STAGES")
  ctest --preset release --parallel "$jobs" --no-tests=error "${configuration[@]}"
}

# Runs one stage in a shell of its own, so that `set -e` holds inside it, and
# notes how it ended.
run_stage() {
  local name=$1 begin=$SECONDS verdict=passed
  printf '\n==== %s\n' "$name"
  mkdir -p "$results"
  "$0" --inner "$name" || verdict=FAILED
  printf '%s\n' "$verdict" >"$results/$name"
  # The tests' own closing lines are the last that a run prints.
  if [[ $name != tests ]]; then
    printf '==== %s %s after %d s\n' "$name" "$verdict" $((SECONDS - begin))
  fi
  [[ $verdict == passed ]]
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

run_all() {
  local name verdict
  rm -rf "$results"
  for name in "$@"; do
    [[ $name == tests ]] || run_stage "$name" || true
  done
  printf '\n==== so far, after %d min\n' $((SECONDS / 60))
  for name in "$@"; do
    [[ $name == tests ]] || printf '%-12s %s\n' "$name" "$(cat "$results/$name")"
  done
  verdict=0
  run_stage tests || verdict=$?
  for name in asan tsan; do
    [[ $(cat "$results/$name" 2>/dev/null) != FAILED ]] || name_failed_tests "$name"
  done
  return "$verdict"
}

# Of a long run the last lines may be all that is kept: they say which tests it was.
name_failed_tests() {
  local failed=build/$1/Testing/Temporary/LastTestsFailed.log
  if [[ -s $failed ]]; then
    echo "failed in stage $1: $(cut -d: -f2- "$failed" | paste -sd' ')"
  else
    echo "stage $1 failed before its tests"
  fi
}

case ${1:-} in
  '')
    export IOVAD_WITH_STAGES=ci
    run_all "${stages[@]}"
    ;;
  --quick)
    run_all setup release tests
    ;;
  --stage)
    [[ " ${stages[*]} " == *" ${2:-} "* ]] || {
      echo "tests/run.sh: no such stage; there are: ${stages[*]}" >&2
      exit 2
    }
    run_stage "$2"
    ;;
  --list)
    printf '%s\n' "${stages[@]}"
    ;;
  --inner)
    "stage_$2"
    ;;
  --verdict) # for the tests named stage/...: how that stage of this run ended
    verdict=$(cat "$results/$2" 2>/dev/null || echo 'did not run')
    echo "$2: $verdict"
    [[ $verdict == passed ]]
    ;;
  --help | -h)
    usage
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac
