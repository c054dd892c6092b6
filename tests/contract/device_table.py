"""A device's log, replayed into the table that the device must hold by now.

The replay follows the kernel's rules for vhost-vdpa and checks the server's own:
an UPDATE never meets what is in the table, an INVALIDATE names exactly one entry
or a range of whole ones, every message lies in a batch, and only one batch is
open at a time.
"""

from collections import namedtuple

from stubs import debug_pb2 as debug

UPDATE = debug.IOTLB_MESSAGE_TYPE_UPDATE
INVALIDATE = debug.IOTLB_MESSAGE_TYPE_INVALIDATE
BATCH_BEGIN = debug.IOTLB_MESSAGE_TYPE_BATCH_BEGIN
BATCH_END = debug.IOTLB_MESSAGE_TYPE_BATCH_END

Entry = namedtuple("Entry", "first last uaddr access")


def device_log(client, device, after=0):
    """The log's entries with a sequence above `after`, of which none may be missing."""
    answer = client.DeviceLog(device=device)
    assert answer.dropped <= after, "the log no longer holds what the test looks for"
    sequences = [entry.sequence for entry in answer.entries]
    assert sequences == list(range(answer.dropped + 1, answer.dropped + 1 + len(sequences)))
    return [entry for entry in answer.entries if entry.sequence > after]


def last_sequence(client, device):
    """Where the log stands."""
    entries = device_log(client, device)
    return entries[-1].sequence if entries else 0


def messages(entries):
    """(type, first, last) of the UPDATEs and INVALIDATEs."""
    return [(e.type, int(e.iova_first, 16), int(e.iova_last, 16)) for e in entries
            if e.type in (UPDATE, INVALIDATE)]


def replay(entries, strict=True):
    """The tables that result: {asid: {first: Entry}}. Not `strict` where the log is taken
    up in the middle, so that INVALIDATEs may find nothing."""
    tables, open_batch = {}, None
    for entry in entries:
        table = tables.setdefault(entry.asid, {})
        if entry.type == BATCH_BEGIN:
            assert open_batch is None or not strict, f"a batch inside a batch: {entry}"
            open_batch = entry.asid if entry.os_errno == 0 else None
        elif entry.type == BATCH_END:
            open_batch = None
        else:
            assert open_batch == entry.asid, f"outside of a batch: {entry}"
            _apply(table, entry, strict)
    assert open_batch is None, "a batch was left open"
    return tables


def _apply(table, entry, strict):
    first, last = int(entry.iova_first, 16), int(entry.iova_last, 16)
    if entry.os_errno != 0:
        if entry.type == UPDATE and first == 0:
            table.clear()  # the kernel's undoing of a failed UPDATE at 0 takes everything
        return
    touched = [e for e in table.values() if e.first <= last and first <= e.last]
    if entry.type == UPDATE:
        assert not touched, f"{entry} meets {touched}"
        table[first] = Entry(first, last, int(entry.uaddr, 16), entry.access)
        return
    for other in touched:
        assert first <= other.first and other.last <= last, f"{entry} cuts {other}"
        del table[other.first]
    assert touched or not strict, f"{entry} finds nothing"


def table_of_mappings(mappings):
    """The table that a space's mappings make."""
    return {m.iova: Entry(m.iova, m.iova + m.size - 1, m.hva, m.access) for m in mappings}


def assert_in_step(client, space, device, asid=0, after=0):
    """Checks that the device holds exactly what the space says."""
    tables = replay(device_log(client, device, after), strict=after == 0)
    expected = table_of_mappings(client.mappings(space))
    assert tables.get(asid, {}) == expected
    counted = [a.entries for a in client.GetDevice(device=device).device.attachments
               if (a.space, a.asid) == (space, asid)]
    assert counted == [len(expected)]
