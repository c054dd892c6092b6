"""A space that is imported over a device, and deleted, again and again.

An import takes several steps, each of them stored. Nobody may find a part of one after
the server's death: the space is whole, or there is none, and none of it on the device.
"""

import threading

import grpc

from driver import GONE, MEMORY_SIZE
from harness import Refusal
from indexes import check_indexes
from migrating import KEEP, bind, export, header, import_
from state import HVA, MEMORY, PAGE, Disagreement, find

SPACE = "imported"
DEVICE = "sim-i"
MAPPINGS = 400
# Each has half of its place.
PLACE = 2 * PAGE


class Importer:
    """The space, and the thread that makes it and deletes it."""

    def __init__(self, ram):
        self.ram = ram
        self.imports = self.acknowledged = self.refused = self.in_flight = 0
        self._exists = False
        self._uid = ""
        self._pending = None  # (what to call, the request's id)
        self._sequence = 0
        self._records = None
        self._thread = None
        self._stop = threading.Event()
        self._error = None

    def prepare(self, client):
        """Makes what is imported."""
        client.CreateSpace(space="model", labels={"kind": "model"})
        for i in range(MAPPINGS):
            client.map("model", HVA + i * PLACE, PAGE, gpa=i * PLACE)
        client.AllocSVQ(space="model", queues=[dict(queue_index=i, queue_size=16)
                                               for i in range(2)])
        self._records = export(client, "model")
        client.DeleteSpace(space="model", force=True)

    # ---- Changing

    def start(self, client):
        """Goes on until the server is gone."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(client,), daemon=True)
        self._thread.start()

    def join(self):
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "an import never ends"
        if self._error is not None:
            raise self._error

    def _run(self, client):
        try:
            while not self._stop.is_set():
                self._sequence += 1
                self._pending = (self._delete if self._exists else self._import,
                                 f"importer-{self._sequence}")
                if not self._send(client):
                    return
        except Exception as error:  # pylint: disable=broad-except
            self._error = error

    def _send(self, client):
        """Sends what is pending, again perhaps. False when the server is gone."""
        call, request_id = self._pending
        try:
            call(client, request_id)
        except grpc.RpcError as error:
            if error.code() in GONE:
                return False
            raise Disagreement(f"{SPACE}: refused: {Refusal.from_rpc(error)}") from error
        self._pending = None
        self.acknowledged += 1
        return True

    def _import(self, client, request_id):
        result = import_(client, header(
            SPACE, request_id=request_id, placement=KEEP, attachments=[dict(device=DEVICE)],
            bindings=[bind(0, MAPPINGS * PLACE, HVA)],
            memories=[dict(hva=MEMORY, size=MEMORY_SIZE, path=self.ram)]), self._records)
        if result.space.uid == self._uid:
            raise Disagreement(f"{SPACE}: a uid came twice")
        self.imports += 1
        self._uid = result.space.uid
        self._exists = True

    def _delete(self, client, request_id):
        client.DeleteSpace(space=SPACE, force=True, request_id=request_id)
        self._exists = False

    # ---- Checking

    def check(self, client):
        """After a restart."""
        found = find(client, SPACE)
        may_be = {self._exists} if self._pending is None else {True, False}
        if (found is not None) not in may_be:
            raise Disagreement(f"{SPACE}: {'there' if found else 'gone'}")
        if found is not None:
            self._check_whole(client, found)
            if self._exists and found.space.uid != self._uid:
                raise Disagreement(f"{SPACE}: it is another one")
        elif client.GetDevice(device=DEVICE).device.attachments:
            raise Disagreement(f"{SPACE}: its device is attached still")
        if self._pending is None:
            return
        self.in_flight += 1
        imported = self._pending[0] == self._import
        if not self._send(client):
            raise Disagreement(f"{SPACE}: the server went away again")
        if imported and found is not None and found.space.uid != self._uid:
            raise Disagreement(f"{SPACE}: it was imported twice")
        now = find(client, SPACE)
        if (now is not None) != self._exists:
            raise Disagreement(f"{SPACE}: repeated in vain")
        if now is not None:
            self._check_whole(client, now)

    def _check_whole(self, client, found):
        guests = sorted((m.gpa, m.hva, m.size) for m in found.holdings.mappings.values()
                        if m.HasField("gpa"))
        expected = [(i * PLACE, HVA + i * PLACE, PAGE) for i in range(MAPPINGS)]
        if guests != expected:
            raise Disagreement(f"{SPACE}: {len(guests)} mappings, or others")
        shape = (sorted(s.queue_index for s in found.holdings.svqs.values()),
                 [m[1] for m in found.holdings.memories.values()], found.holdings.labels,
                 set(found.holdings.attachments))
        if shape != ([0, 1], [MEMORY], {"kind": "model"}, {DEVICE}):
            raise Disagreement(f"{SPACE}: it has {shape}")
        check_indexes(client, found)
