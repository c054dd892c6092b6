"""A client of one space that is cut off at any moment, and knows what must be there.

Each driver has a space to itself and sends one request at a time, each with an id of
its own. What was acknowledged is in its model. The one request that may be under way
when the server dies is repeated afterwards: what the space held before the repeat must
be the model without it or with all of it, and the repeat must agree with that.
"""

import random
import threading

import grpc

from harness import Refusal, spec

PAGE = 4096
HVA = 0x7f0000000000
QUEUES = 0x7e0000000000
SLOTS = 64
# More mappings than this are not kept.
MANY = 200


class Disagreement(AssertionError):
    """What the server has is not what was acknowledged."""


def _key(mapping):
    return mapping.SerializeToString(deterministic=True)


class Driver:
    """One space, its model and the thread that changes it."""

    def __init__(self, name, seed, devices=(), relay=None):
        self.name = name
        self.random = random.Random(seed)
        self.devices = devices
        self.relay = relay  # a Relay that owns a device on the space
        self.relay_began = False
        self.created = False
        self.mappings = {}  # id → Mapping
        self.svqs = {}
        self.revision = 0
        self.pending = None
        self.answered = []  # (rpc, fields, answer) of the last requests
        self.acknowledged = 0
        self.repeated = 0
        self._sequence = 0
        self._thread = None
        self._stop = threading.Event()
        self._error = None

    # ---- Changing

    def start(self, client):
        """Changes the space in a thread of its own until the server is gone."""
        self._stop.clear()
        self._error = None
        self._thread = threading.Thread(target=self._run, args=(client,), daemon=True)
        self._thread.start()

    def join(self):
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), f"{self.name}: a request never ends"
        if self._error is not None:
            raise self._error

    def _run(self, client):
        try:
            while not self._stop.is_set():
                if self.created and self.relay is not None and not self.relay_began:
                    if not self.attach(client):
                        return
                rpc, fields = self._next_request()
                self._sequence += 1
                self.pending = (rpc, dict(fields, space=self.name,
                                          request_id=f"{self.name}-{self._sequence}"))
                if not self._send(client):
                    return
        except Exception as error:  # pylint: disable=broad-except
            self._error = error

    def attach(self, client):
        """The relay comes (back). False when the server is gone."""
        if not self.relay.attach(client):
            return False
        if not self.relay_began:
            # Which took a revision, and nothing else did.
            try:
                self.revision = client.space(self.name).revision
            except grpc.RpcError:
                return False
            self.relay_began = True
        return True

    def _send(self, client):
        """False when the server is gone, and the request with it."""
        rpc, fields = self.pending
        try:
            answer = getattr(client, rpc)(timeout=20, **fields)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED,
                                grpc.StatusCode.UNKNOWN):
                return False
            refusal = Refusal.from_rpc(error)
            raise Disagreement(f"{self.name}: {rpc} {fields} was refused: {refusal}") from error
        self._apply(rpc, fields, answer)
        self.answered = self.answered[-20:] + [(rpc, fields, answer)]
        self.pending = None
        self.acknowledged += 1
        return True

    def _next_request(self):
        if not self.created:
            attachments = [dict(device=d, asid=0) for d in self.devices]
            return "CreateSpace", dict(attachments=attachments)
        r = self.random
        choice = r.random()
        if len(self.mappings) > MANY:
            victims = r.sample(self._guests(), MANY // 2)
            return "Update", dict(ops=[dict(unmap=dict(at_gpa=m.gpa)) for m in victims])
        if choice < 0.35:
            return "Map", dict(mapping=self._new_mapping(self._free_gpas(1)[0]))
        if choice < 0.55 and self._guests():
            victim = r.choice(self._guests())
            return "Unmap", dict(target=dict(at_gpa=victim.gpa))
        if choice < 0.85:
            ops = [dict(unmap=dict(at_gpa=m.gpa))
                   for m in r.sample(self._guests(), min(len(self._guests()), r.randrange(6)))]
            ops += [dict(map=self._new_mapping(g)) for g in self._free_gpas(r.randrange(1, 8))]
            return "Update", dict(ops=ops)
        if len(self.svqs) < 3:
            queue = dict(queue_index=len(self.svqs), queue_size=64, format="RING_FORMAT_SPLIT")
            if self.relay is not None:
                # Its device reaches the client's memory only.
                queue["driver_hva"] = QUEUES + self._sequence * 16 * PAGE
                queue["device_hva"] = queue["driver_hva"] + 8 * PAGE
            return "AllocSVQ", dict(queues=[queue])
        return "FreeSVQ", dict(svq_ids=[r.choice(sorted(self.svqs))])

    def _guests(self):
        return [m for m in self.mappings.values() if m.HasField("gpa")]

    def _free_gpas(self, count):
        taken = {m.gpa for m in self._guests()}
        free = [g for g in range(0, (SLOTS + count + len(taken)) * 16 * PAGE, 16 * PAGE)
                if g not in taken]
        return self.random.sample(free, count)

    def _new_mapping(self, gpa):
        r = self.random
        # Few HVAs: many aliases.
        return spec(HVA + r.randrange(32) * PAGE, r.randrange(1, 17) * PAGE, gpa=gpa,
                    label=r.choice(["", "ram", "rom"]))

    def _apply(self, rpc, fields, answer):
        if rpc == "CreateSpace":
            self.created = True
            self.revision = answer.space.revision
            return
        if answer.revision < self.revision:
            raise Disagreement(f"{self.name}: revision {answer.revision} after {self.revision}")
        self.revision = answer.revision
        added, removed = [], []
        if rpc == "Map":
            added = [answer.mapping]
        elif rpc == "Unmap":
            removed = answer.result.removed
        elif rpc == "Update":
            for result in answer.results:
                if result.HasField("mapped"):
                    added.append(result.mapped)
                else:
                    removed += result.unmapped.removed
        elif rpc == "AllocSVQ":
            for svq in answer.svqs:
                self.svqs[svq.svq_id] = svq
                added += svq.mappings
        elif rpc == "FreeSVQ":
            removed = answer.result.removed
            for svq_id in fields["svq_ids"]:
                del self.svqs[svq_id]
        for m in removed:
            if _key(self.mappings.pop(m.mapping_id)) != _key(m):
                raise Disagreement(f"{self.name}: removed {m}, which was another")
        for m in added:
            if m.mapping_id in self.mappings:
                raise Disagreement(f"{self.name}: mapping id {m.mapping_id} was given out twice")
            self.mappings[m.mapping_id] = m

    # ---- Checking

    def check(self, client):
        """After a restart: everything acknowledged is there, and nothing by halves."""
        found = self._found(client)
        for rpc, fields, answer in self.random.sample(self.answered, min(3, len(self.answered))):
            if getattr(client, rpc)(**fields) != answer:
                raise Disagreement(f"{self.name}: another answer to {fields['request_id']}")
        if self.pending is None:
            self._compare(found, "what was acknowledged")
            return
        before = (self._state(), self.revision)
        # As a client would: the same request again.
        if not self._send(client):
            raise Disagreement(f"{self.name}: the server went away again")
        self.repeated += 1
        after = self._state()
        if found is not None and found[1] == self.revision:
            expected = (after, self.revision)
        else:
            expected = before
        if self.revision == 1 and found is None:
            expected = None
        if found != expected:
            raise Disagreement(f"{self.name}: a request under way is there by halves:\n"
                               f"found {found}\nbefore {before}\nafter {after}")
        self._compare(self._found(client), "what was acknowledged by a repeat")

    def _state(self):
        return (sorted(_key(m) for m in self.mappings.values()),
                sorted(_key(s) for s in self.svqs.values()))

    def _found(self, client):
        """((mappings, queues), revision), or None where there is no space."""
        try:
            mappings = client.mappings(self.name)
        except grpc.RpcError as error:
            if Refusal.from_rpc(error).reason == "SPACE_NOT_FOUND":
                return None
            raise
        svqs = client.ListSVQs(space=self.name)
        return ((sorted(_key(m) for m in mappings), sorted(_key(s) for s in svqs.svqs)),
                svqs.revision)

    def _compare(self, found, what):
        if not self.created:
            if found is not None:
                raise Disagreement(f"{self.name}: a space that nobody asked for")
            return
        if found != (self._state(), self.revision):
            raise Disagreement(f"{self.name}: not {what}: revision {found and found[1]} instead of "
                               f"{self.revision}, {found and len(found[0][0])} mappings instead of "
                               f"{len(self.mappings)}")


class Follower:
    """Watches a space through every crash, and keeps a table of its own by it."""

    def __init__(self, name):
        self.name = name
        self.table = {}
        self.revision = 0
        self.resumed = 0
        self._thread = None
        self._error = None
        self._call = None

    def start(self, client):
        """Goes on after the last revision that it has."""
        start = 0 if self.revision == 0 else self.revision + 1
        self.resumed += start != 0
        self._error = None
        self._call = client.Watch(space=self.name, start_revision=start, timeout=600)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        snapshot = self.revision == 0
        partial = False
        try:
            for message in self._call:
                if not snapshot and message.events and not partial:
                    if message.revision != self.revision + 1:
                        raise Disagreement(f"{self.name}: revision {message.revision} after "
                                           f"{self.revision}")
                for event in message.events:
                    if event.HasField("mapped"):
                        self.table[event.mapped.mapping_id] = event.mapped
                    elif event.HasField("unmapped"):
                        del self.table[event.unmapped.mapping_id]
                partial = message.more
                if snapshot:
                    snapshot = not message.snapshot_end
                if not snapshot and not partial:
                    self.revision = max(self.revision, message.revision)
        except grpc.RpcError:
            # What came of a revision in parts is not there: the whole comes again.
            if partial or snapshot:
                self._error = Disagreement(f"{self.name}: cut off inside a revision")
        except Exception as error:  # pylint: disable=broad-except
            self._error = error

    def join(self):
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def check(self, driver, wait_until):
        """That it came to what the driver has."""
        wait_until(lambda: self._error or self.revision >= driver.revision,
                   f"the watcher of {self.name} is at revision {driver.revision}")
        if self._error is not None:
            raise self._error
        if sorted(map(_key, self.table.values())) != driver._state()[0]:
            raise Disagreement(f"{self.name}: the watcher's table is another")
