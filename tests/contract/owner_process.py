"""Processes that spaces belong to: real ones, each attests itself at the fd socket.

    with OwnerProcess(client) as owner:
        client.CreateSpace(space="vm", owner_handle=owner.handle(), lifetime=OWNER_PROCESS)
        owner.kill()
"""

import os
import signal
import subprocess
import sys

from stubs import types_pb2 as types

OWNER_PROCESS = types.LIFETIME_OWNER_PROCESS
PERMANENT = types.LIFETIME_PERMANENT

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "attester.py")


class OwnerProcess:
    """A process that lives until it is killed, or the test ends."""

    def __init__(self, client):
        self._process = subprocess.Popen(
            [sys.executable, _PROGRAM, client.GetServerInfo().fd_socket], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def _ask(self, word):
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def handle(self):
        """A handle for this process."""
        return self._ask("attest")

    def fork(self):
        """The pid of a child of it that outlives it; the test's to kill."""
        return int(self._ask("fork"))

    def execute(self):
        """Has it become another program. Nothing can be asked of it any more."""
        assert self._ask("exec") == "another program"

    def kill(self):
        """Kills it and leaves it a zombie, whose pid nobody else gets."""
        self._process.send_signal(signal.SIGKILL)

    def bury(self):
        """Kills it; its pid is free."""
        self.kill()
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.bury()
        self._process.stdin.close()
        self._process.stdout.close()
