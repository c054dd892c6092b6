"""A process that attests itself at the fd socket, told on its input when to (owner_process.py).

A program of its own, with nothing of the tests' in it, so that it starts quickly.
"""

import os
import signal
import socket
import sys

# server/fd_socket.md: an attest request, and where the answer has the handle.
ATTEST = b"IOFD" + bytes([1, 3]) + bytes(98)
HANDLE = slice(24, 56)


def attest(path):
    """A handle for this process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as fds:
        fds.connect(path)
        fds.send(ATTEST)
        return fds.recv(4096)[HANDLE].decode()


def live(path):
    """Does what it is told until there is nobody to tell it."""
    for line in sys.stdin:
        answer = None
        if line == "attest\n":
            answer = attest(path)
        elif line == "fork\n":
            answer = os.fork()
            while answer == 0:
                signal.pause()
        elif line == "exec\n":
            os.execvp("sh", ["sh", "-c", "echo another program; read never"])
        print(answer, flush=True)


if __name__ == "__main__":
    live(sys.argv[1])
