"""Registered memory, and that of the server's own, after the server was killed."""

import os

import grpc
import pytest

from daemon import wait_until
from fd_socket import FdSocket
from harness import HVA, MIB, PAGE, refused, spec
from restarting import Server, folder  # noqa: F401 pylint: disable=unused-import
from watching import seconds


def test_memory_by_path_is_opened_again_and_by_descriptor_is_missing(folder):
    file = os.path.join(folder, "ram")
    with open(file, "wb") as made:
        made.truncate(4 * MIB)
    server = Server(folder, "--memory-paths", folder)
    client = server.client
    client.CreateSpace(space="vm")
    by_path = client.RegisterMemory(space="vm", hva=HVA, size=2 * MIB, path=file).memory
    with FdSocket(client.GetServerInfo().fd_socket) as fds, open(file, "rb+") as given:
        handle = fds.deposit(given.fileno())
    by_fd = client.RegisterMemory(space="vm", hva=HVA + 4 * MIB, size=2 * MIB,
                                  fd_handle=handle).memory
    mapping = client.map("vm", HVA, MIB, gpa=0)
    assert mapping.memory_id == by_path.memory_id
    client = server.restart()
    memories = client.ListMemory(space="vm").memory
    assert [(m.memory_id, m.state) for m in memories] == [(by_path.memory_id, 1),
                                                          (by_fd.memory_id, 2)]
    assert client.mappings("vm") == [mapping]
    refused("MEMORY_UNSUITABLE", client.GetMemoryHandle, space="vm", memory_id=by_fd.memory_id)
    # Brought again, it is the same as before.
    with FdSocket(client.GetServerInfo().fd_socket) as fds, open(file, "rb+") as given:
        handle = fds.deposit(given.fileno())
    refused("HOST_HVA_OVERLAP", client.RegisterMemory, space="vm", hva=HVA + 4 * MIB, size=MIB,
            path=file)
    again = client.RegisterMemory(space="vm", hva=HVA + 4 * MIB, size=2 * MIB,
                                  fd_handle=handle).memory
    assert (again.memory_id, again.state) == (by_fd.memory_id, 1)
    client.UnregisterMemory(space="vm", memory_id=by_fd.memory_id)
    client = server.restart()
    assert [m.memory_id for m in client.ListMemory(space="vm").memory] == [by_path.memory_id]
    client.close()
    server.daemon.stop()


@pytest.mark.parametrize("fault", ["store.after_commit:kill:1", "space.stored:kill:1"])
@pytest.mark.parametrize("rpc", ["AllocSVQ", "FreeSVQ"])
def test_memory_of_a_queue_goes_with_it(folder, rpc, fault):
    server = Server(folder)
    server.client.CreateSpace(space="vm")
    if rpc == "FreeSVQ":
        server.client.AllocSVQ(space="vm", queues=[dict(queue_index=0, queue_size=16)])
    client = server.restart(environment={"IOVAD_FAULT": fault})
    fields = dict(queues=[dict(queue_index=0, queue_size=16)]) if rpc == "AllocSVQ" else {}
    with pytest.raises(grpc.RpcError):
        getattr(client, rpc)(space="vm", **fields)
    server.daemon.wait()
    client.close()
    client = server.start()
    queues = len(client.ListSVQs(space="vm").svqs)
    assert queues == (rpc == "AllocSVQ")
    assert len(client.ListMemory(space="vm").memory) == queues
    client.map("vm", HVA, PAGE, gpa=0)
    client = server.restart()
    assert len(client.ListMemory(space="vm").memory) == queues
    server.stop()


def test_memory_made_for_a_queue_that_never_was_is_let_go(folder):
    server = Server(folder)
    client = server.client
    client.CreateSpace(space="vm")
    client.OpenDevice(device="slow", simulated=dict(
        faults=[dict(op="OP_UPDATE", nth=1, delay=seconds(2))]))
    client.AttachDevice(space="vm", device="slow")
    # The Map and its settling; then what is stored takes the memory along.
    client = server.restart(environment={"IOVAD_FAULT": "store.after_commit:kill:3"})
    answered = client.future("Map", space="vm", mapping=spec(HVA, PAGE, gpa=0))
    waiting = [client.future("UpdateSpace", space="vm", labels={"a": "1"}),
               client.future("AllocSVQ", space="vm", queues=[dict(queue_index=0, queue_size=16)])]
    wait_until(lambda: client.ListMemory(space="vm").memory, "the memory is made")
    server.daemon.wait()
    answered.exception()
    assert all(request.exception() for request in waiting)
    client.close()
    client = server.start()
    # Whichever of the two came first is there.
    queues = len(client.ListSVQs(space="vm").svqs)
    assert len(client.space("vm").labels) + queues == 1
    assert len(client.ListMemory(space="vm").memory) == queues
    server.stop()
