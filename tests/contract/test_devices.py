"""DeviceService: opening, looking at, resetting and closing simulated devices."""

import pytest

from conftest import fresh_name
from harness import HVA, MIB, PAGE, TOP, refused, span, unchanged
from stubs import device_pb2 as api
from stubs import types_pb2 as types

UPDATE_FAULT = api.SimulatedDevice.Fault.OP_UPDATE


def test_defaults(client):
    name = fresh_name("plain")
    device = client.OpenDevice(device=name, simulated={}).device
    assert device == client.GetDevice(device=name).device
    assert (device.name, device.backend) == (name, types.DEVICE_BACKEND_SIMULATED)
    assert device.iova_range == span(0, TOP)
    assert (device.as_num, device.group_num, device.vq_num) == (1, 1, 1)
    assert device.entry_budget == 2048
    assert "IOTLB_BATCH" in device.capabilities
    assert "IOTLB_ASID" not in device.capabilities
    assert not device.path and not device.attachments
    assert (device.updates_pushed, device.batches_pushed, device.push_errors) == (0, 0, 0)


def test_what_is_asked_for(client):
    name = fresh_name("rich")
    device = client.OpenDevice(device=name, simulated=dict(
        iova_range=span(0x1000, 0xFFFFFFFFFF), as_num=2, group_num=2, vq_num=3,
        entry_budget=65536)).device
    assert device.iova_range == span(0x1000, 0xFFFFFFFFFF)
    assert (device.as_num, device.group_num, device.vq_num) == (2, 2, 3)
    assert device.entry_budget == 65536
    assert {"IOTLB_BATCH", "IOTLB_ASID"} <= set(device.capabilities)


def test_capabilities_can_be_chosen(client):
    name = fresh_name("chosen")
    device = client.OpenDevice(device=name, simulated=dict(
        as_num=2, capabilities=["IOTLB_BATCH", "IOTLB_PERSIST"])).device
    assert sorted(device.capabilities) == ["IOTLB_BATCH", "IOTLB_PERSIST"]


@pytest.mark.parametrize("reason, fields", [
    ("MISSING_FIELD", {}),
    ("EMPTY_RANGE", dict(simulated=dict(iova_range=span(2, 1)))),
    ("INVALID_VALUE", dict(simulated=dict(faults=[dict(op=99, os_errno=14)]))),
    ("INVALID_VALUE", dict(simulated=dict(faults=[dict(os_errno=14)]))),
    ("INVALID_VALUE", dict(simulated=dict(faults=[dict(op=UPDATE_FAULT, os_errno=-1)]))),
    ("INVALID_VALUE", dict(simulated=dict(faults=[dict(op=UPDATE_FAULT,
                                                       delay=dict(seconds=-1))]))),
])
def test_refusals_open_nothing(client, reason, fields):
    name = fresh_name("refused")
    refused(reason, client.OpenDevice, device=name, **fields)
    assert name in refused("DEVICE_NOT_FOUND", client.GetDevice, device=name).message


def test_a_name_is_taken_once(client, device):
    before = client.GetDevice(device=device)
    assert device in refused("NAME_TAKEN", client.OpenDevice, device=device, simulated={}).message
    assert client.GetDevice(device=device) == before


def test_spaces_and_devices_do_not_share_names(client, space):
    assert client.OpenDevice(device=space, simulated={}).device.name == space


def test_list_pages_by_name(client, make_device):
    made = {make_device("listed") for _ in range(5)}
    whole = list(client.ListDevices().devices)
    names = [d.name for d in whole]
    assert names == sorted(names) and made <= set(names)
    paged, token = [], ""
    while True:
        page = client.ListDevices(page_size=2, page_token=token)
        assert 1 <= len(page.devices) <= 2
        paged += page.devices
        token = page.next_page_token
        if not token:
            break
    assert paged == whole
    refused("INVALID_PAGE_TOKEN", client.ListDevices, page_token="mangled")


@pytest.mark.parametrize("rpc, fields", [
    ("GetDevice", {}), ("CloseDevice", {}), ("ResetDevice", {}), ("StartDevice", {}),
    ("StopDevice", {}), ("ReadDeviceConfig", dict(size=1)),
    ("WriteDeviceConfig", dict(data=b"x")), ("DeviceLog", {})])
def test_every_request_checks_the_name(client, rpc, fields):
    refused("INVALID_NAME", getattr(client, rpc), device="No Name", **fields)
    name = fresh_name("nowhere")
    assert name in refused("DEVICE_NOT_FOUND", getattr(client, rpc), device=name, **fields).message


@pytest.mark.parametrize("rpc, fields", [
    ("StartDevice", dict(features=1)), ("StopDevice", {}), ("ReadDeviceConfig", dict(size=1)),
    ("WriteDeviceConfig", dict(data=b"x"))])
def test_a_simulated_device_has_no_queues_to_run(client, device, rpc, fields):
    assert device in refused("NO_DEVICE_CAPABILITY", getattr(client, rpc), device=device,
                             **fields).message


def test_estimating_memlock(client, space, device):
    refused("NO_DEVICE_CAPABILITY", client.EstimateMemlock, device=device, space=space)
    refused("DEVICE_NOT_FOUND", client.EstimateMemlock, device=fresh_name("no"), space=space)


def test_close(client, device):
    client.CloseDevice(device=device)
    refused("DEVICE_NOT_FOUND", client.GetDevice, device=device)
    refused("DEVICE_NOT_FOUND", client.CloseDevice, device=device)
    client.OpenDevice(device=device, simulated={})


def test_an_attached_device_stays_open(client, space, device, attach):
    attach(space, device)
    with unchanged(client, space):
        assert device in refused("IN_USE", client.CloseDevice, device=device).message
    client.DetachDevice(space=space, device=device)
    client.CloseDevice(device=device)


def test_counters_follow_the_pushes(client, space, device, attach):
    attach(space, device)
    before = client.GetDevice(device=device).device
    client.map(space, HVA, PAGE, gpa=0)
    client.update(space, dict(at_gpa=0), dict(iova=span(0, TOP), allow_missing=True))
    after = client.GetDevice(device=device).device
    assert after.updates_pushed == before.updates_pushed + 2
    assert after.batches_pushed == before.batches_pushed + 2
    assert after.push_errors == before.push_errors
    attachment, = after.attachments
    assert (attachment.space, attachment.asid, attachment.entries) == (space, 0, 0)
    assert attachment.state == types.ATTACHMENT_STATE_LIVE
