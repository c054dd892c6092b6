"""CreateSpace, GetSpace, ListSpaces, UpdateSpace, DeleteSpace, TransferSpace."""

import time

import pytest

from conftest import fresh_name
from daemon import scaled
from harness import (CONGRUENT, FIRST_FIT, HVA, IDENTITY, PAGE, TOP, extent, ranges, refused, span,
                     unchanged)
from stubs import types_pb2 as types

MSI_WINDOW = (0xFEE00000, 0xFEEFFFFF)
NAMES = ["a", "0", "a" * 63, "vm-1.net_0", "a--b"]
BAD_NAMES = ["", "A", "-a", "a-", ".a", "a.", "_a", "a_", "a b", "a/b", "a" * 64, "ä", "a\n",
             "a\0b"]


def test_defaults(client):
    name = fresh_name("defaults")
    space = client.CreateSpace(space=name).space
    assert space == client.space(name)
    assert space.name == name
    assert space.uid
    assert space.iova_range == span(0, (1 << 48) - 1)
    assert space.requested_iova_range == span(0, (1 << 48) - 1)
    assert space.reserved == ranges(MSI_WINDOW)
    assert space.placement == CONGRUENT
    assert space.iova_page_size == PAGE
    assert space.revision == 1
    assert space.max_mappings == 1 << 20
    assert space.lifetime == types.LIFETIME_PERMANENT
    assert (space.mapping_count, space.mapped_bytes, space.svq_count) == (0, 0, 0)
    assert not space.attachments
    assert abs(space.create_time.seconds - time.time()) < scaled(60)


def test_what_is_asked_for(client):
    name = fresh_name("asked")
    asked = dict(iova_range=span(0, TOP), reserved=ranges((0x10000, 0x1FFFF), (TOP - 0xFFF, TOP)),
                 placement=IDENTITY, iova_page_size=0x10000, max_mappings=7,
                 labels={"vm": "one", "owner": "tests"}, lifetime=types.LIFETIME_PERMANENT)
    space = client.CreateSpace(space=name, **asked).space
    for field, value in asked.items():
        assert getattr(space, field) == value, field
    assert client.space(name) == space


def test_an_empty_reserved_set_reserves_nothing(client):
    name = fresh_name("bare")
    assert client.CreateSpace(space=name, reserved=ranges()).space.reserved == ranges()
    client.map(name, HVA, PAGE, gpa=0, iova=MSI_WINDOW[0])


@pytest.mark.parametrize("name", NAMES)
def test_good_names(client, name):
    assert client.CreateSpace(space=name).space.name == name
    client.DeleteSpace(space=name)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(client, name):
    refused("INVALID_NAME", client.CreateSpace, space=name)
    refused("INVALID_NAME", client.OpenDevice, device=name, simulated={})


@pytest.mark.parametrize("rpc", [
    "GetSpace", "DeleteSpace", "ListMappings", "ListSVQs", "ListMemory", "Map", "Unmap", "Update",
    "Translate", "AllocSVQ", "FreeSVQ", "AttachDevice", "DetachDevice", "RegisterMemory",
    "UnregisterMemory", "GetMemoryHandle", "TransferSpace", "UpdateSpace", "Dump", "Resolve"])
def test_every_request_checks_the_name(client, rpc):
    refused("INVALID_NAME", getattr(client, rpc), space="No Name")
    name = fresh_name("nowhere")
    assert name in refused("SPACE_NOT_FOUND", getattr(client, rpc), space=name).message


@pytest.mark.parametrize("reason, fields", [
    ("EMPTY_RANGE", dict(iova_range=span(2, 1))),
    ("EMPTY_RANGE", dict(reserved=ranges((0x2000, 0x1000)))),
    ("INVALID_VALUE", dict(placement=99)),
    ("INVALID_VALUE", dict(lifetime=99)),
    ("INVALID_VALUE", dict(iova_page_size=2048)),
    ("INVALID_VALUE", dict(iova_page_size=4097)),
    ("INVALID_VALUE", dict(iova_page_size=0x3000)),
    ("INVALID_VALUE", dict(max_mappings=(1 << 20) + 1)),
    ("INVALID_VALUE", dict(request_id="x" * 65)),
    ("MISSING_FIELD", dict(lifetime=types.LIFETIME_OWNER_PROCESS)),
    ("HANDLE_NOT_FOUND", dict(lifetime=types.LIFETIME_OWNER_PROCESS, owner_handle="0" * 32)),
    ("DEVICE_NOT_FOUND", dict(attachments=[dict(device="no-such-device")])),
])
def test_refusals_make_no_space(client, reason, fields):
    name = fresh_name("refused")
    refused(reason, client.CreateSpace, space=name, **fields)
    refused("SPACE_NOT_FOUND", client.GetSpace, space=name)


def test_a_name_is_taken_once(client, space):
    with unchanged(client, space):
        assert space in refused("NAME_TAKEN", client.CreateSpace, space=space).message


def test_a_space_made_anew_is_another_space(client, space):
    first = client.space(space)
    client.DeleteSpace(space=space)
    refused("SPACE_NOT_FOUND", client.GetSpace, space=space)
    second = client.CreateSpace(space=space).space
    assert second.uid != first.uid
    assert second.revision == 1
    with unchanged(client, space):
        refused("SPACE_NOT_FOUND", client.DeleteSpace, space=space, space_uid=first.uid)
    client.DeleteSpace(space=space, space_uid=second.uid)


def test_labels_are_set_and_removed(client, space):
    update = client.UpdateSpace
    assert update(space=space, labels={"a": "1", "b": "2"}).space.labels == {"a": "1", "b": "2"}
    before = client.space(space)
    after = update(space=space, labels={"b": "3", "c": ""}, remove_labels=["a", "never"]).space
    assert after.labels == {"b": "3", "c": ""}
    assert client.space(space) == after
    # Removing comes first.
    assert update(space=space, labels={"c": "4"}, remove_labels=["b", "c"]).space.labels == {
        "c": "4"}
    assert update(space=space).space.labels == {"c": "4"}
    # Nothing else has changed, not even the revision.
    after = update(space=space, labels=before.labels, remove_labels=["c"]).space
    assert after == before


@pytest.mark.parametrize("labels", [
    {"": "x"}, {"x" * 65: ""}, {"x": "y" * 65}, {"x": "a\nb"}, {"a\0": ""},
    {f"key-{n}": "" for n in range(64)}])
def test_labels_that_are_refused(client, make_space, labels):
    name = fresh_name("refused")
    space = make_space(labels={"there": "already"})
    if len(labels) < 64:
        refused("INVALID_LABEL", client.CreateSpace, space=name, labels=labels)
    with unchanged(client, space):
        refusal = refused("INVALID_LABEL", client.UpdateSpace, space=space, labels=labels,
                          remove_labels=["other"], request_id="bad")
    assert space in refusal.message
    # Refusals are not recorded; and there is room for 64.
    client.UpdateSpace(space=space, labels={f"key-{n}": "" for n in range(64)},
                       remove_labels=["there"], request_id="bad")
    assert len(client.space(space).labels) == 64


def test_delete_needs_an_empty_space_or_force(client, make_space):
    space = make_space()
    client.map(space, HVA, PAGE, gpa=0)
    with unchanged(client, space):
        assert space in refused("SPACE_NOT_EMPTY", client.DeleteSpace, space=space).message
    client.DeleteSpace(space=space, force=True)
    refused("SPACE_NOT_FOUND", client.GetSpace, space=space)


def test_delete_counts_shadow_virtqueues(client, space):
    client.AllocSVQ(space=space, queues=[dict(queue_size=256, driver_hva=HVA,
                                              device_hva=HVA + 0x10000)])
    with unchanged(client, space):
        refused("SPACE_NOT_EMPTY", client.DeleteSpace, space=space)
    client.DeleteSpace(space=space, force=True)


def test_list_pages_by_name(client, make_space):
    made = sorted(make_space("listed") for _ in range(7))
    whole = client.ListSpaces()
    assert not whole.next_page_token
    names = [space.name for space in whole.spaces]
    assert names == sorted(names)
    assert set(made) <= set(names)

    paged, token = [], ""
    while True:
        page = client.ListSpaces(page_size=2, page_token=token)
        assert 1 <= len(page.spaces) <= 2
        paged += page.spaces
        token = page.next_page_token
        if not token:
            break
    assert paged == list(whole.spaces)
    assert client.space(made[0]) in paged
    refused("INVALID_PAGE_TOKEN", client.ListSpaces, page_token="mangled")


def test_counts_follow_the_mappings(client, space):
    client.map(space, HVA, 3 * PAGE, gpa=0)
    client.map(space, HVA, PAGE, gpa=0x100000)  # an alias counts again
    client.AllocSVQ(space=space, queues=[dict(queue_size=256, driver_hva=HVA + 0x100000,
                                              device_hva=HVA + 0x110000)])
    now = client.space(space)
    assert (now.mapping_count, now.mapped_bytes, now.svq_count) == (4, 7 * PAGE, 1)
    assert now.revision == 4
    client.FreeSVQ(space=space)
    client.unmap(space, gpa=extent(0, 1 << 32))
    now = client.space(space)
    assert (now.mapping_count, now.mapped_bytes, now.svq_count) == (0, 0, 0)


def test_transfer_needs_a_handle_that_is_known(client, space):
    with unchanged(client, space):
        refused("MISSING_FIELD", client.TransferSpace, space=space)
        refused("HANDLE_NOT_FOUND", client.TransferSpace, space=space, owner_handle="0" * 32)


def test_created_attached(client, make_device):
    device = make_device(iova_range=span(0x1000, 0xFFFFFFFF))
    name = fresh_name("attached")
    space = client.CreateSpace(space=name, placement=FIRST_FIT, reserved=ranges(),
                               attachments=[dict(device=device)]).space
    assert space.revision == 1
    assert space.iova_range == span(0x1000, 0xFFFFFFFF)
    assert space.requested_iova_range == span(0, (1 << 48) - 1)
    assert [(a.device, a.asid, a.state) for a in space.attachments] == [
        (device, 0, types.ATTACHMENT_STATE_LIVE)]
    refused("DEVICE_BUSY", client.CreateSpace, space=fresh_name("late"),
            attachments=[dict(device=device)])
