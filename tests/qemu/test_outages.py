"""iovad comes later, goes, and comes back; somebody meddles; QEMU goes on."""

import shutil
import tempfile

import pytest

from daemon import Daemon, wait_until
from harness import PAGE, Client, spec
from stubs import types_pb2 as types
from vm import MIB, Vm, exists, needs_qemu, wait_until_followed

pytestmark = needs_qemu

DIMM = 0x100000000


class Server:
    """An iovad that can be killed, and started again on what it kept."""

    def __init__(self, keeps):
        self.keeps = keeps
        self.folder = tempfile.mkdtemp(prefix="iovad-")
        self.daemon = self._make()
        self.client = None

    def _make(self):
        return Daemon("--owner-grace", "1", folder=self.folder, keeps=self.keeps)

    def start(self):
        self.daemon = self._make().start()
        self.client = Client(self.daemon.target).wait_ready()

    def kill(self):
        self.client.close()
        self.daemon.kill()

    def remove(self):
        if self.client is not None:
            self.client.close()
            self.daemon.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(params=["kept", "ephemeral"])
def iovad(request):
    server = Server(keeps=request.param == "kept")
    yield server
    server.remove()


def is_running(vm):
    return vm.qmp("query-status")["running"]


def plug(vm, name):
    vm.qmp("object-add", qom_type="memory-backend-memfd", id=name, size=64 * MIB, share=True)
    vm.qmp("device_add", driver="pc-dimm", id=f"d-{name}", memdev=name)


def test_iovad_is_killed_and_comes_back(iovad):
    with Vm(iovad.daemon.socket_path, slots=True) as vm:
        # It is not there when QEMU starts.
        wait_until(vm.plugin_said, "the plugin says that iovad is away")
        assert is_running(vm)
        iovad.start()
        wait_until_followed(vm, iovad.client)
        before = iovad.client.space("vm").uid
        wait_until(lambda: len(vm.plugin_said()) == 2, "the plugin says that all is well")

        iovad.kill()
        wait_until(lambda: len(vm.plugin_said()) == 3, "the plugin says that iovad is away")
        plug(vm, "dimm0")
        assert is_running(vm)
        iovad.start()
        wait_until_followed(vm, iovad.client, having=lambda memory: DIMM in memory)
        space = iovad.client.space("vm")
        assert (space.uid == before) == iovad.keeps
        assert space.owner_process.pid == vm.process.pid

        # Memory came by descriptor: it has to be brought again.
        def all_memory_is_there():
            memories = iovad.client.ListMemory(space="vm").memory
            return len(memories) == 2 and all(m.state == types.MEMORY_STATE_READY
                                              for m in memories)

        wait_until(all_memory_is_there, "the memory is registered again")
        # One line for each outage and its end.
        wait_until(lambda: len(vm.plugin_said()) == 4, "the plugin says that all is well")
        lines = vm.plugin_said()
        assert [line.endswith("in order again") for line in lines] == [False, True] * 2, lines
        assert is_running(vm)


def test_what_others_do_to_the_space(server, client):
    with Vm(server.socket_path) as vm:
        wait_until_followed(vm, client)
        client.unmap("vm", at_gpa=0)
        client.map("vm", 0x1000, PAGE, gpa=DIMM)
        # Host-only memory is none of the guest's.
        client.map("vm", 0x10000, PAGE)
        wait_until_followed(vm, client)
        assert 0x10000 in [m.hva for m in client.mappings("vm")]
        uid = client.space("vm").uid
        client.DeleteSpace(space="vm", force=True)
        wait_until_followed(vm, client)
        assert client.space("vm").uid != uid


def test_a_space_of_that_name_is_left_alone(server, client):
    client.CreateSpace(space="vm")
    client.Map(space="vm", mapping=spec(0x1000, PAGE, gpa=0))
    before = client.mappings("vm")
    with Vm(server.socket_path) as vm:
        wait_until(vm.plugin_said, "the plugin says so")
        (line,) = vm.plugin_said()
        assert "there is a space of that name already" in line, line
        assert client.mappings("vm") == before
        # When it is gone, there is room.
        client.DeleteSpace(space="vm", force=True)
        wait_until_followed(vm, client)
    # Its own is gone.
    wait_until(lambda: not exists(client), "the space is gone")
