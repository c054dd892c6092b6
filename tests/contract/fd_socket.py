"""A client of the fd socket, from the documented layout alone (server/fd_socket.md)."""

import array
import os
import socket
import struct

from daemon import scaled
from stubs import types_pb2 as types

DEPOSIT, WITHDRAW, ATTEST = 1, 2, 3
MEMORY, DEVICE, EVENTFD = 1, 2, 3

_REQUEST = struct.Struct("<4sBBBx32s64s")
_ANSWER = struct.Struct("<4sBBBxIII4x32s64s128s")


def request(operation, kind=0, handle="", name=""):
    """A request's bytes."""
    return _REQUEST.pack(b"IOFD", 1, operation, kind, handle.encode(), name.encode())


class Answer:
    """An answer, taken apart."""

    def __init__(self, data, fds):
        assert len(data) == _ANSWER.size == 248
        magic, version, self.operation, self.kind, reason, self.pid, self.uid, *texts = \
            _ANSWER.unpack(data)
        assert (magic, version) == (b"IOFD", 1)
        self.handle, self.name, self.text = (t.rstrip(b"\0").decode() for t in texts)
        self.reason = types.Reason.Name(reason)[len("REASON_"):] if reason else None
        self.fds = fds

    def __repr__(self):
        return f"Answer({self.reason}, {self.text!r}, {self.handle!r}, {self.fds})"


class FdSocket:
    """One connection. Use as a context manager."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(scaled(20))
        self.socket.connect(path)

    def send(self, data, *fds):
        """Sends one message, with any number of descriptors."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], rights)

    def receive(self):
        """The next answer; None at the end of the connection."""
        data, fds, _, _ = socket.recv_fds(self.socket, 4096, 8)
        return Answer(data, fds) if data else None

    def call(self, operation, *fds, **fields):
        """A request and its answer."""
        self.send(request(operation, **fields), *fds)
        return self.receive()

    def deposit(self, fd, kind=MEMORY, name=""):
        """A handle for `fd`."""
        answer = self.call(DEPOSIT, fd, kind=kind, name=name)
        assert answer.reason is None, answer
        return answer.handle

    def withdraw(self, handle):
        """The descriptor behind a handle, which is the caller's to close."""
        answer = self.call(WITHDRAW, handle=handle)
        assert answer.reason is None, answer
        assert len(answer.fds) == 1
        return answer.fds[0]

    def close(self):
        """Ends the connection."""
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.close()


def open_files(pid):
    """What a process has open, as the texts of its links, sorted."""
    folder = f"/proc/{pid}/fd"
    links = []
    for number in os.listdir(folder):
        try:
            links.append(os.readlink(f"{folder}/{number}"))
        except FileNotFoundError:
            pass  # closed while we looked
    return sorted(links)
