"""The command line and the configuration file."""

import os
import re

import pytest

from daemon import Daemon, run_iovad
from harness import HVA, PAGE, Client, refused

FLAGS = ["--config", "--socket", "--fd-socket", "--listen", "--state-dir", "--ephemeral", "--log-level",
         "--print-config", "--check-config", "--version", "--help"]


@pytest.fixture
def write(tmp_path):
    """Writes a configuration file and returns its path."""

    def do(text):
        path = tmp_path / "iovad.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return do


def printed(*arguments):
    """What --print-config says."""
    done = run_iovad("--print-config", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_names_every_flag():
    done = run_iovad("--help")
    assert done.returncode == 0
    for flag in FLAGS:
        assert flag in done.stdout, flag


def test_version():
    done = run_iovad("--version")
    assert done.returncode == 0
    assert re.search(r"\b\d+\.\d+\.\d+\b", done.stdout)


def test_the_defaults_are_the_documented_ones():
    text = printed()
    for line in ('socket = "/run/iovad/iovad.sock"', 'socket-mode = "0660"', 'listen = ""',
                 "max-mappings-per-space = 1048576", "max-spaces = 4096",
                 "max-ops-per-request = 65536", "max-message-bytes = 4194304",
                 "max-queries-per-translate = 4096", "max-watchers = 1024",
                 "max-connections = 10000", "max-open-snapshots = 16", "snapshot-ttl = 60", 'fd-socket = ""',
                 "max-fd-handles = 1024", "max-fd-handles-per-user = 256", "fd-handle-ttl = 30"):
        assert line in text.splitlines(), line


def test_what_is_printed_can_be_read_back(write):
    changed = printed("--limits.max-spaces", "77", "--socket", "/tmp/some \"odd\" path.sock",
                      "--ephemeral")
    assert "max-spaces = 77" in changed.splitlines()
    assert printed("--config", write(changed)) == changed


def test_flags_win_over_the_file(write):
    path = write('log-level = "error"\n[limits]\nmax-spaces = 5\nmax-watchers = 6\n')
    lines = printed("--config", path, "--limits.max-spaces", "9").splitlines()
    assert "max-spaces = 9" in lines and "max-watchers = 6" in lines
    assert 'log-level = "error"' in lines


def test_a_good_configuration(write):
    done = run_iovad("--check-config", "--config", write("# nothing\n\n[limits]\nmax-spaces = 5\n"))
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.parametrize("text, named", [
    ("sokket = 'x'\n", "sokket"),
    ("[limits]\nmax-spaces = 0\n", "max-spaces"),
    ("[limits]\nmax-spaces = -1\n", "max-spaces"),
    ("[limits]\nmax-spaces = \"many\"\n", "max-spaces"),
    ("[limits]\nmax-spaces = 99999999999999999999\n", "max-spaces"),
    ("[limits]\nmax-spacez = 3\n", "max-spacez"),
    ("[limitz]\nmax-spaces = 3\n", "limitz"),
    ("log-level = \"loud\"\n", "log-level"),
    ("log-level = 3\n", "log-level"),
    ("ephemeral = \"yes\"\n", "ephemeral"),
    ("listen = \"0.0.0.0:1\"\n", "listen"),
    ("listen = \"127.0.0.1:99999\"\n", "listen"),
    ("socket-mode = \"0999\"\n", "socket-mode"),
    ("socket = \"\"\n", "socket"),
    ("[limits\n", "line 1"),
    ("socket = \n", "line 1"),
    ("max-spaces = 3\n", "max-spaces"),
    ("log-level = \"warn\"\nlog-level = \"error\"\n", "log-level"),
])
@pytest.mark.parametrize("check", [True, False])
def test_a_bad_configuration_is_named(write, text, named, check):
    path = write(text)
    done = run_iovad("--config", path, *(["--check-config"] if check else []))
    assert done.returncode not in (0, None) and done.returncode > 0
    assert path in done.stderr and named in done.stderr, done.stderr
    assert not done.stdout


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "missing.toml")
    for extra in ([], ["--check-config"], ["--print-config"]):
        done = run_iovad("--config", path, *extra)
        assert done.returncode > 0 and path in done.stderr


@pytest.mark.parametrize("arguments, named", [
    (["--no-such-flag"], "--no-such-flag"), (["--log-level", "loud"], "log-level"),
    (["--ephemeral", "--state-dir", "/tmp/x"], "--state-dir"), (["stray"], "stray"),
    (["--listen", "0.0.0.0:0"], "--listen"), (["--listen", "192.0.2.1:1000"], "--listen"),
    (["--listen", "[::]:1000"], "--listen"), (["--listen", "example.org:1"], "--listen"),
    (["--listen", "1000"], "--listen"), (["--limits.max-spaces", "0"], "max-spaces")])
def test_bad_flags_are_named(tmp_path, arguments, named):
    done = run_iovad("--socket", str(tmp_path / "s"), *arguments)
    assert done.returncode > 0
    assert named in done.stderr, done.stderr
    assert not os.path.exists(tmp_path / "s")


def test_a_file_is_heeded():
    config = "[limits]\nmax-spaces = 1\nmax-mappings-per-space = 2\n"
    with Daemon(config=config) as daemon, Client(daemon.target) as client:
        client.wait_ready()
        assert client.CreateSpace(space="one").space.max_mappings == 2
        refused("SPACE_LIMIT", client.CreateSpace, space="two")
        limits = client.GetServerInfo().limits
        assert limits["max_spaces"] == 1 and limits["max_mappings_per_space"] == 2
        client.map("one", HVA, PAGE, gpa=0)
