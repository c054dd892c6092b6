#!/usr/bin/env python3
"""Checks what libiovad.so shows, and that the header's examples are C.

usage: surface.py LIBRARY HEADER MAP C_COMPILER

 1. The functions that the header declares, that the map names and that the library
    exports are the same, each in the version that the map says; nothing else can be seen.
 2. The header is C99 and C++17, by itself.
 3. Each function has an example in the header, and all examples compile.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

# What the examples take for granted.
PREAMBLE = """
#include <stdio.h>
#include "{header}"
static struct iovad_error error = {{.struct_size = sizeof(error)}};
static struct iovad_client* client;
static struct iovad_space* space;
static struct iovad_mirror* mirror;
static struct iovad_relay* relay;
static uint64_t ram, ram_size, buffer, iova, id, revision;
static int memfd, fd, vdpa_fd;
static struct iovad_svq queues[2];
static const struct iovec* iov;
static const uint64_t* gpas;
static size_t iov_count;
static struct iovad_segment segments[8];
static struct iovad_translation result = {{
    .struct_size = sizeof(result), .segments = segments, .capacity = 8}};
static int print_mapping(void* file, const struct iovad_mapping* mapping) {{
  return fprintf(file, "%d\\n", (int)mapping->id) < 0;
}}
static int write_to_device(void* device, const struct iovad_iotlb_message* message) {{
  return device == NULL && message->asid == 0;
}}
"""


def functions_of(header):
    plain = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    return set(re.findall(r"^(?:int|void|const char\*) (iovad_\w+)\(", plain, re.M))


def examples_of(header):
    """The lines of code in each comment, which are set in by three spaces."""
    head, rest = header.split(" */\n", 1)
    for comment in [head.split("Example:")[1], *re.findall(r"^/\*.*?\*/", rest, re.S | re.M)]:
        lines = re.findall(r"^(?:/| )\*   ( *\S.*?)(?: \*/)?$", comment, re.M)
        if lines:
            yield "\n".join(lines)


def compile_source(compiler, source, *flags):
    command = [*compiler, *flags, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", str(source)]
    subprocess.run(command, check=True)


def main(library, header_file, map_file, compiler):
    header = pathlib.Path(header_file).read_text()
    declared = functions_of(header)
    version, named = re.match(r"(\w+\.\d+) \{\s*global:(.*?)local:\s*\*;\s*\};\s*$",
                              pathlib.Path(map_file).read_text(), re.S).groups()
    named = set(re.findall(r"(\w+);", named))
    shown = subprocess.run(["nm", "-D", "--defined-only", library], check=True,
                           capture_output=True, text=True).stdout.split("\n")
    exported = {line.split()[-1] for line in shown if line and line.split()[-2] != "A"}
    assert declared == named, declared ^ named
    assert exported == {f"{name}@@{version}" for name in named}, exported

    examples = list(examples_of(header))
    called = set(re.findall(r"\b(iovad_\w+)\(", "\n".join(examples)))
    assert declared <= called, f"without an example: {sorted(declared - called)}"
    with tempfile.TemporaryDirectory() as folder:
        alone = pathlib.Path(folder, "alone.c")
        alone.write_text(f'#include "{header_file}"\n')
        compile_source([compiler], alone, "-std=c99", "-pedantic")
        compile_source([compiler, "-x", "c++"], alone, "-std=c++17", "-pedantic")
        source = pathlib.Path(folder, "examples.c")
        source.write_text(PREAMBLE.format(header=header_file) + "".join(
            f"void example{i}(void) {{\n{code}\n}}\n" for i, code in enumerate(examples)))
        compile_source([compiler], source, "-std=c99", "-pedantic", "-Wno-unused",
                       "-Wno-missing-field-initializers", "-Wno-unused-parameter")
    print(f"{len(exported)} functions, {len(examples)} examples")


if __name__ == "__main__":
    main(*sys.argv[1:])
