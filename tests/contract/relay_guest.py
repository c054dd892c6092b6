"""A process with a device on a space, which lives through every restart of the server.

    guest = Guest(server)          # a Server of restarting.py
    guest.begin()                  # attached
    guest.map(0)
    server.restart()
    guest.connect()                # with its table, and says where it stands
    guest.nothing_is_sent()        # and lacked nothing
"""

import grpc
import pytest

from harness import HVA, MIB, PAGE
from relay_peer import RelayPeer, attachment_of, table_of
from test_relay import start_map


class Guest:
    """The process, and what its device has seen."""

    def __init__(self, server, space="vm", device="net0", **fields):
        self.server, self.space, self.device, self.fields = server, space, device, fields
        self.peer = None
        self.revisions = []  # of the batches that its device has

    @property
    def client(self):
        """The client of the server that runs now."""
        return self.server.client

    def connect(self, **fields):
        """Says hello, and where it stands."""
        said = dict(table={})
        standing = {}
        if self.peer is not None:
            self.peer.close()
            said["table"] = dict(self.peer.table)
            standing = self.peer.standing()
        self.peer = RelayPeer(self.client, space=self.space, device=self.device, **said)
        if standing:
            self.peer.epoch, self.peer.space_uid, self.peer.applied_seq = standing.values()
        self.peer.hello(**{**standing, **self.fields, **fields})
        return self.peer

    def begin(self):
        """Is attached for the first time."""
        self.connect()
        first = self.apply()
        assert first.reset
        self.peer.wait_live()

    def apply(self, batch=None):
        """Applies and acknowledges a batch, the next one."""
        batch = self.peer.apply(batch)
        self.revisions.append(batch.revision)
        return batch

    def take(self):
        """Applies the next batch and does not tell."""
        batch = self.peer.batch()
        self.peer.take(batch)
        self.revisions.append(batch.revision)
        return batch

    def map(self, gpa, **fields):
        """A Map to its end."""
        running = start_map(self.client, self.space, gpa, **fields)
        self.apply()
        return running.result().mapping

    def unmap(self, gpa):
        """An Unmap to its end."""
        running = self.client.future("Unmap", space=self.space, target=dict(at_gpa=gpa))
        self.apply()
        running.result()

    def nothing_is_sent(self):
        """It has all; the next thing that it gets is the next change."""
        self.peer.wait_live()
        running = start_map(self.client, self.space, 99 * MIB)
        batch = self.apply()
        mapping = running.result().mapping
        assert not batch.reset and [u.iova for u in batch.updates] == [mapping.iova]
        self.check()
        self.unmap(99 * MIB)
        self.check()

    def attachment(self):
        """As the server has it."""
        return attachment_of(self.client, self.space, self.device)

    def check(self):
        """It maps what the space does, and saw each revision once."""
        self.peer.wait_live()
        assert self.peer.table == table_of(self.client.mappings(self.space))
        assert self.revisions == sorted(set(self.revisions))

    def close(self):
        """Breaks off."""
        if self.peer is not None:
            self.peer.close()


def died(server, running):
    """Waits for the end of the server, and of the request that it did not answer."""
    server.daemon.process.wait()
    with pytest.raises(grpc.RpcError):
        running.result()


@pytest.fixture
def guest(server):
    """A guest on a space with two mappings."""
    server.client.CreateSpace(space="vm")
    server.client.map("vm", HVA, PAGE, gpa=0)
    made = Guest(server)
    made.begin()
    made.map(MIB)
    yield made
    made.close()
