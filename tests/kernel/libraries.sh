#!/usr/bin/env bash
# Prints the shared libraries that programs need, the loader included: one path a
# line, each once, with the links in its folder resolved (/usr/lib/..., not
# /lib/...). Files that are no programs need none.
#
# usage: libraries.sh FILE...
set -euo pipefail

for file in "$@"; do
  ldd "$file" 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*' || true
done | sort -u | while read -r library; do
  echo "$(realpath "$(dirname "$library")")/$(basename "$library")"
done | sort -u
