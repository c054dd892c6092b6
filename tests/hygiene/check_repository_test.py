#!/usr/bin/env python3
"""The repository check finds what it should and nothing else."""

import unittest

from check_repository import offences_in


def lines_of(path, text):
    return [number for number, _ in offences_in(path, text)]


class OffencesTest(unittest.TestCase):

    def test_core_stands_alone(self):
        for include in ("server/service.h", "client/client.h", "grpcpp/grpcpp.h", "grpc/grpc.h",
                        "google/protobuf/message.h", "iovad/v1/types.pb.h"):
            with self.subTest(include):
                self.assertEqual(lines_of("core/a.h", f'int a;\n#include "{include}"\n'), [2])
                self.assertEqual(lines_of("core/a.cc", f"#  include <{include}>\n"), [1])

    def test_core_may_use_itself_and_abseil(self):
        self.assertEqual(
            lines_of("core/a.cc", '#include <map>\n#include "core/b.h"\n#include "absl/a.h"\n'), [])

    def test_client_knows_no_server(self):
        self.assertEqual(lines_of("client/a.cc", '#include "server/x.h"\n'), [1])
        self.assertEqual(lines_of("client/a.cc", '#include "core/x.h"\n#include <grpcpp/g.h>\n'), [])

    def test_server_knows_no_client(self):
        self.assertEqual(lines_of("server/a.cc", '#include "client/x.h"\n'), [1])

    def test_tests_may_include_all(self):
        self.assertEqual(lines_of("tests/a.cc", '#include "server/x.h"\n#include "client/x.h"\n'), [])

    def test_private_paths(self):
        for private in ("wor" + "k/x", "ro" + "ot/x", "hom" + "e/someone"):
            with self.subTest(private):
                self.assertEqual(lines_of("README.md", f"see /{private}\n"), [1])
                self.assertEqual(lines_of("a.sh", f'cd "/{private}"\n'), [1])

    def test_other_paths(self):
        self.assertEqual(
            lines_of("a.sh", "ls /run/iovad /tmp/x ./wor" "k/x a/ro" "ot/b $d/ro" "ot/x https://x/y\n"),
            [])


if __name__ == "__main__":
    unittest.main()
