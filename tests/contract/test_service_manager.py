"""What systemd is told of the server."""

from restarting import folder  # noqa: F401 pylint: disable=unused-import
from service_manager import ManagedServer, ServiceManager


def test_ready_stopping_and_how_many(folder):  # noqa: F811
    with ServiceManager(folder) as told:
        server = ManagedServer(folder, told)  # pylint: disable=redefined-outer-name
        told.wait_for("READY=1")
        server.client.CreateSpace(space="vm")
        server.client.OpenDevice(device="sim", simulated={})
        told.wait_for("STATUS=1 space, 1 device")
        server.client.CreateSpace(space="other")
        told.wait_for("STATUS=2 spaces, 1 device")
        assert "STOPPING=1" not in told.told
        server.stop()
        assert told.told.count("READY=1") == 1 and "STOPPING=1" in told.told
