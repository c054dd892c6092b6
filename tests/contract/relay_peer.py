"""A relay's peer: the process that owns a device, as far as iovad can tell.

    with RelayPeer(client, device="net0", space="vm1") as peer:
        peer.attach()                        # hello, and the first batch applied
        running = client.future("Map", ...)
        batch = peer.batch()                 # the parts put together
        peer.apply(batch)                    # acknowledges
        assert running.result() ...

`peer.table` is what its device maps: {iova: Entry}, kept by the kernel's rules.
"""

import os
import queue
import threading
from collections import namedtuple

import grpc

from daemon import scaled, wait_until
from harness import Refusal
from stubs import relay_pb2 as relay
from stubs import relay_pb2_grpc
from stubs import types_pb2 as types

CLIENT_HVA = relay.UADDR_MODE_CLIENT_HVA
REGISTERED = relay.UADDR_MODE_REGISTERED
UPDATE = relay.IOTLB_UPDATE_TYPE_UPDATE
LIVE = types.ATTACHMENT_STATE_LIVE
DISCONNECTED = types.ATTACHMENT_STATE_DISCONNECTED
INVALIDATE = relay.IOTLB_UPDATE_TYPE_INVALIDATE

Entry = namedtuple("Entry", "size uaddr memory_id offset access")
Batch = namedtuple("Batch", "seq epoch space_uid revision reset updates parts")

# More than any time limit of a test's server allows between two messages.
_HEARTBEAT = 0.1


class RelayPeer:
    """One stream. Sends heartbeats by itself unless `silent`."""

    def __init__(self, client, silent=False, table=None, **hello):
        self.hello_fields = dict(uaddr_mode=CLIENT_HVA, pid=os.getpid(), entry_budget=2048)
        self.hello_fields.update(hello)
        self.table = {} if table is None else table
        self.memories = {}  # id -> RelayMemory
        self.gone = []
        self.epoch, self.space_uid, self.applied_seq = "", "", 0
        self.responses = []  # all but heartbeats
        self._requests = queue.Queue()
        self._silent = threading.Event()
        if silent:
            self._silent.set()
        self._closed = threading.Event()
        self._client = client
        stub = relay_pb2_grpc.RelayServiceStub(client.channel)
        self.call = stub.Attach(iter(self._requests.get, None), timeout=scaled(60))
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._said_hello = threading.Event()
        self._beats.start()

    def _beat(self):
        self._said_hello.wait()
        while not self._closed.wait(_HEARTBEAT):
            if not self._silent.is_set():
                self.send(heartbeat={})

    def fall_silent(self):
        """No heartbeats from now on."""
        self._silent.set()

    def send(self, **message):
        """Sends one message."""
        self._requests.put(relay.AttachRequest(**message))

    def hello(self, **fields):
        """Says hello."""
        self.hello_fields.update(fields)
        self.send(hello=self.hello_fields)
        self._said_hello.set()

    def next(self):
        """The next message that is no heartbeat."""
        while True:
            message = next(self.call)
            if message.WhichOneof("message") != "heartbeat":
                self.responses.append(message)
                return message

    def heartbeat(self):
        """Waits for the server's next heartbeat, with nothing before it."""
        message = next(self.call)
        assert message.WhichOneof("message") == "heartbeat", message

    def batch(self):
        """The next batch, its parts put together. What is said of memory is kept."""
        updates, parts, first = [], 0, None
        while True:
            message = self.next()
            kind = message.WhichOneof("message")
            if kind == "memory":
                assert first is None, "memory in the middle of a batch"
                self.memories[message.memory.memory_id] = message.memory
            elif kind == "memory_gone":
                self.gone.append(message.memory_gone.memory_id)
            else:
                part = message.batch
                first = first or part
                assert (part.batch_seq, part.epoch, part.space_uid, part.revision, part.reset) == \
                    (first.batch_seq, first.epoch, first.space_uid, first.revision, first.reset)
                updates += part.updates
                parts += 1
                if not part.more:
                    return Batch(first.batch_seq, first.epoch, first.space_uid, first.revision,
                                 first.reset, updates, parts)

    def take(self, batch):
        """Does what the batch says, and does not tell."""
        if batch.reset:
            self.table.clear()
        for update in batch.updates:
            first, last = update.iova, update.iova + update.size - 1
            assert update.asid == self.hello_fields.get("asid", 0)
            if update.type == INVALIDATE:
                assert not batch.reset
                assert self.table.pop(first).size == update.size, f"not one entry: {update}"
                continue
            assert update.type == UPDATE
            for other, entry in self.table.items():
                assert other > last or other + entry.size - 1 < first, f"{update} meets {other:#x}"
            self.table[first] = Entry(update.size, update.uaddr, update.memory_id, update.offset,
                                      update.access)
        self.epoch, self.space_uid, self.applied_seq = batch.epoch, batch.space_uid, batch.seq

    def apply(self, batch=None):
        """Takes a batch (the next one) and acknowledges it."""
        batch = batch or self.batch()
        self.take(batch)
        self.send(ack=dict(batch_seq=batch.seq))
        return batch

    def refuse(self, batch, os_errno=14, reverted=True, failed_index=0, **fields):
        """Acknowledges a batch as refused."""
        self.send(ack=dict(batch_seq=batch.seq, os_errno=os_errno, reverted=reverted,
                           failed_index=failed_index, **fields))

    def attach(self, **fields):
        """Says hello and applies the first batch, which it returns when the attachment is
        LIVE."""
        self.hello(**fields)
        first = self.apply()
        self.wait_live()
        return first

    def wait_live(self):
        """Returns the attachment when it is LIVE."""
        def live():
            found = attachment_of(self._client, self.hello_fields["space"],
                                  self.hello_fields["device"], self.hello_fields.get("asid", 0))
            return found if found is not None and found.state == LIVE else None

        return wait_until(live, "the attachment is LIVE")

    def serve(self, count):
        """Applies `count` batches and returns them."""
        return [self.apply() for _ in range(count)]

    def refusal(self):
        """What ends the stream, which has to be an error of the server's."""
        return Refusal.from_rpc(self.end())

    def end(self):
        """How the stream ends: the error, or None when all is well."""
        try:
            for message in self.call:
                assert message.WhichOneof("message") == "heartbeat", message
        except grpc.RpcError as error:
            return error
        finally:
            self.close()
        return None

    def standing(self):
        """Of hello: where this peer stands."""
        return dict(epoch=self.epoch, space_uid=self.space_uid, applied_seq=self.applied_seq)

    def close(self):
        """Breaks the stream, unless it has ended."""
        self._closed.set()
        self._said_hello.set()
        self.call.cancel()
        self._requests.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def table_of(mappings):
    """The table that a space's mappings make at the client's own addresses."""
    return {m.iova: Entry(m.size, m.hva, 0, 0, m.access) for m in mappings}


def attachment_of(client, space, device, asid=0):
    """The Attachment, or None."""
    for attachment in client.space(space).attachments:
        if (attachment.device, attachment.asid) == (device, asid):
            return attachment
    return None
