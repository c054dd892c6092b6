"""What a space holds, as clients see it, in a form that can be compared and divided.

A space may be changed by several drivers at once. Each has a share of everything that has
a name of the client's: guest addresses, queues, registered memory, labels, devices. So
what is found can be divided among them, and each answers for its own.
"""

from collections import namedtuple

import grpc

from harness import Refusal

PAGE = 4096
# Of a driver's share, by its number.
GPA_SHARE = 1 << 40
HVA = 0x7f0000000000
QUEUES = 0x7e0000000000  # driver and device areas that are the client's
MEMORY = 0x7d0000000000  # registered
HVA_SHARE = 1 << 32
QUEUE_SHARE = 16

KINDS = ("mappings", "svqs", "memories", "labels", "attachments")

# What one driver has, or all of them together: {key: what it is}, for each kind.
Holdings = namedtuple("Holdings", KINDS)


class Disagreement(AssertionError):
    """What the server has is not what was acknowledged."""


def nothing():
    """Holdings of none of it."""
    return Holdings(*({} for _ in KINDS))


def copy_of(holdings):
    """The same, to be kept while the other changes."""
    return Holdings(*(dict(kind) for kind in holdings))


def put_together(shares):
    """All that several drivers have."""
    whole = nothing()
    for share in shares:
        for kind, part in zip(whole, share):
            kind.update(part)
    return whole


def memory_key(memory):
    """What stays of registered memory through a restart, which mappings may lie over."""
    return (memory.memory_id, memory.hva, memory.size, memory.offset, memory.path, memory.label)


Found = namedtuple("Found", "revision space holdings")


def find(client, name):
    """Found, or None where there is no space."""
    try:
        space = client.space(name)
    except grpc.RpcError as error:
        if Refusal.from_rpc(error).reason == "SPACE_NOT_FOUND":
            return None
        raise
    return Found(space.revision, space, Holdings(
        {m.mapping_id: m for m in client.mappings(name)},
        {s.svq_id: s for s in client.ListSVQs(space=name).svqs},
        {m.memory_id: memory_key(m) for m in client.ListMemory(space=name).memory
         if m.path},  # and not the server's own, for queues
        dict(space.labels),
        {a.device: tuple(a.groups) for a in space.attachments}))


def share_of(holdings, driver):
    """The part of all that is one driver's."""
    number = driver.number

    def is_queue(svq):
        return svq.queue_index // QUEUE_SHARE == number

    def is_mapping(mapping):
        if mapping.HasField("gpa"):
            return mapping.gpa // GPA_SHARE == number
        svq = holdings.svqs.get(mapping.svq_id)
        return svq is not None and is_queue(svq)

    return Holdings(
        {i: m for i, m in holdings.mappings.items() if is_mapping(m)},
        {i: s for i, s in holdings.svqs.items() if is_queue(s)},
        {i: m for i, m in holdings.memories.items() if (m[1] - MEMORY) // HVA_SHARE == number},
        {k: v for k, v in holdings.labels.items() if k.startswith(f"{number}.")},
        {d: g for d, g in holdings.attachments.items() if d in driver.devices})


def difference(found, expected):
    """In words, for a failed comparison."""
    return "; ".join(
        f"{kind}: too much {sorted(a.keys() - b.keys())}, lacks {sorted(b.keys() - a.keys())}, "
        f"other {sorted(k for k in a.keys() & b.keys() if a[k] != b[k])}"
        for kind, a, b in zip(KINDS, found, expected) if a != b)
