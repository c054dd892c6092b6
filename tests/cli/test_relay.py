"""iovactl relay, as far as it gets without a device of the kernel's."""

import socket

import pytest


@pytest.mark.parametrize("arguments, code, text", [
    (["--space", "vm1"], 2, "--device,--fd"),
    (["--device", "/dev/null"], 2, "--space"),
    (["--device", "/dev/null", "--fd", "0", "--space", "vm1"], 2, "--device,--fd"),
    (["--fd", "77", "--space", "vm1"], 2, "77"),
    (["--fd", "seven", "--space", "vm1"], 2, "descriptor"),
    (["--device", "/no/such/device", "--space", "vm1"], 1, "DEVICE_NOT_FOUND"),
    (["--device", "/dev/null", "--space", "vm1"], 1, "INVALID_VALUE"),
    (["--device", "/etc/passwd", "--space", "vm1"], 1, "INVALID_VALUE"),
])
def test_what_is_no_device(ctl, arguments, code, text):
    assert text in ctl("relay", *arguments, code=code).err


def test_errors_for_programs(ctl):
    run = ctl("--output", "json", "relay", "--device", "/no/such/device", "--space", "vm1", code=1)
    assert run.error["reason"] == "DEVICE_NOT_FOUND" and not run.out


def test_the_service_manager_is_not_told_of_what_never_began(ctl, tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        ctl("relay", "--device", "/no/such/device", "--space", "vm1", code=1)
        with pytest.raises(BlockingIOError):
            manager.recv(100)
