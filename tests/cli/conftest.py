"""Fixtures: a running iovad for each file, iovactl for it, and names of their own for
each test's spaces and devices."""

import itertools
import os
import sys

import pytest

# The iovad process is started and ended as in the contract tests.
sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                             "contract"))
pytest.register_assert_rewrite("daemon", "iovactl")

# pylint: disable=wrong-import-position
from daemon import Daemon  # noqa: E402
from iovactl import Iovactl  # noqa: E402

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server():
    """The file's iovad. It has to end cleanly after the last test."""
    with Daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def ctl(server):
    """iovactl, talking to the file's iovad."""
    return Iovactl(server.socket_path)


@pytest.fixture
def fresh():
    """Names that nothing else has."""
    return lambda stem: f"{stem}-{next(_numbers)}"


@pytest.fixture
def space(ctl, fresh):
    """An empty space: first-fit and nothing reserved, so that addresses can be
    foretold."""
    name = fresh("space")
    ctl("space", "create", name, "--placement", "first-fit", "--reserve-nothing")
    return name


@pytest.fixture
def device(ctl, fresh):
    """A simulated device with two address spaces."""
    name = fresh("device")
    ctl("device", "open", name, "--simulated", "--as-num", "2")
    return name
