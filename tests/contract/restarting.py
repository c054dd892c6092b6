"""A server that is killed and started again on the state that it kept."""

import shutil
import tempfile

import pytest

from daemon import Daemon
from harness import Client


# How often a commit is tried that the disk refuses: again when the journal was folded, and
# as often with the reserve, if it may use that.
TRIES = 2
TRIES_WITH_RESERVE = 4


def full_disk(first=1, tries=TRIES):
    """An environment in which this commit fails, and those that try it again."""
    return {"IOVAD_FAULT": ",".join(f"store.before_commit:error:28:{n}"
                                    for n in range(first, first + tries))}


class Server:
    """A daemon with a client."""

    def __init__(self, folder, *arguments, **options):
        self._folder, self._arguments = folder, arguments
        self.daemon = self.client = None
        self.start(**options)

    def start(self, **options):
        """Starts it on what there is; the new client."""
        self.daemon = Daemon(*self._arguments, folder=self._folder, keeps=True, **options).start()
        self.client = Client(self.daemon.target)
        self.client.wait_ready()
        return self.client

    def kill(self):
        """Ends it as a crash would."""
        self.daemon.kill()
        self.client.close()

    def restart(self, **options):
        """Kills it and starts it again; the new client."""
        self.kill()
        return self.start(**options)

    def stop(self):
        """Ends it in order."""
        self.client.close()
        self.daemon.stop()


@pytest.fixture
def folder():
    """Where the state is kept."""
    path = tempfile.mkdtemp(prefix="iovad-")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(folder):  # pylint: disable=redefined-outer-name
    """A server that keeps its state; ends in order."""
    running = Server(folder)
    yield running
    running.stop()
