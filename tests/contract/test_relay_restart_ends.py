"""Relays that come and go, or whose process ends, around a restart of the server."""

import os
import subprocess

import pytest

from daemon import wait_until
from harness import HVA, MIB, PAGE, refused
from relay_guest import Guest, died, guest  # noqa: F401 pylint: disable=unused-import
from relay_peer import DISCONNECTED, REGISTERED
from restarting import Server, folder, server  # noqa: F401 pylint: disable=unused-import
from test_relay import do_map, start_map
from watching import Watcher, kinds


@pytest.fixture
def process():
    """A process that may be said to own a device."""
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        yield sleeper
        sleeper.kill()


# ---- Coming and going

@pytest.mark.parametrize("applied", [False, True])
def test_killed_while_it_attaches(server, applied):
    server.client.CreateSpace(space="vm")
    server.client.map("vm", HVA, PAGE, gpa=0)
    guest = Guest(server)
    guest.connect()
    first = guest.peer.batch()
    if applied:
        guest.peer.take(first)
    server.restart()
    # Its device may map all of it.
    assert guest.attachment().state == DISCONNECTED
    refused("RELAY_DISCONNECTED", guest.client.unmap, "vm", at_gpa=0)
    guest.connect()
    assert guest.apply().reset
    guest.peer.wait_live()
    with Watcher(guest.client, "vm", start_revision=2) as watcher:
        seen = [kinds(watcher.change()[0]) for _ in range(2)]
    assert seen == [["mapped"], ["attached"]]
    guest.nothing_is_sent()
    server.restart()
    guest.connect()
    guest.nothing_is_sent()
    guest.close()


def test_refused_when_it_came(server):
    server.client.CreateSpace(space="vm")
    server.client.map("vm", HVA, PAGE, gpa=0)
    guest = Guest(server)
    guest.connect()
    guest.peer.refuse(guest.peer.batch())
    assert guest.peer.refusal().reason == "DEVICE_ERROR"
    server.restart()
    assert not server.client.space("vm").attachments
    server.client.map("vm", HVA, PAGE, gpa=MIB)


@pytest.mark.parametrize("how", ["goodbye", "DetachDevice", "DeleteSpace"])
def test_what_has_gone_stays_so(server, guest, how):
    if how == "goodbye":
        guest.peer.send(goodbye={})
        assert guest.peer.end() is None
    else:
        fields = dict(device="net0") if how == "DetachDevice" else dict(force=True)
        running = guest.client.future(how, space="vm", **fields)
        guest.peer.apply()
        running.result()
    client = server.restart()
    assert not client.ListDevices().devices
    assert not [a for s in client.ListSpaces().spaces for a in s.attachments]


def test_detaching_one_that_is_waited_for(server, guest):
    server.restart()
    guest.client.DetachDevice(space="vm", device="net0")
    guest.client.map("vm", HVA, PAGE, gpa=2 * MIB)
    assert not server.restart().space("vm").attachments
    # Who comes now is new.
    guest.connect()
    assert guest.apply().reset
    guest.nothing_is_sent()


# ---- The process that owns the device

def test_it_died_while_the_server_was_away(server, process):
    server.client.CreateSpace(space="vm")
    guest = Guest(server, pid=process.pid)
    guest.begin()
    guest.map(0)
    server.kill()
    process.kill()
    process.wait()
    server.start()
    attachment = guest.attachment()
    assert attachment.state == DISCONNECTED and "has ended" in attachment.last_error
    guest.client.map("vm", HVA, PAGE, gpa=MIB)
    # Changes have gone on without it, and do so after the next restart.
    server.restart()
    guest.client.map("vm", HVA, PAGE, gpa=2 * MIB)
    guest.connect(pid=os.getpid())
    assert guest.apply().reset
    guest.nothing_is_sent()
    guest.close()


def test_it_dies_after_the_restart(server, process):
    server.client.CreateSpace(space="vm")
    guest = Guest(server, pid=process.pid)
    guest.begin()
    guest.map(0)
    server.restart()
    refused("RELAY_DISCONNECTED", guest.client.map, "vm", HVA, PAGE, gpa=MIB)
    process.kill()
    process.wait()
    wait_until(lambda: "has ended" in guest.attachment().last_error, "the death is noticed")
    guest.client.map("vm", HVA, PAGE, gpa=MIB)
    guest.close()


def test_it_had_died_before(server, process):
    server.client.CreateSpace(space="vm")
    guest = Guest(server, pid=process.pid)
    guest.begin()
    process.kill()
    process.wait()
    guest.peer.close()
    wait_until(lambda: "has ended" in guest.attachment().last_error, "the death is noticed")
    guest.client.map("vm", HVA, PAGE, gpa=MIB)
    server.restart()
    guest.client.map("vm", HVA, PAGE, gpa=2 * MIB)


def test_who_is_not_known_is_waited_for(server):
    server.client.CreateSpace(space="vm")
    guest = Guest(server, pid=0)
    guest.begin()
    guest.map(0)
    server.restart()
    refused("RELAY_DISCONNECTED", guest.client.map, "vm", HVA, PAGE, gpa=MIB)
    guest.connect()
    guest.nothing_is_sent()
    guest.close()


def test_a_process_with_two_devices(server):
    server.client.CreateSpace(space="vm")
    guests = [Guest(server, device="net0"), Guest(server, device="net1")]
    for each in guests:
        each.begin()
    running = start_map(server.client, "vm")
    guests[0].take()
    guests[1].apply()
    server.kill()
    died(server, running)
    server.start()
    for each in guests:
        each.connect()
    for each in guests:
        each.peer.wait_live()
    running = start_map(server.client, "vm", MIB)
    for each in guests:
        each.apply()
    running.result()
    for each in guests:
        each.check()
        each.close()


# ---- Registered memory

def test_registered_memory_is_the_same(folder):
    path = os.path.join(folder, "ram")
    with open(path, "wb") as made:
        made.truncate(4 * MIB)
    server = Server(folder, "--memory-paths", folder)
    server.client.CreateSpace(space="vm")
    memory = server.client.RegisterMemory(space="vm", hva=HVA, size=4 * MIB, path=path).memory
    guest = Guest(server, uaddr_mode=REGISTERED)
    guest.begin()
    guest.map(0)
    assert list(guest.peer.memories) == [memory.memory_id]
    for n in range(1, 3):
        server.restart()
        guest.connect()
        guest.peer.wait_live()
        mapping = do_map(server.client, guest.peer, "vm", n * PAGE)
        entry = guest.peer.table[mapping.iova]
        assert (entry.memory_id, entry.offset) == (memory.memory_id, n * PAGE)
    assert len(guest.peer.table) == 3
    guest.close()
    server.stop()
