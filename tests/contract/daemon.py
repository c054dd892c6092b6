"""The `iovad` program as a process: started on a private socket, waited for until
it serves, ended and checked.

IOVAD_BIN_DIR says where the program is, IOVAD_TIMEOUT_SCALE by how much every
wait is to be stretched (sanitizer builds, slow machines), IOVAD_TEST_PERSISTENT=1
that every daemon keeps its state in a file.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

TIMEOUT_SCALE = float(os.environ.get("IOVAD_TIMEOUT_SCALE", "1"))
BIN_DIR = os.environ.get("IOVAD_BIN_DIR", "")
# Whether every daemon keeps its state: the same tests, by way of the store.
PERSISTENT = os.environ.get("IOVAD_TEST_PERSISTENT", "") not in ("", "0")
IOVAD = os.path.join(BIN_DIR, "iovad") if BIN_DIR else shutil.which("iovad")


def scaled(seconds):
    """A time limit: `seconds` on an ordinary machine with a release build."""
    return seconds * TIMEOUT_SCALE


def wait_until(condition, what, seconds=20):
    """Polls `condition` until it is true and returns what it gave."""
    deadline = time.monotonic() + scaled(seconds)
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        time.sleep(0.005)


def run_iovad(*arguments, seconds=20):
    """Runs iovad to its end. Returns the CompletedProcess with text output."""
    return subprocess.run([IOVAD, *arguments], capture_output=True, text=True,
                          timeout=scaled(seconds), check=False)


def connects(path):
    """Whether somebody accepts at a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


class Daemon:
    """One iovad process. Use as a context manager, or start() and stop()."""

    def __init__(self, *arguments, folder=None, config=None, keeps=PERSISTENT, environment=None,
                 manager=None):
        """`arguments` are added to the usual ones; `config` is the text of a config file.
        With `keeps` its state is kept in the folder, for the next one to take up; `manager`
        is the ServiceManager that starts it."""
        self._owns_folder = folder is None
        # Short, whatever TMPDIR pytest uses: a socket's path has at most 107 characters.
        self.folder = folder or tempfile.mkdtemp(prefix="iovad-")
        self.socket_path = os.path.join(self.folder, "iovad.sock")
        self._log_path = os.path.join(self.folder, "stderr.log")
        state = ["--state-dir", os.path.join(self.folder, "state")] if keeps else ["--ephemeral"]
        self._arguments = ["--socket", self.socket_path, *state, "--log-level", "warn",
                           *arguments]
        self._environment = {**os.environ, **(environment or {})}
        self._manager = manager
        if manager is not None:
            self._environment["NOTIFY_SOCKET"] = manager.path
        if config is not None:
            config_path = os.path.join(self.folder, "iovad.toml")
            with open(config_path, "w", encoding="utf-8") as file:
                file.write(config)
            self._arguments += ["--config", config_path]
        self.process = None
        self._terminated = False

    @property
    def target(self):
        """What a gRPC channel connects to."""
        return "unix:" + self.socket_path

    def log(self):
        """What the process wrote to its error output so far."""
        with open(self._log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def start(self):
        """Starts the process and returns when its socket accepts."""
        command, fds = [IOVAD, *self._arguments], []
        if self._manager is not None:
            command, fds = self._manager.launching(command)
        with open(self._log_path, "w", encoding="utf-8") as log:
            self._terminated = False
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=self._environment, pass_fds=fds)

        def accepts():
            assert self.process.poll() is None, f"iovad ended at once:\n{self.log()}"
            return connects(self.socket_path)

        wait_until(accepts, "iovad accepts connections", 30)
        return self

    def terminate(self):
        """Asks the process to end; does not wait. Once: asked twice, it ends at once."""
        if not self._terminated:
            self._terminated = True
            self.process.send_signal(signal.SIGTERM)

    def wait(self):
        """Waits for the end. Returns the exit status."""
        return self.process.wait(scaled(30))

    def kill(self):
        """Ends the process the hard way, as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Ends the process in order and checks that it had nothing to complain about."""
        try:
            if self.process is not None and self.process.returncode is None:
                self.terminate()
                status = self.wait()
                assert status == 0, f"iovad ended with {status}:\n{self.log()}"
                assert "Sanitizer" not in self.log(), self.log()
        finally:
            self.dispose()

    def dispose(self):
        """Leaves nothing behind, whatever state the process is in."""
        if self.process is not None and self.process.returncode is None:
            self.kill()
        if self._owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.stop()
        else:
            print(self.log())
            self.dispose()
