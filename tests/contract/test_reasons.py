"""The error table: every reason that can arise, and that it changes nothing.

Code, status and detail are taken apart and compared with the table by
harness.Refusal; here each reason is provoked once.
"""

import pytest

from daemon import Daemon
from harness import refused, unchanged
from provocations import PROVOKE, World
from stubs import types_pb2 as types

# What does not arise here, and why.
NOT_HERE = {
    "NOT_OWNER": "from the kernel alone (tests/kernel)",
    "ROLE_REQUIRED": "there are no roles",
    "STORE_CORRUPT": "a server does not start on such a store (tests/unit/core)",
}
# Those that say nothing about the space: they come before it is looked for, or are about
# what all spaces share.
NAMELESS = {"DRAINING", "STORE_FULL"}
# Those for which the space has a change under way that ends in the meantime, that
# disconnect a device, or that meet a server which is about to end: nothing to compare
# with.
MOVING = {"OVERLOADED", "REQUEST_IN_FLIGHT", "ACK_TIMEOUT", "MEMLOCK_LIMIT", "DRAINING"}


@pytest.fixture
def world(client):
    """The file's server; and servers of the test's own, ended with it."""
    started, worlds = [], []

    def start(*arguments, **options):
        started.append(Daemon(*arguments, **options).start())
        return started[-1]

    class Tracked(World):
        """Closes its channels with the test."""

        def elsewhere(self, *arguments, **options):
            other = super().elsewhere(*arguments, **options)
            worlds.append(other)
            return other

    yield Tracked(client, start)
    for other in worlds:
        other.client.close()
    for daemon in started:
        daemon.stop()


@pytest.mark.parametrize("reason", PROVOKE)
def test_reason(world, client, reason):
    provoked = PROVOKE[reason](world)
    there = provoked.client or client
    about_space = provoked.space and reason not in NAMELESS
    names = [*provoked.names, *([provoked.space] if about_space else [])]
    compared = [space.name for space in there.ListSpaces().spaces if space.name == provoked.space] \
        if reason not in MOVING else []
    with unchanged(there, *compared):
        refusal = refused(reason, provoked)
    for name in names:
        assert name in refusal.message, f"{name!r} is not named: {refusal}"


def test_the_table_is_whole():
    """A reason that is new in the .proto files has to come into one of the lists."""
    reasons = {name[len("REASON_"):] for name in types.Reason.keys()} - {"UNSPECIFIED"}
    assert PROVOKE.keys() | NOT_HERE.keys() == reasons
    assert not PROVOKE.keys() & NOT_HERE.keys()
