"""A watcher that follows a space through every crash, and keeps a table of its own by it."""

import threading

import grpc

from daemon import wait_until
from harness import Refusal
from state import Disagreement


class Follower:
    """Watches one space, whichever one has the name."""

    def __init__(self, name):
        self.name = name
        self.table = {}
        self.attached = set()
        self.revision = 0
        self.resumed = 0
        self._uid = ""
        self._call = self._thread = self._error = None

    def start(self, client):
        """Goes on after the last revision that it has; from the beginning where the space is
        another one now."""
        uid = client.space(self.name).uid
        if uid != self._uid:
            self._uid, self.revision, self.table, self.attached = uid, 0, {}, set()
        start = 0 if self.revision == 0 else self.revision + 1
        self.resumed += start != 0
        self._error = None
        self._call = client.Watch(space=self.name, space_uid=uid, start_revision=start, timeout=600)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        snapshot = self.revision == 0
        partial = False
        try:
            for message in self._call:
                kinds = {e.WhichOneof("event") for e in message.events}
                # States are no revisions of their own.
                if kinds - {"attachment_state"} and not snapshot and not partial:
                    if message.revision != self.revision + 1:
                        raise Disagreement(f"{self.name}: revision {message.revision} after "
                                           f"{self.revision}")
                for event in message.events:
                    self._take(event)
                partial = message.more
                if snapshot:
                    snapshot = not message.snapshot_end
                if not snapshot and not partial:
                    self.revision = max(self.revision, message.revision)
        except grpc.RpcError as error:
            deleted = (error.code() == grpc.StatusCode.NOT_FOUND
                       and Refusal.from_rpc(error).reason == "SPACE_NOT_FOUND")
            # What came of a revision in parts is not there: the whole comes again.
            if (partial or snapshot) and not deleted:
                self._error = Disagreement(f"{self.name}: cut off inside a revision")
        except Exception as error:  # pylint: disable=broad-except
            self._error = error

    def _take(self, event):
        kind = event.WhichOneof("event")
        if kind == "mapped":
            self.table[event.mapped.mapping_id] = event.mapped
        elif kind == "unmapped":
            del self.table[event.unmapped.mapping_id]
        elif kind == "attached":
            self.attached.add(event.attached.device)
        elif kind == "detached":
            self.attached.remove(event.detached.device)

    def join(self):
        """After the server has gone."""
        if self._thread is None:
            return
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def check(self, space):
        """That it came to what the space has."""
        wait_until(lambda: self._error or self.revision >= space.revision,
                   f"the watcher of {self.name} is at revision {space.revision}")
        if self._error is not None:
            raise self._error
        holdings = space.holdings()
        if self.table != holdings.mappings or self.attached != holdings.attachments.keys():
            raise Disagreement(f"{self.name}: the watcher has another table, or "
                               f"{self.attached} instead of {set(holdings.attachments)}")
