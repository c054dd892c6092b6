"""Reading the Watch streams of a space and of all spaces, and what the server counts of them."""

import contextlib

import grpc

from daemon import scaled
from harness import Client
from stubs import address_space_pb2 as api


class Watcher:
    """A Watch call. Every wait ends with the call's deadline at the latest."""

    def __init__(self, client, space, **fields):
        self._call = client.Watch(space=space, timeout=60, **fields)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._call.cancel()

    def next(self):
        """The next response."""
        return next(self._call)

    def snapshot(self):
        """The events of the snapshot and its revision."""
        events, revisions = [], set()
        while True:
            response = self.next()
            revisions.add(response.revision)
            assert len(revisions) == 1, "a snapshot of several revisions"
            events += response.events
            assert response.more != response.snapshot_end
            if response.snapshot_end:
                return events, response.revision

    def change(self):
        """The events of the next revision, all of its responses put together, and the
        revision. Progress is passed over."""
        events = []
        while True:
            response = self.next()
            assert not response.snapshot_end
            events += response.events
            if events and not response.more:
                return events, response.revision

    def until(self, revision):
        """[(events, revision)] of the changes up to `revision`."""
        changes = []
        while not changes or changes[-1][1] < revision:
            changes.append(self.change())
        return changes

    def rest(self):
        """What came before the stream was cut off."""
        events = []
        try:
            for response in self._call:
                events += response.events
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return events

    def error(self):
        """What ends the stream; whatever comes before is dropped."""
        for _ in self._call:
            pass
        raise AssertionError("the stream ended without an error")


class Crowd:
    """Many Watch calls of one space over a few connections, read one after the other, as
    bytes."""

    def __init__(self, target, space, count, connections=10, **fields):
        self._open = contextlib.ExitStack()
        clients = [self._open.enter_context(Client(target)) for _ in range(connections)]
        self._calls = [clients[n % connections].raw_stream("Watch", space=space, timeout=120,
                                                           **fields) for n in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for call in self._calls:
            call.cancel()
        self._open.close()

    def take(self, count):
        """The next `count` responses, which are the same bytes for everyone."""
        taken = [[next(call) for _ in range(count)] for call in self._calls]
        assert all(responses == taken[0] for responses in taken)
        return [api.WatchResponse.FromString(response) for response in taken[0]]


def counted(client, name="(all spaces)"):
    """What the server counts of the watchers of a space, or of those of all spaces."""
    table = client.Stats().text.split("\nwatched ")[1].splitlines()
    row, = [line.removeprefix(name).split() for line in table if line.startswith(name + " ")]
    return dict(zip(("watchers", "serialised", "sent", "too slow"), map(int, row)))


def kinds(events):
    """What sorts of events they are, in order."""
    return [event.WhichOneof("event") for event in events]


class SpacesWatcher:
    """A WatchSpaces call."""

    def __init__(self, client):
        self._call = client.WatchSpaces(timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._call.cancel()

    def snapshot(self):
        """The names of the spaces that there are."""
        names = []
        while True:
            response = next(self._call)
            if response.WhichOneof("event") == "snapshot_end":
                return names
            assert response.WhichOneof("event") == "created"
            names.append(response.created.name)

    def next(self):
        """(kind, Space) of the next event."""
        response = next(self._call)
        kind = response.WhichOneof("event")
        assert kind in ("created", "changed", "deleted")
        return kind, getattr(response, kind)

    def next_of(self, name):
        """(kind, Space) of the next event of this space."""
        while True:
            kind, space = self.next()
            if space.name == name:
                return kind, space


def seconds(count):
    """A Duration message's fields for `count` seconds on an ordinary machine."""
    nanos = int(scaled(count) * 1_000_000_000)
    return dict(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)
