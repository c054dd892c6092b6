"""Fixtures: a running iovad for each file, a client, and spaces and devices with
names of their own, so that the tests of a file do not meet."""

import itertools

import pytest

pytest.register_assert_rewrite("daemon", "device_table", "fd_socket", "harness", "migrating",
                              "migrating_guest", "owner_process", "relay_guest", "relay_peer",
                              "restarting", "service_manager", "watching")

# pylint: disable=wrong-import-position
from daemon import Daemon  # noqa: E402
from harness import FIRST_FIT, Client, ranges  # noqa: E402
from migrating_guest import make_guest  # noqa: E402
from stubs import types_pb2 as types  # noqa: E402

_numbers = itertools.count(1)


def fresh_name(stem):
    """A name that nothing else in this run has."""
    return f"{stem}-{next(_numbers)}"


@pytest.fixture(scope="module")
def server():
    """The file's iovad. It has to end cleanly after the last test."""
    with Daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def client(server):
    """A client of the file's iovad."""
    with Client(server.target) as connected:
        yield connected.wait_ready()


@pytest.fixture
def make_space(client):
    """Creates a space and returns its name. Unless told otherwise it is first-fit and
    reserves nothing, so that tests can foretell every address."""

    def make(name="space", **fields):
        fields.setdefault("placement", FIRST_FIT)
        fields.setdefault("reserved", ranges())
        name = fresh_name(name)
        client.CreateSpace(space=name, **fields)
        return name

    return make


@pytest.fixture
def space(make_space):
    """An empty space."""
    return make_space()


@pytest.fixture
def guest(client, make_space):
    """A space with all that there is to carry to another host."""
    return make_guest(client, make_space)


@pytest.fixture
def make_device(client):
    """Opens a simulated device and returns its name. `faults` are dicts."""

    def make(name="device", **fields):
        name = fresh_name(name)
        client.OpenDevice(device=name, simulated=fields)
        return name

    return make


@pytest.fixture
def device(make_device):
    """A simulated device without faults."""
    return make_device()


@pytest.fixture
def attach(client):
    """Attaches a device to a space and returns the Attachment."""

    def do(space, device, asid=0, **fields):
        answer = client.AttachDevice(space=space, device=device, asid=asid, **fields)
        found = [a for a in answer.space.attachments if (a.device, a.asid) == (device, asid)]
        assert len(found) == 1
        assert found[0].state == types.ATTACHMENT_STATE_LIVE
        return found[0]

    return do
