"""AllocSVQ, FreeSVQ, ListSVQs: layouts, all or nothing, who owns the memory."""

import pytest

from harness import (HOST, HVA, MIB, PAGE, READ, READ_WRITE, WRITE, refused, span, unchanged)
from stubs import address_space_pb2 as api

SPLIT, PACKED = api.RING_FORMAT_SPLIT, api.RING_FORMAT_PACKED
# Virtio spec 2.7: descriptors 16 n and avail ring 6 + 2 n, used ring 6 + 8 n.
SPLIT_AREAS = [(1, 0x1000, 0x1000), (2, 0x1000, 0x1000), (128, 0x1000, 0x1000),
               (256, 0x2000, 0x1000), (512, 0x3000, 0x2000), (1024, 0x5000, 0x3000),
               (32768, 0x91000, 0x41000)]
# Virtio spec 2.8: descriptors 16 n, two event suppression areas of 4.
PACKED_AREAS = [(1, 0x1000), (256, 0x1000), (257, 0x2000), (1000, 0x4000), (32768, 0x80000)]


def split(size, at=HVA, **fields):
    """A split queue with its areas 16 MiB apart."""
    return api.SvqSpec(queue_size=size, format=SPLIT, driver_hva=at, device_hva=at + 16 * MIB,
                       **fields)


def packed(size, at=HVA, **fields):
    """A packed queue with its areas 16 MiB apart."""
    return api.SvqSpec(queue_size=size, format=PACKED, desc_hva=at, driver_hva=at + 16 * MIB,
                       device_hva=at + 32 * MIB, **fields)


def areas(svq):
    """{IOVA: (HVA, size, access)} of a queue's memory, all of it host-only and its own."""
    for mapping in svq.mappings:
        assert (mapping.kind, mapping.svq_id) == (HOST, svq.svq_id)
    return {m.iova: (m.hva, m.size, m.access) for m in svq.mappings}


def alloc(client, space, *queues, **fields):
    return client.AllocSVQ(space=space, queues=queues, **fields)


@pytest.mark.parametrize("size, driver, device", SPLIT_AREAS)
def test_split_layout(client, space, size, driver, device):
    answer = alloc(client, space, split(size, queue_index=3))
    svq, = answer.svqs
    assert (svq.queue_index, svq.queue_size, svq.format, svq.control) == (3, size, SPLIT, False)
    assert svq.driver_iova == svq.desc_iova + 16 * size
    assert areas(svq) == {svq.desc_iova: (HVA, driver, READ),
                          svq.device_iova: (HVA + 16 * MIB, device, READ_WRITE)}
    assert answer.revision == 2 == client.space(space).revision
    assert client.mappings(space) == sorted(svq.mappings, key=lambda m: m.iova)


@pytest.mark.parametrize("size, descriptors", PACKED_AREAS)
def test_packed_layout(client, space, size, descriptors):
    svq, = alloc(client, space, packed(size)).svqs
    assert svq.format == PACKED
    found = areas(svq)
    assert found[svq.desc_iova] == (HVA, descriptors, READ_WRITE)
    assert found[svq.driver_iova] == (HVA + 16 * MIB, PAGE, READ)
    hva, length, access = found[svq.device_iova]
    assert (hva, length) == (HVA + 32 * MIB, PAGE) and access & WRITE
    assert len(found) == 3


@pytest.mark.parametrize("queue, rings", [(split(64), 2), (packed(64), 3)])
def test_control_queue_has_two_buffers(client, space, queue, rings):
    queue = api.SvqSpec.FromString(queue.SerializeToString())
    queue.control = True
    with unchanged(client, space):
        refused("MISSING_FIELD", alloc, client, space, queue)
    queue.control_out_hva = HVA + 48 * MIB
    queue.control_in_hva = HVA + 64 * MIB
    svq, = alloc(client, space, queue).svqs
    found = areas(svq)
    assert svq.control and len(found) == rings + 2
    assert found[svq.control_out_iova] == (HVA + 48 * MIB, PAGE, READ)
    hva, size, access = found[svq.control_in_iova]
    assert (hva, size) == (HVA + 64 * MIB, PAGE) and access & WRITE


def test_unspecified_is_split(client, space):
    svq, = alloc(client, space, dict(queue_size=256, driver_hva=HVA, device_hva=HVA + MIB)).svqs
    assert svq.format == SPLIT and len(svq.mappings) == 2


def test_alignment_follows_the_space(client, make_space):
    space = make_space(iova_page_size=0x10000)
    svq, = alloc(client, space, split(256)).svqs
    assert {m.size for m in svq.mappings} == {0x10000}
    with unchanged(client, space):
        refused("UNALIGNED", alloc, client, space, split(256, at=HVA + 0x101000))


def test_all_queues_in_one_revision_and_one_batch(client, space, device, attach):
    attach(space, device)
    before = client.GetDevice(device=device).device
    answer = alloc(client, space, *(split(256, at=HVA + n * 32 * MIB, queue_index=n)
                                    for n in range(4)))
    after = client.GetDevice(device=device).device
    assert after.batches_pushed == before.batches_pushed + 1
    assert after.updates_pushed == before.updates_pushed + 8
    assert [s.queue_index for s in answer.svqs] == [0, 1, 2, 3]
    ids = [s.svq_id for s in answer.svqs]
    assert ids == sorted(set(ids)) and ids[0] > 0
    assert {m.revision for s in answer.svqs for m in s.mappings} == {answer.revision}
    listed = client.ListSVQs(space=space)
    assert listed.svqs == answer.svqs and listed.revision == answer.revision


@pytest.mark.parametrize("reason, bad", [
    ("HOST_HVA_OVERLAP", split(256, at=HVA + 100 * MIB)), ("HOST_HVA_OVERLAP", split(8)),
    ("UNALIGNED", split(8, at=HVA + 64 * MIB + 8)),
    ("INVALID_QUEUE_SIZE", split(0)), ("INVALID_QUEUE_SIZE", split(3)),
    ("INVALID_QUEUE_SIZE", split(65536)), ("INVALID_QUEUE_SIZE", packed(0)),
    ("INVALID_QUEUE_SIZE", packed(32769)),
    ("INVALID_VALUE", api.SvqSpec(queue_size=8, format=9, driver_hva=0, device_hva=PAGE)),
    ("MISSING_FIELD", api.SvqSpec(queue_size=8, driver_hva=HVA + 64 * MIB)),
    ("MISSING_FIELD", api.SvqSpec(queue_size=8, device_hva=HVA + 64 * MIB)),
    ("MISSING_FIELD", api.SvqSpec(queue_size=8, format=PACKED, driver_hva=HVA + 64 * MIB,
                                  device_hva=HVA + 65 * MIB))])
def test_all_or_none(client, space, reason, bad):
    client.map(space, HVA + 100 * MIB, PAGE)
    with unchanged(client, space):
        refusal = refused(reason, alloc, client, space, split(256), bad)
        assert refusal.detail.op_index == 1
    alloc(client, space, split(256))


def test_rings_need_room_and_entries(client, make_space, make_device, attach):
    space = make_space(iova_range=span(0, 0x2FFF))
    with unchanged(client, space):
        refused("IOVA_EXHAUSTED", alloc, client, space, split(256))
    space = make_space(max_mappings=3)
    with unchanged(client, space):
        refused("MAPPING_LIMIT", alloc, client, space, split(8), split(8, at=HVA + 64 * MIB))
    space = make_space()
    attach(space, make_device(entry_budget=3))
    with unchanged(client, space):
        refusal = refused("ENTRY_BUDGET", alloc, client, space, split(8),
                          split(8, at=HVA + 64 * MIB))
        assert (refusal.detail.limit, refusal.detail.needed) == (3, 4)


def test_free_gives_everything_back(client, space):
    one, two, three = alloc(client, space, *(split(256, at=HVA + n * 32 * MIB)
                                             for n in range(3))).svqs
    answer = client.FreeSVQ(space=space, svq_ids=[two.svq_id])
    assert answer.revision == 3
    assert list(answer.result.removed) == list(sorted(two.mappings, key=lambda m: m.iova))
    assert (answer.result.removed_count, answer.result.removed_bytes) == (2, 3 * PAGE)
    assert list(client.ListSVQs(space=space).svqs) == [one, three]
    # The place and the host memory are free again; the id is not used again.
    again, = alloc(client, space, split(256, at=HVA + 32 * MIB)).svqs
    assert areas(again).keys() == areas(two).keys()
    assert again.svq_id > three.svq_id


def test_free_of_none_named_frees_all(client, space):
    kept = client.map(space, HVA + 512 * MIB, PAGE)
    svqs = alloc(client, space, split(8), packed(8, at=HVA + 64 * MIB)).svqs
    answer = client.FreeSVQ(space=space)
    assert answer.result.removed_count == sum(len(s.mappings) for s in svqs) == 5
    assert client.mappings(space) == [kept]
    assert not client.ListSVQs(space=space).svqs
    with unchanged(client, space):
        assert client.FreeSVQ(space=space).revision == client.space(space).revision


def test_free_is_all_or_nothing(client, space):
    svq, = alloc(client, space, split(8)).svqs
    with unchanged(client, space):
        refusal = refused("SVQ_NOT_FOUND", client.FreeSVQ, space=space, svq_ids=[svq.svq_id, 99])
        assert refusal.detail.op_index == 1


def test_validate_only(client, space):
    with unchanged(client, space):
        plan = alloc(client, space, split(256), validate_only=True)
        assert plan.revision == 1
        assert {m.mapping_id for m in plan.svqs[0].mappings} == {0}
        refused("INVALID_QUEUE_SIZE", alloc, client, space, split(3), validate_only=True)
    done = alloc(client, space, split(256))
    assert plan.svqs[0].desc_iova == done.svqs[0].desc_iova
    assert plan.svqs[0].device_iova == done.svqs[0].device_iova
    with unchanged(client, space):
        plan = client.FreeSVQ(space=space, validate_only=True)
        assert plan.result.removed_count == 2 and plan.revision == 2


def test_a_ring_translates(client, space):
    svq, = alloc(client, space, split(256)).svqs
    segment, = client.translate(space, hva=HVA + 16 * 256, access=READ).segments
    assert segment.iova == svq.driver_iova
    assert client.translate(space, iova=svq.desc_iova, access=WRITE).HasField("fault")
    assert not client.translate(space, iova=svq.device_iova, access=WRITE).HasField("fault")
