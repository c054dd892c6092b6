"""A client that is cut off at any moment, and knows what must be there.

Each driver has its share of a space (state.py), alone or beside others, and sends one
request at a time, each with an id of its own. What was acknowledged is in its holdings.
The one request that may be under way when the server dies is repeated afterwards.
"""

import random
import threading

import grpc

from harness import Refusal, spec
from state import (GPA_SHARE, HVA, HVA_SHARE, MEMORY, PAGE, QUEUE_SHARE, QUEUES, Disagreement,
                   copy_of, memory_key, nothing)

SLOTS = 64
# More mappings than this are not kept.
MANY = 100
MOST_QUEUES = 3
MOST_MEMORIES = 3
MEMORY_SIZE = 64 * PAGE

# Their answers are the server's to remember, not the space's.
SERVER_WIDE = ("CreateSpace", "DeleteSpace")
# How a call ends whose server has gone.
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)


class Driver:
    """One share, and the thread that changes it."""

    def __init__(self, space, number, seed, devices=(), makes_queues_of_its_own=True):
        self.space = space
        self.number = number
        self.name = f"{space.name}/{number}"
        self.random = random.Random(seed)
        # Those that it attaches and detaches.
        self.devices = devices
        self.makes_queues_of_its_own = makes_queues_of_its_own
        self.holdings = nothing()
        self.pending = None
        self.answered = []  # (rpc, fields, answer) of the last requests
        self.acknowledged = self.refused = 0
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
            if not self.space.connect(client):
                return
            while not self._stop.is_set():
                rpc, fields = self._next_request()
                self._sequence += 1
                self.pending = (rpc, dict(fields, request_id=f"{self.name}-{self._sequence}"))
                if not self.send(client):
                    return
        except Exception as error:  # pylint: disable=broad-except
            self._error = error

    def send(self, client):
        """Sends what is pending, again perhaps. False when the server is gone, and the request
        with it. Its revision, if it took one, is the space's to note."""
        rpc, fields = self.pending
        try:
            answer = getattr(client, rpc)(timeout=20, **fields)
        except grpc.RpcError as error:
            if error.code() in GONE:
                return False
            self.pending = None
            self.refused += 1
            return self.space.refused(client, rpc, Refusal.from_rpc(error))
        self.pending = None
        self.acknowledged += 1
        self.answered = self.answered[-20:] + [(rpc, fields, answer)]
        self._apply(rpc, fields, answer)
        return True

    def ask_again(self, client, space_is_there):
        """Requests that were answered before the server died are answered as they were."""
        known = [a for a in self.answered if space_is_there or a[0] in SERVER_WIDE]
        for rpc, fields, answer in self.random.sample(known, min(3, len(known))):
            if getattr(client, rpc)(**fields) != answer:
                raise Disagreement(f"{self.name}: another answer to {fields['request_id']}")

    def begin_anew(self):
        """The space is another one now, or none."""
        self.holdings = nothing()
        # Of what is remembered, the space's own went with it.
        self.answered = [a for a in self.answered if a[0] in SERVER_WIDE]

    # ---- What it asks for

    def _next_request(self):
        if not self.space.exists:
            return "CreateSpace", dict(space=self.space.name,
                                       attachments=[dict(device=d) for d in self.space.devices])
        rpc, fields = self._next_change()
        return rpc, dict(fields, space=self.space.name)

    def _next_change(self):
        r = self.random
        guests = self._guests()
        if len(self.holdings.mappings) > MANY:
            return "Update", dict(ops=[dict(unmap=dict(at_gpa=m.gpa))
                                       for m in r.sample(guests, MANY // 2)])
        choice = r.random()
        if choice < 0.3 or not guests:
            return "Map", dict(mapping=self._new_mapping(self._free_gpas(1)[0]))
        if choice < 0.48:
            return "Unmap", dict(target=dict(at_gpa=r.choice(guests).gpa))
        if choice < 0.75:
            ops = [dict(unmap=dict(at_gpa=m.gpa))
                   for m in r.sample(guests, min(len(guests), r.randrange(6)))]
            ops += [dict(map=self._new_mapping(g)) for g in self._free_gpas(r.randrange(1, 8))]
            return "Update", dict(ops=ops)
        if choice < 0.83:
            return self._change_queues()
        if choice < 0.89:
            return self._change_memory()
        if choice < 0.94:
            return self._change_labels()
        if choice < 0.99 and self.devices:
            device = r.choice(self.devices)
            attached = device in self.holdings.attachments
            return "DetachDevice" if attached else "AttachDevice", dict(device=device)
        if self.space.may_be_deleted:
            return "DeleteSpace", dict(force=True)
        return self._change_labels()

    def _guests(self):
        return [m for m in self.holdings.mappings.values() if m.HasField("gpa")]

    def _free_gpas(self, count):
        taken = {m.gpa for m in self._guests()}
        first = self.number * GPA_SHARE
        slots = range(first, first + (SLOTS + count + len(taken)) * 16 * PAGE, 16 * PAGE)
        return self.random.sample([g for g in slots if g not in taken], count)

    def _new_mapping(self, gpa):
        r = self.random
        pages = r.randrange(1, 17)
        if r.random() < 0.2:  # where memory may be registered
            hva = MEMORY + self.number * HVA_SHARE + r.randrange(MOST_MEMORIES) * MEMORY_SIZE
        else:  # few HVAs, all drivers' together: many aliases
            hva = HVA + r.randrange(32) * PAGE
        return spec(hva, pages * PAGE, gpa=gpa, label=r.choice(["", "ram", "rom"]))

    def _change_queues(self):
        svqs = self.holdings.svqs
        if len(svqs) == MOST_QUEUES or (svqs and self.random.random() < 0.4):
            return "FreeSVQ", dict(svq_ids=[self.random.choice(sorted(svqs))])
        taken = {s.queue_index for s in svqs.values()}
        first = self.number * QUEUE_SHARE
        queue = dict(queue_index=next(i for i in range(first, first + QUEUE_SHARE)
                                      if i not in taken), queue_size=64)
        if not self.makes_queues_of_its_own or self.random.random() < 0.5:
            area = QUEUES + self.number * HVA_SHARE + self._sequence % 10_000 * 16 * PAGE
            queue.update(driver_hva=area, device_hva=area + 8 * PAGE)
        return "AllocSVQ", dict(queues=[queue])

    def _change_memory(self):
        base = MEMORY + self.number * HVA_SHARE
        registered = {m[1]: m[0] for m in self.holdings.memories.values()}
        hva = base + self.random.randrange(MOST_MEMORIES) * MEMORY_SIZE
        if hva not in registered:
            return "RegisterMemory", dict(hva=hva, size=MEMORY_SIZE, offset=hva - base,
                                          path=self.space.ram, label="ram")
        if any(m.hva < hva + MEMORY_SIZE and hva < m.hva + m.size
               for m in self.holdings.mappings.values()):
            return self._change_labels()  # IN_USE
        return "UnregisterMemory", dict(memory_id=registered[hva])

    def _change_labels(self):
        key = f"{self.number}.{self.random.randrange(3)}"
        if key in self.holdings.labels:
            return "UpdateSpace", dict(remove_labels=[key])
        return "UpdateSpace", dict(labels={key: str(self._sequence)})

    # ---- What it got

    def _apply(self, rpc, fields, answer):
        if rpc == "CreateSpace":
            return self.space.created(answer.space)
        if rpc == "DeleteSpace":
            return self.space.deleted()
        if rpc in ("AttachDevice", "DetachDevice"):
            self.space.stepped(answer.space.revision)
            if rpc == "AttachDevice":
                self.holdings.attachments[fields["device"]] = ()
            else:
                del self.holdings.attachments[fields["device"]]
        elif rpc == "UpdateSpace":
            for key in fields.get("remove_labels", ()):
                del self.holdings.labels[key]
            self.holdings.labels.update(fields.get("labels", {}))
        elif rpc == "RegisterMemory":
            self.holdings.memories[answer.memory.memory_id] = memory_key(answer.memory)
        elif rpc == "UnregisterMemory":
            del self.holdings.memories[fields["memory_id"]]
        else:
            self.space.stepped(answer.revision)
            self._apply_mappings(rpc, fields, answer)

    def _apply_mappings(self, rpc, fields, answer):
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
                self.holdings.svqs[svq.svq_id] = svq
                added += svq.mappings
        elif rpc == "FreeSVQ":
            removed = answer.result.removed
            for svq_id in fields["svq_ids"]:
                del self.holdings.svqs[svq_id]
        for m in removed:
            if self.holdings.mappings.pop(m.mapping_id) != m:
                raise Disagreement(f"{self.name}: removed {m}, which was another")
        for m in added:
            self.space.gave_out(m.mapping_id)
            self.holdings.mappings[m.mapping_id] = m

    def what_it_has(self):
        """A copy of its holdings."""
        return copy_of(self.holdings)
