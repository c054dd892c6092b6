"""A process that owns a device, and lives through every crash of the server.

Its device has a table by the kernel's rules (relay_peer.py). After each crash it comes
back with that table and says where it stands; now and then it comes with nothing, as one
would that was started anew. It never waits for long before it applies, or tells; what
others did not have to take before it, it refuses now and then.
"""

import random
import threading
import time

import grpc

from daemon import wait_until
from relay_peer import LIVE, RelayPeer, attachment_of, table_of


class Relay:
    """One device, on one space."""

    def __init__(self, space, device, seed):
        self.space, self.device = space, device
        self.resumed = self.replayed = self.refused = 0
        self.random = random.Random(seed)
        self._revision = 0  # that it saw last
        self._peer = None
        self._thread = None
        self._error = None

    def attach(self, client):
        """Says hello, and returns when the attachment is LIVE: False when the server has gone
        before."""
        table, standing = {}, {}
        if self._peer is not None:
            self._peer.close()
            if self.random.random() < 0.9:
                table, standing = dict(self._peer.table), self._peer.standing()
        self._error = None
        self._peer = RelayPeer(client, space=self.space, device=self.device, table=table)
        for name, value in standing.items():
            setattr(self._peer, name, value)
        self._peer.hello(**standing)
        self._thread = threading.Thread(target=self._serve, args=(self._peer,), daemon=True)
        self._thread.start()

        def is_live():
            if self._error is not None:
                raise self._error
            if not self._thread.is_alive():
                return "gone"
            try:
                attachment = attachment_of(client, self.space, self.device)
            except grpc.RpcError:
                return "gone"
            return attachment is not None and attachment.state == LIVE

        if wait_until(is_live, f"the relay of {self.space} is LIVE") == "gone":
            return False
        return True

    def _serve(self, peer):
        first = True
        try:
            while True:
                batch = peer.batch()
                if first and peer.applied_seq == 0 and not batch.reset:
                    raise AssertionError("a table that nobody knows is not reset")
                self.replayed += batch.reset
                self.resumed += first and not batch.reset
                # Each revision once; a whole table may be that of the last one.
                if batch.revision < self._revision + (not batch.reset):
                    raise AssertionError(f"revision {batch.revision} after {self._revision}")
                self._pause()
                if not first and not batch.reset and self.random.random() < 0.03:
                    self.refused += 1
                    peer.refuse(batch)
                    continue
                first = False
                peer.take(batch)
                self._revision = batch.revision
                self._pause()
                peer.send(ack=dict(batch_seq=batch.seq))
        except grpc.RpcError:
            pass
        except Exception as error:  # pylint: disable=broad-except
            self._error = error

    def _pause(self):
        """Long enough, now and then, for the server to be killed meanwhile."""
        if self.random.random() < 0.1:
            time.sleep(self.random.uniform(0, 0.005))

    def join(self):
        """After the server has gone."""
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def check(self, mappings):
        """Its device has exactly the space's mappings."""
        if self._error is not None:
            raise self._error
        expected = table_of(mappings)
        assert self._peer.table == expected, \
            f"device {self.device}: {self._peer.table} instead of {expected}"
