#!/usr/bin/env bash
# Runs clang-tidy on every source of our own that a build knows.
#
# usage: tests/tidy.sh BUILD_DIR [JOBS]
#
# BUILD_DIR holds compile_commands.json and the generated code. A file that was
# clean and whose preprocessed text, command and checks are the same is not
# looked at again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=$(cd "$1" && pwd)
jobs=${2:-$(nproc)}
root=$PWD
cache=$build/tidy
mkdir -p "$cache"

checks=$(clang-tidy --version | sha256sum - .clang-tidy)

# Prints nothing and succeeds when the file is clean.
tidy_one() {
  local file=$1 preprocess=$2 directory=$3 key report
  key=$(cd "$directory" && { echo "$checks $preprocess" && eval "$preprocess"; } | sha256sum)
  key=$cache/${key%% *}
  [[ -e $key ]] && return 0
  if report=$(clang-tidy -p "$build" --quiet "$file" 2>&1); then
    touch "$key"
  else
    printf '%s\n' "$report" | grep -v 'warnings generated\|warnings treated as errors'
    return 1
  fi
}
export -f tidy_one
export build cache checks

# Each compilation once, with its command turned into one that only preprocesses.
# Comments stay in: NOLINT is one. Where files are compiled several at a time
# (IOVAD_UNITY), they are looked at so, too: most of the time goes into headers.
jq -r --arg own "^($root|$build)/(core|server|client|tests)/" '
  [.[] | select((.file | test($own)) and (.file | test("[.](cc|cxx|c)$")) and
                (.file | test("cmake_pch|readme_example") | not))]
  | unique_by(.file)[]
  | .file, (.command | sub(" -o \\S+"; "") | sub(" -c "; " -E -C -P ")), .directory
' "$build/compile_commands.json" | tr '\n' '\0' |
  xargs -0 -n 3 -P "$jobs" bash -c 'tidy_one "$@"' _ || {
  echo "clang-tidy: not clean"
  exit 1
}
echo "clang-tidy: clean"
