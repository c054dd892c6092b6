#!/usr/bin/env python3
"""The code blocks of a Markdown file.

usage: code_block.py LANGUAGE MARKDOWN OUTPUT
Writes the first block of LANGUAGE to OUTPUT.
"""

import re
import sys

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code_blocks(text, language):
    """The contents of all blocks of one language, in order."""
    return [match.group(2) for match in _BLOCK.finditer(text) if match.group(1) == language]


def main():
    language, markdown, output = sys.argv[1:]
    with open(markdown, encoding="utf-8") as file:
        blocks = code_blocks(file.read(), language)
    if not blocks:
        print(f"{markdown} has no block of {language}", file=sys.stderr)
        return 1
    with open(output, "w", encoding="utf-8") as file:
        file.write(blocks[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
