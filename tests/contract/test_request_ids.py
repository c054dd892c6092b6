"""request_id: the same request again gets the same answer; expected_revision and space_uid."""

import grpc
import pytest

from conftest import fresh_name
from harness import (HVA, MIB, PAGE, Refusal, extent, make_ops, refused, span, spec, unchanged)

SVQ = dict(queue_size=8, driver_hva=HVA + 64 * MIB, device_hva=HVA + 65 * MIB)


class Mutation:
    """A request that changes a space, how to prepare for it, and other content for it."""

    def __init__(self, rpc, other, prepare=lambda client, space, device: None, **fields):
        self.rpc, self.fields, self.other, self.prepare = rpc, fields, other, prepare

    def __repr__(self):
        return self.rpc

    def request(self, device):
        """The request's fields, with the device's name filled in."""
        return {k: device if v == "DEVICE" else v for k, v in self.fields.items()}


def map_one(client, space, device):
    client.map(space, HVA, PAGE, gpa=0)


def alloc_one(client, space, device):
    client.AllocSVQ(space=space, queues=[SVQ])


def attach_it(client, space, device):
    client.AttachDevice(space=space, device=device)


MUTATIONS = [
    Mutation("Map", dict(mapping=spec(HVA, PAGE, gpa=0, label="x")),
             mapping=spec(HVA, PAGE, gpa=0)),
    Mutation("Unmap", dict(target=dict(at_gpa=0, allow_missing=True)), prepare=map_one,
             target=dict(at_gpa=0)),
    Mutation("Update", dict(ops=[]), ops=make_ops([spec(HVA, PAGE, gpa=0), spec(HVA, PAGE)])),
    Mutation("AllocSVQ", dict(queues=[dict(SVQ, queue_index=1)]), queues=[SVQ]),
    Mutation("FreeSVQ", dict(svq_ids=[1, 1]), prepare=alloc_one, svq_ids=[1]),
    Mutation("AttachDevice", dict(asid=1), device="DEVICE"),
    Mutation("DetachDevice", dict(asid=1), prepare=attach_it, device="DEVICE"),
]
mutations = pytest.mark.parametrize("mutation", MUTATIONS, ids=repr)


@mutations
def test_a_repeat_gets_the_first_answer_byte_for_byte(client, space, device, mutation):
    mutation.prepare(client, space, device)
    fields = dict(mutation.request(device), space=space, request_id="again")
    first = client.raw(mutation.rpc, **fields)
    with unchanged(client, space):
        assert client.raw(mutation.rpc, **fields) == first
    client.map(space, HVA, PAGE, gpa=1 << 40)  # the space moves on, the answer does not
    with unchanged(client, space):
        assert client.raw(mutation.rpc, **fields) == first


@mutations
def test_other_content_is_refused(client, space, device, mutation):
    mutation.prepare(client, space, device)
    fields = dict(mutation.request(device), space=space, request_id="taken")
    client.raw(mutation.rpc, **fields)
    with unchanged(client, space):
        refusal = refused("REQUEST_ID_REUSED", client.raw, mutation.rpc,
                          **dict(fields, **mutation.other))
        assert "taken" in refusal.message and space in refusal.message
        for other in MUTATIONS:
            if other is not mutation:
                refused("REQUEST_ID_REUSED", client.raw, other.rpc, space=space,
                        request_id="taken", **other.request(device))


@mutations
def test_checks_come_in_order(client, space, device, mutation):
    """Name, existence, uid, request id, revision; each with everything after it wrong too."""
    call = getattr(client, mutation.rpc)
    mutation.prepare(client, space, device)
    client.map(space, HVA, PAGE, gpa=1 << 40, label="first")
    client.Map(space=space, mapping=spec(HVA, PAGE, gpa=2 << 40), request_id="taken")
    wrong = dict(space_uid="another", request_id="taken", expected_revision=1)
    with unchanged(client, space):
        refused("INVALID_NAME", call, space="No Name", **wrong)
        refused("SPACE_NOT_FOUND", call, space=fresh_name("nowhere"), **wrong)
        refusal = refused("SPACE_NOT_FOUND", call, space=space, **wrong)
        assert space in refusal.message
        del wrong["space_uid"]
        refused("REQUEST_ID_REUSED", call, space=space, **wrong)
        del wrong["request_id"]
        refusal = refused("REVISION_MISMATCH", call, space=space, **wrong)
        assert refusal.detail.current_revision == client.space(space).revision
        assert space in refusal.message
        # Even when the rest of the request has no shape at all.
        refused("REVISION_MISMATCH", call, space=space, expected_revision=99)


@mutations
def test_what_is_expected_may_be_said(client, space, device, mutation):
    mutation.prepare(client, space, device)
    now = client.space(space)
    fields = dict(mutation.request(device), space=space, space_uid=now.uid,
                  expected_revision=now.revision, request_id="once")
    first = client.raw(mutation.rpc, **fields)
    assert client.space(space).revision == now.revision + 1
    # The repeat comes before the revision is looked at.
    assert client.raw(mutation.rpc, **fields) == first


@pytest.mark.parametrize("rpc, fields", [
    ("TransferSpace", {}), ("RegisterMemory", {}), ("UnregisterMemory", {}),
    ("UpdateSpace", dict(labels={"": ""}))])
def test_the_other_requests_check_too(client, space, rpc, fields):
    call = getattr(client, rpc)
    client.Map(space=space, mapping=spec(HVA, PAGE, gpa=0), request_id="taken")
    with unchanged(client, space):
        refused("SPACE_NOT_FOUND", call, space=space, space_uid="another", request_id="taken",
                **fields)
        refused("REQUEST_ID_REUSED", call, space=space, request_id="taken", expected_revision=9,
                **fields)
        refused("REVISION_MISMATCH", call, space=space, expected_revision=9, **fields)


def test_delete_space(client, make_space):
    """Its request ids are the server's, since the space is gone when it is repeated."""
    space, other = make_space(), make_space()
    client.Map(space=space, mapping=spec(HVA, PAGE, gpa=0), request_id=space)
    fields = dict(space=space, force=True, request_id=space)
    with unchanged(client, space):
        refused("SPACE_NOT_FOUND", client.DeleteSpace, space_uid="another", **fields)
        refused("REVISION_MISMATCH", client.DeleteSpace, expected_revision=9, **fields)
    client.DeleteSpace(**fields)
    client.DeleteSpace(**fields)
    with unchanged(client, other):
        refused("REQUEST_ID_REUSED", client.DeleteSpace, space=other, request_id=space)
    # A space of the same name made anew is not what the repeat is about.
    client.CreateSpace(space=space)
    client.DeleteSpace(**fields)
    assert client.space(space).mapping_count == 0


def test_failures_are_not_recorded(client, space):
    there = client.map(space, HVA, PAGE, gpa=0)
    request = dict(space=space, mapping=spec(HVA + PAGE, PAGE, gpa=0), request_id="retry")
    refused("GPA_OVERLAP", client.Map, **request)
    client.unmap(space, mapping_id=there.mapping_id)
    done = client.Map(**request)
    assert done.mapping.gpa == 0
    refused("REQUEST_ID_REUSED", client.Map, space=space, mapping=spec(HVA, PAGE, gpa=MIB),
            request_id="retry")


def test_validate_only_ignores_it(client, space):
    plan = dict(space=space, mapping=spec(HVA, PAGE, gpa=0), validate_only=True)
    client.Map(request_id="plan", **plan)
    done = client.Map(space=space, mapping=spec(HVA, PAGE, gpa=MIB), request_id="plan")
    assert done.mapping.mapping_id > 0
    with unchanged(client, space):
        assert client.Map(request_id="plan", **plan).mapping.gpa == 0


def test_validate_only_heeds_the_revision(client, space):
    plan = dict(space=space, mapping=spec(HVA, PAGE, gpa=0), validate_only=True)
    client.Map(expected_revision=1, **plan)
    refused("REVISION_MISMATCH", client.Map, expected_revision=2, **plan)
    refused("SPACE_NOT_FOUND", client.Map, space_uid="another", **plan)


def test_the_scope_is_the_space(client, make_space):
    one, two = make_space(), make_space()
    for space in (one, two):
        client.Map(space=space, mapping=spec(HVA, PAGE, gpa=0, label=space), request_id="same")
    client.DeleteSpace(space=one, force=True)
    client.CreateSpace(space=one)
    assert client.Map(space=one, mapping=spec(HVA, PAGE, gpa=MIB),
                      request_id="same").mapping.gpa == MIB


@pytest.mark.parametrize("length, good", [(1, True), (64, True), (65, False)])
def test_length(client, space, length, good):
    request = dict(space=space, mapping=spec(HVA, PAGE, gpa=0), request_id="ä" * length)
    if good:
        assert client.Map(**request) == client.Map(**request)
    else:
        with unchanged(client, space):
            refused("INVALID_VALUE", client.Map, **request)


def test_create_space(client):
    name = fresh_name("idempotent")
    fields = dict(space=name, labels={"a": "1", "b": "2", "c": "3"}, request_id=name)
    first = client.raw("CreateSpace", **fields)
    assert client.raw("CreateSpace", **fields) == first
    refused("REQUEST_ID_REUSED", client.CreateSpace, space=name + "x", request_id=name)
    refused("REQUEST_ID_REUSED", client.CreateSpace, space=name, request_id=name)
    refused("NAME_TAKEN", client.CreateSpace, space=name)
    client.map(name, HVA, PAGE, gpa=0)
    assert client.raw("CreateSpace", **fields) == first


def test_update_space(client, space):
    fields = dict(space=space, labels={"a": "1", "b": "2", "c": "3"}, request_id="labels",
                  expected_revision=1)
    first = client.raw("UpdateSpace", **fields)
    assert client.raw("UpdateSpace", **fields) == first
    client.map(space, HVA, PAGE, gpa=0)
    client.UpdateSpace(space=space, labels={"a": "4"})
    with unchanged(client, space):
        assert client.raw("UpdateSpace", **fields) == first
        refused("REQUEST_ID_REUSED", client.UpdateSpace, space=space, request_id="labels")
    assert client.space(space).labels["a"] == "4"


def test_open_device(client):
    name = fresh_name("idempotent")
    fields = dict(device=name, simulated=dict(entry_budget=5), request_id=name)
    first = client.raw("OpenDevice", **fields)
    assert client.raw("OpenDevice", **fields) == first
    refused("REQUEST_ID_REUSED", client.OpenDevice, device=name, simulated={}, request_id=name)
    refused("NAME_TAKEN", client.OpenDevice, device=name, simulated={})


def test_reset_device(client, space, device, attach):
    attach(space, device)
    client.map(space, HVA, PAGE, gpa=0)
    first = client.raw("ResetDevice", device=device, request_id="reset")
    assert client.raw("ResetDevice", device=device, request_id="reset") == first


def test_a_stream_repeats_as_a_call_does(client, space):
    update = dict(space=space, ops=make_ops([spec(HVA, PAGE, gpa=0)]), request_id="either")
    requests = [client.request("StreamUpdates", sequence=n, update=update) for n in range(2)]
    one, two = client.StreamUpdates(iter(requests))
    assert one.update == two.update and (one.sequence, two.sequence) == (0, 1)
    assert client.Update(**update) == one.update
    other = dict(update, ops=make_ops([spec(HVA, PAGE, gpa=MIB)]))
    answer, = client.StreamUpdates(iter([client.request("StreamUpdates", update=other)]))
    assert Refusal(answer.error).reason == "REQUEST_ID_REUSED"


def test_many_at_once_do_it_once(client, space):
    """Whoever is not answered is told that the first is running, and asks again."""
    fields = dict(space=space, mapping=spec(HVA, PAGE, gpa=0), request_id="race")
    futures = [client.future("Map", **fields) for _ in range(32)]
    answers, running = [], 0
    for future in futures:
        try:
            answers.append(future.result())
        except grpc.RpcError as error:
            assert Refusal.from_rpc(error).reason == "REQUEST_IN_FLIGHT"
            running += 1
    assert len(answers) + running == 32 and answers
    assert all(answer == answers[0] for answer in answers)
    assert client.Map(**fields) == answers[0]
    assert client.space(space).revision == 2
    assert client.unmap(space, gpa=extent(0, PAGE)).removed_count == 1
    assert client.unmap(space, iova=span(0, (1 << 48) - 1), allow_missing=True).removed_count == 0
