"""Fixtures: a running iovad for each file, and a client of it."""

import os
import sys

import pytest

# The iovad process is started and ended as in the contract tests.
sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                             "contract"))
pytest.register_assert_rewrite("daemon", "harness", "restarting", "vm")

# pylint: disable=wrong-import-position
from daemon import Daemon  # noqa: E402
from harness import Client  # noqa: E402


@pytest.fixture(scope="module")
def server():
    """The file's iovad. It has to end cleanly after the last test. Spaces whose owner is
    gone are removed after a second."""
    with Daemon("--owner-grace", "1") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def client(server):
    """A client of the file's iovad."""
    with Client(server.target) as connected:
        yield connected.wait_ready()
