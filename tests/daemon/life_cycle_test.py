#!/usr/bin/env python3
"""Starts the real iovad and looks at what an operator sees of it.

usage: life_cycle_test.py IOVAD DEFAULT_CONFIG
"""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest

import grpc

IOVAD = None
DEFAULT_CONFIG = None
PATIENCE = 60  # seconds after which a test that still waits has failed


def identity(data):
    return data


def health(channel, service=b"", wait=True):
    """The serving status as a number (1 serving, 2 not)."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check", identity, identity)
    request = b"\x0a" + bytes([len(service)]) + service if service else b""
    answer = check(request, timeout=PATIENCE, wait_for_ready=wait)
    return answer[1] if answer else 0


class Daemon:
    """One iovad; its standard error is kept in a file."""

    def __init__(self, path, *flags):
        self.path = path
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([IOVAD, "--socket", path, "--ephemeral", *flags],
                                        stderr=self.log)

    def wait_ready(self):
        """Until the socket is there and health says SERVING, or the process ended."""
        until = time.monotonic() + PATIENCE
        while not os.path.exists(self.path) and time.monotonic() < until:
            if self.process.poll() is not None:
                raise AssertionError("iovad ended: " + self.errors())
            time.sleep(0.01)
        with grpc.insecure_channel("unix:" + self.path) as channel:
            assert health(channel) == 1
        return self

    def errors(self):
        self.log.seek(0)
        return self.log.read()

    def wait_logged(self, pattern):
        """The first match of `pattern` in the log, once it is there."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if found := re.search(pattern, self.errors()):
                return found
            time.sleep(0.01)
        raise AssertionError(f"{pattern} is not logged: " + self.errors())

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


def run(*flags):
    return subprocess.run([IOVAD, *flags], capture_output=True, text=True, timeout=PATIENCE)


class LifeCycle(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="iovad-", dir="/tmp")
        self.addCleanup(shutil.rmtree, self.directory)
        self.socket = os.path.join(self.directory, "run", "iovad.sock")

    def start(self, *flags, ready=True):
        daemon = Daemon(self.socket, *flags)
        self.addCleanup(daemon.close)
        return daemon.wait_ready() if ready else daemon

    def test_socket_is_for_owner_and_group_only(self):
        self.start()
        status = os.lstat(self.socket)
        self.assertTrue(stat.S_ISSOCK(status.st_mode))
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o660)
        self.assertEqual(stat.S_IMODE(os.stat(os.path.dirname(self.socket)).st_mode), 0o755)

    def test_term_and_int_end_with_status_0_and_leave_nothing(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            daemon = self.start()
            self.assertEqual(daemon.stop(number), 0, daemon.errors())
            self.assertEqual(os.listdir(os.path.dirname(self.socket)), [])
            self.assertIn("draining", daemon.errors())

    def test_ends_in_good_time_with_streams_of_others_open(self):
        daemon = self.start()
        with grpc.insecure_channel("unix:" + self.socket) as channel:
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch", identity, identity)(b"")
            self.assertEqual(next(watch), b"\x08\x01")
            began = time.monotonic()
            self.assertEqual(daemon.stop(), 0)
            self.assertLess(time.monotonic() - began, 20)  # and not the 30 s of the drain
            self.assertEqual(next(watch), b"\x08\x02")  # told before the end
            with self.assertRaises(grpc.RpcError):
                next(watch)

    def test_second_instance_is_refused(self):
        first = self.start()
        second = self.start(ready=False)
        self.assertEqual(second.process.wait(PATIENCE), 1)
        self.assertIn(f"(pid {first.process.pid})", second.errors())
        self.assertIn(self.socket, second.errors())
        with grpc.insecure_channel("unix:" + self.socket) as channel:
            self.assertEqual(health(channel), 1)

    def test_refusal_is_said_even_with_the_log_off(self):
        self.start()
        second = self.start("--log-level", "off", ready=False)
        self.assertEqual(second.process.wait(PATIENCE), 1)
        self.assertIn(self.socket, second.errors())

    def test_starts_over_what_a_killed_instance_left(self):
        self.start().stop(signal.SIGKILL)
        self.assertTrue(os.path.exists(self.socket))
        self.assertTrue(os.path.exists(self.socket + ".lock"))
        self.assertEqual(self.start().stop(), 0)

    def test_file_in_the_way_is_left_alone(self):
        os.mkdir(os.path.dirname(self.socket))
        with open(self.socket, "w") as file:
            file.write("precious")
        daemon = self.start(ready=False)
        self.assertEqual(daemon.process.wait(PATIENCE), 1)
        self.assertIn("is no socket", daemon.errors())
        with open(self.socket) as file:
            self.assertEqual(file.read(), "precious")

    def test_sighup_and_a_vanished_client_end_nothing(self):
        daemon = self.start()
        daemon.process.send_signal(signal.SIGHUP)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.socket)
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")  # and gone before the answer
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.socket)
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with grpc.insecure_channel("unix:" + self.socket) as channel:
            self.assertEqual(health(channel), 1)
        self.assertEqual(daemon.stop(), 0, daemon.errors())

    def test_oversized_message_is_refused_and_the_server_goes_on(self):
        self.start()
        with grpc.insecure_channel("unix:" + self.socket,
                                   options=[("grpc.max_send_message_length", -1)]) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check", identity, identity)
            with self.assertRaises(grpc.RpcError) as refused:
                check(b"\x0a\x80\x80\xc0\x02" + b"x" * (5 << 20), timeout=PATIENCE)
            self.assertEqual(refused.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertEqual(health(channel), 1)

    def test_connections_beyond_the_limit_are_refused(self):
        daemon = self.start("--limits.max-connections", "3")
        connections = [socket.socket(socket.AF_UNIX) for _ in range(6)]
        for connection in connections:
            self.addCleanup(connection.close)
            connection.connect(self.socket)
            connection.settimeout(PATIENCE)
        # A connection that is kept gets the server's SETTINGS, a refused one its end.
        # The readiness probe's connection may still count for one.
        kept = sum(1 for c in connections if self.first_bytes(c))
        self.assertIn(kept, (2, 3))
        self.assertIn("limits.max-connections is reached", daemon.errors())

    @staticmethod
    def first_bytes(connection):
        try:
            return connection.recv(9)
        except ConnectionResetError:
            return b""

    def test_tcp_on_loopback(self):
        daemon = self.start("--listen", "127.0.0.1:0")
        port = daemon.wait_logged(r"TCP port (\d+)").group(1)
        with grpc.insecure_channel("127.0.0.1:" + port) as channel:
            self.assertEqual(health(channel), 1)

    def test_reflection_and_channelz_are_served(self):
        self.start()
        with grpc.insecure_channel("unix:" + self.socket) as channel:
            reflect = channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", identity,
                identity)
            by_symbol = b"\x22\x15grpc.health.v1.Health"
            names, file = reflect(iter([b"\x3a\x00", by_symbol]), timeout=PATIENCE)
            self.assertIn(b"grpc.health.v1.Health", names)
            self.assertIn(b"grpc.channelz.v1.Channelz", names)
            self.assertIn(b"grpc/health/v1/health.proto", file)
            servers = channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers", identity,
                                          identity)
            self.assertTrue(servers(b"", timeout=PATIENCE))

    def test_json_log_is_one_object_a_line(self):
        daemon = self.start("--log-format", "json")
        self.assertEqual(daemon.stop(), 0)
        lines = [json.loads(line) for line in daemon.errors().splitlines()]
        self.assertGreaterEqual(len(lines), 2)
        for line in lines:
            self.assertEqual(set(line), {"time", "level", "pid", "thread", "message"})
            self.assertEqual(line["pid"], daemon.process.pid)


class Configuration(unittest.TestCase):
    def file(self, text):
        file = tempfile.NamedTemporaryFile("w", suffix=".toml", dir="/tmp")
        self.addCleanup(file.close)
        file.write(text)
        file.flush()
        return file.name

    def test_printed_configuration_reads_back(self):
        changed = run("--limits.max-spaces", "5", "--listen", "[::1]:0", "--print-config")
        self.assertEqual(changed.returncode, 0, changed.stderr)
        self.assertEqual(tomllib.loads(changed.stdout)["limits"]["max-spaces"], 5)
        again = run("--config", self.file(changed.stdout), "--print-config")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(again.stdout, changed.stdout)

    def test_shipped_file_holds_every_key_at_its_default(self):
        defaults = run("--print-config").stdout
        with open(DEFAULT_CONFIG, "rb") as file:
            self.assertEqual(tomllib.load(file), tomllib.loads(defaults))
        shipped = run("--config", DEFAULT_CONFIG, "--print-config")
        self.assertEqual(shipped.stdout, defaults)
        self.assertEqual(run("--config", DEFAULT_CONFIG, "--check-config").returncode, 0)

    def test_errors_name_file_key_and_what_is_allowed(self):
        name = self.file("[limits]\nmax-spaces = 0\n")
        for flags in (["--check-config"], ["--print-config"], []):
            refused = run("--config", name, *flags)
            self.assertEqual(refused.returncode, 2)
            self.assertEqual(refused.stdout, "")
            for part in (name, "line 2", "limits.max-spaces", "from 1 to 1000000"):
                self.assertIn(part, refused.stderr)

    def test_wrong_flags_are_refused(self):
        for flags in (["--bogus"], ["--listen", "0.0.0.0:1"], ["--ephemeral", "--state-dir", "/x"],
                      ["--config", "/nonexistent"]):
            refused = run(*flags)
            self.assertEqual(refused.returncode, 2, flags)
            self.assertRegex(refused.stderr, r"^iovad: .")

    def test_version(self):
        self.assertRegex(run("--version").stdout, r"^iovad \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    IOVAD, DEFAULT_CONFIG = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
