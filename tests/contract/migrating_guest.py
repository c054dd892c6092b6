"""A guest's space, for tests that carry it elsewhere."""

from harness import GIB, HVA, MIB, PAGE, READ, refused
from migrating import bind, import_
from stubs import address_space_pb2 as api

RAM = 16 * MIB
ALIAS = 0xFEDA0000
# Where the importing host has the guest's memory.
THERE = 0x5000_0000_0000


def make_guest(client, make_space):
    """Makes a space with guest memory, an alias of a part of it, host-only memory and queues."""
    name = make_space("guest", labels={"vm": "1", "a": "b"}, max_mappings=1000)
    client.map(name, HVA, RAM, gpa=0, label="ram")
    client.map(name, HVA + 64 * MIB, RAM, READ, gpa=4 * GIB, label="rom")
    client.map(name, HVA + MIB, 8 * PAGE, gpa=ALIAS, label="smram")
    client.map(name, HVA + 128 * MIB, PAGE, label="host")
    client.AllocSVQ(space=name, queues=[dict(queue_index=0, queue_size=256),
                                        dict(queue_index=2, queue_size=64, control=True,
                                             format=api.RING_FORMAT_PACKED)])
    return name


def bindings():
    """Where the guest's memory goes, alias and all."""
    return [bind(4 * GIB, RAM, THERE + 64 * MIB), bind(ALIAS, 8 * PAGE, THERE + MIB),
            bind(0, RAM, THERE)]


def spaces(client):
    """The names of all spaces."""
    return {space.name for space in client.ListSpaces().spaces}


def refused_import(reason, client, first, records, together=100):
    """An import that has to be refused, and to leave nothing."""
    before = spaces(client)
    refusal = refused(reason, import_, client, first, records, together)
    assert spaces(client) == before
    return refusal
