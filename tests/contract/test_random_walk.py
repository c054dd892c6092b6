"""Random requests against a plain model of a space: answers, refusals, look-ups, what the
device holds and what a watcher is told.

IOVAD_TEST_SEED repeats a run, IOVAD_TEST_OPS makes it longer: a factor, which may be
a fraction.
"""

import os
import random

import grpc

from device_table import replay, device_log, table_of_mappings
from harness import (HVA, PAGE, READ, READ_WRITE, WRITE, Refusal, make_ops, span, spec)
from stubs import address_space_pb2 as api
from watching import Watcher

SEED = int(os.environ.get("IOVAD_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
ROUNDS = int(400 * float(os.environ.get("IOVAD_TEST_OPS") or 1))
IOVA_PAGES, GPA_PAGES, HVA_PAGES = 96, 64, 40


class Refused(Exception):
    """The model says that the request is to be refused."""


class Stretch:
    """A mapping of the model, in pages. `gpa` is None for host-only memory."""

    def __init__(self, iova, gpa, hva, size, access):
        self.iova, self.gpa, self.hva, self.size, self.access = iova, gpa, hva, size, access

    def part(self, first, size):
        """A piece of it."""
        gpa = None if self.gpa is None else self.gpa + first
        return Stretch(self.iova + first, gpa, self.hva + first, size, self.access)

    def at(self, what):
        """Its first address of a kind, or None."""
        if what == "host_hva":
            return self.hva if self.gpa is None else None
        return getattr(self, what)

    def key(self):
        """For comparing with a Mapping message."""
        return (self.iova * PAGE, None if self.gpa is None else self.gpa * PAGE,
                HVA + self.hva * PAGE, self.size * PAGE, self.access)


def key_of(mapping):
    return (mapping.iova, mapping.gpa if mapping.HasField("gpa") else None, mapping.hva,
            mapping.size, mapping.access)


class Model:
    """A first-fit space of IOVA_PAGES pages as a list of stretches."""

    def __init__(self):
        self.stretches = []

    def touched(self, what, first, size):
        """What lies in a range of addresses of a kind, by IOVA."""
        return sorted((s for s in self.stretches if s.at(what) is not None
                       and s.at(what) < first + size and first < s.at(what) + s.size),
                      key=lambda s: s.iova)

    def map(self, new, fixed):
        """Places a stretch, at new.iova when `fixed`, else where it fits first."""
        def check(what, reason):
            there = self.touched(what, getattr(new, what.replace("host_", "")), new.size)
            same = [s for s in there if (s.gpa, s.hva, s.size, s.access) == (
                new.gpa, new.hva, new.size, new.access) and (not fixed or s.iova == new.iova)]
            if there:
                raise Refused("MAPPING_EXISTS" if same else reason)

        if fixed:
            if new.iova + new.size > IOVA_PAGES:
                raise Refused("OUTSIDE_IOVA_RANGE")
            check("iova", "IOVA_OVERLAP")
        else:
            fits = [i for i in range(1, IOVA_PAGES - new.size + 1)
                    if not self.touched("iova", i, new.size)]
            if not fits:
                raise Refused("IOVA_EXHAUSTED")
            new.iova = fits[0]
        if new.gpa is None:
            check("host_hva", "HOST_HVA_OVERLAP")
        else:
            check("gpa", "GPA_OVERLAP")
        self.stretches.append(new)

    def unmap(self, what, first, size, split, missing):
        """Takes away what lies in a range."""
        there = self.touched(what, first, size)
        if not there and not missing:
            raise Refused("MAPPING_NOT_FOUND")
        for s in there:
            head, tail = first - s.at(what), s.at(what) + s.size - (first + size)
            if (head > 0 or tail > 0) and not split:
                raise Refused("WOULD_SPLIT")
            self.stretches.remove(s)
            if head > 0:
                self.stretches.append(s.part(0, head))
            if tail > 0:
                self.stretches.append(s.part(s.size - tail, tail))

    def translate(self, what, first, size, access):
        """([(IOVA, HVA, size)], fault or None), in bytes; first and size are bytes too."""
        segments, at, last = [], first, first + size
        while at < last:
            def begin(s):
                return None if s.at(what) is None else \
                    s.at(what) * PAGE + (HVA if what == "hva" else 0)

            cover = [s for s in self.stretches if begin(s) is not None
                     and begin(s) <= at < begin(s) + s.size * PAGE]
            allowed = [s for s in cover if access & s.access == access]
            if not allowed:
                return segments, (api.FAULT_KIND_ACCESS if cover else api.FAULT_KIND_MISS, at)
            best = min(allowed, key=lambda s: (-min(last, begin(s) + s.size * PAGE), s.iova))
            offset = at - begin(best)
            length = min(last - at, best.size * PAGE - offset)
            segments.append((best.iova * PAGE + offset, HVA + best.hva * PAGE + offset, length))
            at += length
        return segments, None

    def keys(self):
        return [s.key() for s in sorted(self.stretches, key=lambda s: s.iova)]


def random_op(rng, model):
    """An operation for Update, and what it does to the model."""
    if rng.random() < 0.6:
        new = Stretch(rng.randrange(IOVA_PAGES), rng.choice([None, rng.randrange(GPA_PAGES)]),
                      rng.randrange(HVA_PAGES), rng.choice([1, 1, 2, 3, 5, 8]),
                      rng.choice([READ, WRITE, READ_WRITE, READ_WRITE]))
        fixed = rng.random() < 0.3
        fields = dict(iova=new.iova * PAGE) if fixed else {}
        if new.gpa is not None:
            fields["gpa"] = new.gpa * PAGE
        op = spec(HVA + new.hva * PAGE, new.size * PAGE, new.access, **fields)
        return op, lambda: model.map(new, fixed)
    what, pages = rng.choice([("gpa", GPA_PAGES), ("iova", IOVA_PAGES), ("host_hva", HVA_PAGES)])
    first, size = rng.randrange(pages), rng.choice([1, 2, 4, 9, 20])
    split, missing = rng.random() < 0.5, rng.random() < 0.5
    base = HVA if what == "host_hva" else 0
    op = {what.replace("host_", ""): span(base + first * PAGE, base + (first + size) * PAGE - 1),
          "allow_split": split, "allow_missing": missing}
    return op, lambda: model.unmap(what, first, size, split, missing)


def random_queries(rng, count):
    """(kind of address, first, size, access) each."""
    for _ in range(count):
        what, pages, base = rng.choice([("gpa", GPA_PAGES, 0), ("iova", IOVA_PAGES, 0),
                                        ("hva", HVA_PAGES, HVA)])
        yield (what, base + rng.randrange(pages * PAGE), rng.choice([1, 64, PAGE, 7 * PAGE]),
               rng.choice([0, READ, WRITE, READ_WRITE]))


def check_look_ups(client, space, model, rng):
    queries = list(random_queries(rng, 30))
    answers = client.Translate(space=space, queries=[
        {what: first, "size": size, "access": access} for what, first, size, access in queries])
    for query, answer in zip(queries, answers.translations):
        got = ([(s.iova, s.hva, s.size) for s in answer.segments],
               (answer.fault.kind, answer.fault.address) if answer.HasField("fault") else None)
        assert got == model.translate(*query), query


def test_random_walk(client, make_space, device, attach):
    print(f"IOVAD_TEST_SEED={SEED}")
    rng, model = random.Random(SEED), Model()
    space = make_space(iova_range=span(0, IOVA_PAGES * PAGE - 1))
    attach(space, device)
    watched, before_listed, revision = {}, [], 2
    with Watcher(client, space) as watcher:
        watcher.snapshot()
        for _ in range(ROUNDS):
            before = list(model.stretches)
            ops, expected = [], None
            for position in range(rng.choice([1, 1, 2, 4])):
                op, apply = random_op(rng, model)
                ops.append(op)
                try:
                    apply()
                except Refused as refusal:
                    expected = (str(refusal), position)
                    model.stretches = before
                    break
            try:
                answer = client.Update(space=space, ops=make_ops(ops))
                got = None
            except grpc.RpcError as error:
                refusal = Refusal.from_rpc(error)
                got = (refusal.reason, refusal.detail.op_index)
            assert got == expected, (SEED, ops)
            listed = client.mappings(space)
            assert [key_of(m) for m in listed] == model.keys(), (SEED, ops)
            if got is None and answer.revision > revision:
                assert answer.revision == revision + 1
                revision = answer.revision
                # What came and went in one batch is not told.
                events, told = watcher.change() if listed != before_listed else ([], revision)
                assert told == revision
                for event in events:
                    if event.HasField("unmapped"):
                        assert watched.pop(event.unmapped.iova) == event.unmapped
                    else:
                        assert event.mapped.iova not in watched
                        watched[event.mapped.iova] = event.mapped
            assert [watched[iova] for iova in sorted(watched)] == listed
            before_listed = listed
            check_look_ups(client, space, model, rng)
        if ROUNDS > 1000:
            return  # more than a device's log keeps
        tables = replay(device_log(client, device))
        assert tables.get(0, {}) == table_of_mappings(listed)
