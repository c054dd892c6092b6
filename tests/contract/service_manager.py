"""A service manager as iovad meets it: systemd's notify socket, and its file descriptor
store, from their documentation alone (sd_notify(3), sd_listen_fds(3)).

    manager = ServiceManager(folder)
    daemon = Daemon(folder=folder, keeps=True, manager=manager).start()
    manager.wait_for("READY=1")
    manager.names()          # what it keeps
    daemon.kill()
    daemon.start()           # gets it back

It keeps two copies of one open file once, as systemd does, and holds on to whatever was
not removed. `kept` may be changed before the next start: what a service manager that is
wrong about its store would hand back.
"""

import ctypes
import os
import socket
import sys
import threading
import time
from collections import namedtuple

import pytest

from daemon import scaled
from restarting import Server

Kept = namedtuple("Kept", "name fd")

# Runs a program with descriptors from 3 on (sd_listen_fds(3)), and few more than they
# within its soft limit.
_LAUNCHER = """
import fcntl, os, resource, sys
names, fds, command = sys.argv[1], [int(fd) for fd in sys.argv[2].split(",")], sys.argv[3:]
copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 3 + 2 * len(fds) + max(fds)) for fd in fds]
for place, fd in enumerate(copies, 3):
    os.dup2(fd, place)
os.closerange(3 + len(fds), max(copies) + 1)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (len(fds) + 16, hard))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execv(command[0], command)
"""
_LIBC = ctypes.CDLL(None)
_KCMP = {"x86_64": 312, "aarch64": 272}[os.uname().machine]


def same_open_file(one, other):
    """Whether two descriptors of this process are copies of one another (kcmp(2))."""
    pid = os.getpid()
    return _LIBC.syscall(_KCMP, pid, pid, 0, one, other) == 0


class ServiceManager:
    """The socket and the store. `room` is how many descriptors it takes."""

    def __init__(self, folder, room=1000):
        self.path = os.path.join(folder, "notify")
        self.kept = []
        self.told = []  # lines, but for those about descriptors
        self._room = room
        self._changed = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self):
        while True:
            data, fds, _, _ = socket.recv_fds(self._socket, 4096, 253)
            if not data:
                return
            with self._changed:
                self._obey(data.decode().splitlines(), fds)
                self._changed.notify_all()

    def _obey(self, lines, fds):
        fields = dict(line.split("=", 1) for line in lines)
        name = fields.get("FDNAME")
        if "FDSTORE" in fields:
            # Without it, systemd drops what says that it has hung up.
            assert fields.pop("FDPOLL") == "0"
            assert name and len(name) <= 255 and ":" not in name and name.isprintable()
            for fd in fds:
                again = any(same_open_file(fd, kept.fd) for kept in self.kept)
                if again or len(self.kept) >= self._room:
                    os.close(fd)
                else:
                    self.kept.append(Kept(name, fd))
            return
        for fd in fds:
            os.close(fd)
        if "FDSTOREREMOVE" in fields:
            for kept in [kept for kept in self.kept if kept.name == name]:
                self.kept.remove(kept)
                os.close(kept.fd)
        elif "BARRIER" not in fields:
            self.told += lines

    def wait_until(self, condition, what):
        """Waits for what `condition` gives after a message."""
        deadline = time.monotonic() + scaled(20)
        with self._changed:
            while not (result := condition()):
                left = deadline - time.monotonic()
                assert left > 0, f"timed out waiting until {what}; {self.told}, {self.names()}"
                self._changed.wait(left)
            return result

    def wait_for(self, line):
        """Waits until it has been told this."""
        self.wait_until(lambda: line in self.told, f"told {line}")

    def wait_names(self, *names):
        """Waits until it keeps these and no others, as far as they begin so."""
        def kept():
            found = self.names()
            return len(found) == len(names) and all(
                name.startswith(start) for name, start in zip(found, sorted(names)))

        self.wait_until(kept, f"{names} are kept")

    def names(self):
        """What it keeps, sorted."""
        return sorted(kept.name for kept in self.kept)

    def _settle(self):
        """Returns when it has read all that it was told, as systemd has before it notices
        that a process has ended."""
        mark = f"MARK={time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as me:
            me.sendto(mark.encode(), self.path)
        self.wait_for(mark)

    def launching(self, command):
        """What to run in the place of `command`, and the descriptors to pass to it."""
        self._settle()
        if not self.kept:
            return command, []
        names = ":".join(kept.name for kept in self.kept)
        fds = [kept.fd for kept in self.kept]
        return [sys.executable, "-I", "-S", "-c", _LAUNCHER, names, ",".join(map(str, fds)),
                *command], fds

    def close(self):
        """Ends it, and with it all that it keeps."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for kept in self.kept:
            os.close(kept.fd)
        self.kept.clear()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.close()


class ManagedServer(Server):
    """A server that a service manager starts, again and again."""

    def __init__(self, folder, manager, *arguments, **options):
        self.manager = manager
        super().__init__(folder, *arguments, **options)

    def start(self, **options):
        return super().start(**{"manager": self.manager, **options})


@pytest.fixture
def manager(folder):
    """A service manager that keeps everything."""
    with ServiceManager(folder) as running:
        yield running


@pytest.fixture
def server(folder, manager):  # pylint: disable=redefined-outer-name
    """A server that it started; ends in order."""
    running = ManagedServer(folder, manager)
    yield running
    running.stop()
