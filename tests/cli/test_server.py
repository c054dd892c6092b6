"""iovactl stats, info, and finding the server"""

import os
import re

from daemon import Daemon, wait_until
from iovactl import Iovactl


def test_info_has_version_limits_and_features(ctl):
    info = ctl.json("info")
    assert info["limits"]["max_mappings_per_space"] == 1048576
    assert info["store"] == "ephemeral"
    out = ctl("info").out
    assert re.search(rf"^Version +{re.escape(info['version'])}$", out, re.MULTILINE)
    assert re.search(rf"^Epoch +{info['epoch']}$", out, re.MULTILINE)
    assert "max_mappings_per_space 1048576" in out


def test_stats_are_text_for_people(ctl, space):
    assert space in ctl("stats").out
    assert space in ctl.json("stats")["text"]


def test_the_socket_option_wins_over_the_environment(server, ctl):
    elsewhere = Iovactl("/nonexistent/iovad.sock")
    assert elsewhere("info", code=1).err.startswith(
        "error: UNAVAILABLE: cannot reach iovad at /nonexistent/iovad.sock: ")
    elsewhere("--socket", server.socket_path, "info")
    elsewhere("info", "--socket", f"unix:{server.socket_path}")
    relative = os.path.relpath(server.socket_path)
    assert elsewhere.shell(f"cd {os.getcwd()} && iovactl --socket {relative} info").returncode == 0
    assert ctl("info").code == 0


def test_without_a_server_the_error_says_where_it_was_sought(ctl):
    error = ctl.refused("info", "--socket", "/nonexistent/iovad.sock")
    assert error["code"] == "UNAVAILABLE"
    assert error["reason"] is None
    assert "/nonexistent/iovad.sock" in error["message"]
    assert "--socket" in error["hint"]
    streaming = ctl.refused("watch", "vm1", "--socket", "/nonexistent/iovad.sock")
    assert streaming["message"].startswith("cannot reach iovad at /nonexistent/iovad.sock: ")


def listening_ports(pid):
    """The TCP ports on which a process listens."""
    inodes = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")
              if os.path.islink(f"/proc/{pid}/fd/{fd}")}
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows
            if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


def test_tcp_on_loopback(ctl):
    with Daemon("--listen", "127.0.0.1:0") as daemon:
        # The daemon counts as started once its Unix socket is there.
        wait_until(lambda: listening_ports(daemon.process.pid), "a TCP port")
        port, = listening_ports(daemon.process.pid)
        assert ctl("info", "--socket", f"127.0.0.1:{port}").code == 0


def test_tcp_elsewhere_is_refused(ctl):
    result = ctl("info", "--socket", "192.0.2.1:7000", code=2)
    assert "not loopback" in result.err


def test_a_proxy_in_the_environment_is_not_used(ctl):
    ctl("info", http_proxy="http://192.0.2.1:1", grpc_proxy="http://192.0.2.1:1")


def test_calls_can_have_a_time_limit(ctl, fresh, space):
    slow = fresh("slow")
    ctl("device", "open", slow, "--simulated", "--fault", "update:1:delay=1s")
    ctl("device", "attach", slow, space)
    result = ctl("map", space, "--hva", "0", "--size", "4K", "--timeout", "50ms", code=1)
    assert result.err.startswith("error: DEADLINE_EXCEEDED: ")
    assert "look before repeating" in result.err
