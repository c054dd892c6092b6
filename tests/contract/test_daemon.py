"""The life of the daemon: its socket, a second one, TCP, SIGTERM, kill -9."""

import os
import signal
import socket
import stat
import subprocess
import tempfile
import threading

import grpc
import pytest

import stubs
from daemon import IOVAD, Daemon, connects, run_iovad, scaled, wait_until
from harness import HVA, MIB, PAGE, Client, Refusal, make_ops, refused, spec
from stubs import device_pb2 as device_api
from watching import SpacesWatcher, Watcher, seconds

Status = stubs.health_pb2.HealthCheckResponse


@pytest.fixture
def folder():
    """A folder of the test's own, with a short path."""
    with tempfile.TemporaryDirectory(prefix="iovad-") as path:
        yield path


@pytest.fixture
def connect():
    """Connects to a Daemon; the clients are closed with the test."""
    clients = []

    def do(daemon_or_target):
        clients.append(Client(getattr(daemon_or_target, "target", daemon_or_target)))
        return clients[-1].wait_ready()

    yield do
    for client in clients:
        client.close()


def test_the_sockets_mode():
    with Daemon() as daemon:
        status = os.stat(daemon.socket_path)
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o660


def test_it_leaves_no_socket_behind(folder):
    daemon = Daemon(folder=folder).start()
    daemon.terminate()
    assert daemon.wait() == 0, daemon.log()
    assert not os.path.exists(daemon.socket_path)


def test_a_second_one_is_refused(connect):
    with Daemon() as daemon:
        client = connect(daemon)
        client.CreateSpace(space="mine")
        second = run_iovad("--socket", daemon.socket_path, "--ephemeral")
        assert second.returncode > 0
        assert daemon.socket_path in second.stderr
        assert "another" in second.stderr and str(daemon.process.pid) in second.stderr
        assert client.space("mine").name == "mine"
        assert connect(daemon).space("mine").name == "mine"


def test_a_stale_socket_is_taken_over(folder, connect):
    path = os.path.join(folder, "iovad.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(path)
    assert not connects(path)
    with Daemon(folder=folder) as daemon:
        assert connect(daemon).GetServerInfo().pid == daemon.process.pid


def test_what_is_not_a_socket_is_left_alone(folder):
    path = os.path.join(folder, "precious")
    with open(path, "w", encoding="utf-8") as file:
        file.write("data")
    done = run_iovad("--socket", path, "--ephemeral")
    assert done.returncode > 0 and path in done.stderr
    with open(path, encoding="utf-8") as file:
        assert file.read() == "data"


@pytest.mark.parametrize("name", ["file/socket", "x" * 120], ids=["in a file", "too long"])
def test_a_socket_that_cannot_be(folder, name):
    with open(os.path.join(folder, "file"), "w", encoding="utf-8"):
        pass
    path = os.path.join(folder, name)
    done = run_iovad("--socket", path, "--ephemeral")
    assert done.returncode > 0 and path in done.stderr


def test_killed_and_started_again(folder, connect):
    daemon = Daemon(folder=folder, keeps=False).start()
    epochs = {connect(daemon).GetServerInfo().epoch}
    daemon.kill()
    assert os.path.exists(daemon.socket_path)
    daemon.start()
    client = connect(daemon)
    epochs.add(client.GetServerInfo().epoch)
    assert len(epochs) == 2
    assert not client.ListSpaces().spaces  # it keeps nothing
    daemon.stop()


def test_many_start_at_once_and_one_wins(folder):
    path = os.path.join(folder, "iovad.sock")
    command = [IOVAD, "--socket", path, "--ephemeral", "--log-level", "warn"]
    started = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                text=True) for _ in range(4)]
    try:
        wait_until(lambda: sum(p.poll() is not None for p in started) == 3, "three gave up")
        winner, = [p for p in started if p.poll() is None]
        for loser in started:
            if loser is not winner:
                assert loser.returncode > 0 and path in loser.stderr.read()
        wait_until(lambda: connects(path), "the winner serves")
        winner.send_signal(signal.SIGTERM)
        assert winner.wait(scaled(30)) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stderr.close()


def free_port(family, host):
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def test_tcp_on_loopback(connect):
    port = free_port(socket.AF_INET, "127.0.0.1")
    with Daemon("--listen", f"127.0.0.1:{port}") as daemon:
        over_tcp, over_socket = connect(f"127.0.0.1:{port}"), connect(daemon)
        over_tcp.CreateSpace(space="one")
        assert over_socket.space("one") == over_tcp.space("one")


def test_a_port_in_use_is_said(folder):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_iovad("--socket", os.path.join(folder, "s"), "--ephemeral", "--listen", address)
    assert done.returncode > 0 and address in done.stderr


# --- SIGTERM ---


def in_flight(client, space, gpa=MIB):
    """A Map on a slow device that is certainly being done (see test_slow_device.py)."""
    request = dict(space=space, mapping=spec(HVA, PAGE, gpa=gpa), request_id="slow")
    twins = [client.future("Map", **request) for _ in range(2)]
    wait_until(lambda: any(twin.done() for twin in twins), "one is told to wait")
    told, running = sorted(twins, key=lambda twin: not twin.done())
    with pytest.raises(grpc.RpcError) as raised:
        told.result()
    assert Refusal.from_rpc(raised.value).reason == "REQUEST_IN_FLIGHT"
    return running


def slow_space(client, delay):
    """A space on a device whose first UPDATE takes `delay`."""
    client.OpenDevice(device="slow", simulated=dict(faults=[
        dict(op=device_api.SimulatedDevice.Fault.OP_UPDATE, nth=1, delay=seconds(delay))]))
    client.CreateSpace(space="slow", attachments=[dict(device="slow")])
    return "slow"


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_draining(folder, connect, sign):
    daemon = Daemon(folder=folder).start()
    client = connect(daemon)
    client.CreateSpace(space="other")
    space = slow_space(client, 2)
    health = client.health.Watch(stubs.health_pb2.HealthCheckRequest(), timeout=scaled(30))
    assert next(health).status == Status.SERVING
    running = in_flight(client, space)

    daemon.process.send_signal(sign)

    assert next(health).status == Status.NOT_SERVING
    client.wait_until_draining()
    assert not running.done()
    for call, fields in ((client.Map, dict(space="other", mapping=spec(HVA, PAGE, gpa=0))),
                         (client.Map, dict(space=space, mapping=spec(HVA, PAGE, gpa=0))),
                         (client.CreateSpace, dict(space="late")),
                         (client.OpenDevice, dict(device="late", simulated={}))):
        assert refused("DRAINING", call, **fields).message
    # It comes before everything else.
    refused("DRAINING", client.Map, space="No Name")
    refused("DRAINING", client.Map, space="no-such-space")
    assert not running.done()
    assert running.result().mapping.gpa == MIB
    assert daemon.wait() == 0, daemon.log()
    assert not os.path.exists(daemon.socket_path)


def test_watchers_do_not_hold_up_the_end(folder, connect):
    daemon = Daemon(folder=folder).start()
    client = connect(daemon)
    client.CreateSpace(space="watched")
    with Watcher(client, "watched") as watcher:
        watcher.snapshot()
        daemon.terminate()
        assert daemon.wait() == 0, daemon.log()
        with pytest.raises(grpc.RpcError) as raised:
            watcher.error()
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE


def test_idle_streams_do_not_hold_up_the_end(folder, connect):
    daemon = Daemon(folder=folder).start()
    client = connect(daemon)
    hold = threading.Event()

    def requests():
        yield client.request("StreamUpdates", sequence=1, update=dict(space="none"))
        hold.wait(scaled(30))

    stream = client.StreamUpdates(requests())
    assert next(stream).sequence == 1
    daemon.terminate()
    assert daemon.wait() == 0, daemon.log()
    hold.set()


def test_a_request_that_takes_too_long_is_left(folder, connect):
    """The drain timeout bounds the wait, whatever a device does. The process ends; whether 0 is
    not promised."""
    daemon = Daemon("--drain-timeout", "1", folder=folder).start()
    client = connect(daemon)
    running = in_flight(client, slow_space(client, 120))
    daemon.terminate()
    daemon.wait()
    with pytest.raises(grpc.RpcError) as raised:
        running.result()
    assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_the_second_sigterm_ends_it_at_once(folder, connect):
    """Whoever does not want to wait for what is running asks twice; the status says that it was
    not awaited."""
    daemon = Daemon("--drain-timeout", "100", folder=folder).start()
    client = connect(daemon)
    running = in_flight(client, slow_space(client, 120))
    daemon.terminate()
    client.wait_until_draining()
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.wait() == 1, daemon.log()
    with pytest.raises(grpc.RpcError):
        running.result()


# --- Under load ---


class Load:
    """Maps and unmaps from several threads, a stream of updates and watchers, on a fast and on
    a slow device, until the server is gone."""

    def __init__(self, client):
        self._client = client
        self._stop = threading.Event()
        self.done, self.strange = 0, []
        client.OpenDevice(device="fast", simulated={})
        client.OpenDevice(device="slow", simulated=dict(faults=[
            dict(op=device_api.SimulatedDevice.Fault.OP_UPDATE, nth=nth, delay=seconds(0.02))
            for nth in range(1, 500, 3)]))
        for name in ("fast", "slow"):
            client.CreateSpace(space=name, attachments=[dict(device=name)])
        works = [self._map, self._map, self._stream, self._watch, self._watch_spaces]
        self._threads = [threading.Thread(target=self._until_gone, args=(work, name, n))
                         for n, work in enumerate(works) for name in ("fast", "slow")]
        for thread in self._threads:
            thread.start()

    def join(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(scaled(30))
            assert not thread.is_alive()
        assert not self.strange, self.strange

    def _until_gone(self, work, space, number):
        try:
            work(space, number)
        except grpc.RpcError as error:
            # Turned away, or the connection went away; nothing else ends a request.
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                self.strange.append(error)

    def _map(self, space, number):
        gpa = (number + 1) << 40
        while not self._stop.is_set():
            self._client.map(space, HVA, PAGE, gpa=gpa)
            self._client.unmap(space, at_gpa=gpa)
            self.done += 2

    def _stream(self, space, _):
        def requests():
            while not self._stop.is_set():
                yield self._client.request("StreamUpdates", update=dict(
                    space=space, ops=make_ops([spec(HVA, PAGE, gpa=0), dict(at_gpa=0),
                                               spec(HVA, PAGE, gpa=MIB), dict(at_gpa=MIB)])))

        for answer in self._client.StreamUpdates(requests()):
            self.done += answer.HasField("update")

    def _watch(self, space, _):
        with Watcher(self._client, space) as watcher:
            watcher.snapshot()
            watcher.error()

    def _watch_spaces(self, _, __):
        with SpacesWatcher(self._client) as watcher:
            watcher.snapshot()
            while True:
                watcher.next()


@pytest.mark.parametrize("round", range(3))
def test_ended_under_load(folder, connect, round):
    daemon = Daemon(folder=folder).start()
    load = Load(connect(daemon))
    wait_until(lambda: load.done > 60 * (round + 1), "there is load")
    daemon.terminate()
    status = daemon.wait()
    load.join()
    assert status == 0, daemon.log()
    assert not daemon.log(), "ended with complaints"
    assert not os.path.exists(daemon.socket_path)


def test_killed_under_load(folder, connect):
    daemon = Daemon(folder=folder)
    for _ in range(2):
        daemon.start()
        load = Load(connect(daemon))
        wait_until(lambda: load.done > 50, "there is load")  # pylint: disable=cell-var-from-loop
        daemon.kill()
        load.join()
    daemon.start()
    assert not connect(daemon).ListSpaces().spaces
    daemon.stop()
