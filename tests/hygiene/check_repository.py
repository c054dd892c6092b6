#!/usr/bin/env python3
"""Checks what no compiler checks: which folder may include which, and that no
file depends on the machine it was written on.

usage: check_repository.py ROOT
Prints one line an offence (path:line: what is wrong) and exits 1 if there is any.
"""

import os
import re
import subprocess
import sys

# What files in a folder must not include. Dependencies point one way: the core
# stands alone, proto is generated, server and client use both, tests use all.
FORBIDDEN_INCLUDES = {
    "core/": re.compile(r"^(server|client|tests|iovad)/|^(grpc|grpcpp|google/protobuf)/|\.pb\.h$"),
    "client/": re.compile(r"^(server|tests)/"),
    "server/": re.compile(r"^(client|tests)/"),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')

# Absolute paths that exist on somebody's machine only.
PRIVATE_PATH = re.compile(r"(?<![\w.$}/-])/(work|root|home|Users)/[\w.-]+")

SOURCE = re.compile(r"\.(h|cc|c|inc)$")


def offences_in(path, text):
    """Yields (line number, what is wrong) for one file."""
    rule = next((r for prefix, r in FORBIDDEN_INCLUDES.items() if path.startswith(prefix)), None)
    for number, line in enumerate(text.splitlines(), 1):
        if rule and SOURCE.search(path):
            include = INCLUDE.match(line)
            if include and rule.search(include.group(1)):
                yield number, f"{path.split('/')[0]} must not include {include.group(1)}"
        private = PRIVATE_PATH.search(line)
        if private:
            yield number, f"private path {private.group(0)}"


def tracked_files(root):
    """Paths that git tracks; without a repository (a source tarball), all but build folders."""
    if os.path.exists(os.path.join(root, ".git")):
        # Whoever owns the tree, reading it is harmless.
        listing = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", root, "ls-files", "-z"],
            check=True, capture_output=True, text=True).stdout
        return [path for path in listing.split("\0") if path]
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in ("build", ".git", "__pycache__")]
        found += [os.path.relpath(os.path.join(folder, f), root) for f in files]
    return found


def check(root):
    """Returns the offences of the whole tree as lines of text."""
    offences = []
    for path in sorted(tracked_files(root)):
        try:
            with open(os.path.join(root, path), encoding="utf-8") as file:
                text = file.read()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # binary, or deleted and not committed yet
        offences += [f"{path}:{number}: {what}" for number, what in offences_in(path, text)]
    return offences


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    offences = check(sys.argv[1])
    print("\n".join(offences) if offences else "nothing found")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
