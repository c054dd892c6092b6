"""That a space's indexes, its allocator and its devices say what its mappings say."""

import random
import re

from device_table import device_log, replay, table_of_mappings
from state import Disagreement

# One look at a row of Dump: a range and what is there.
_ROW = re.compile(r"^0x([0-9a-f]+) +0x([0-9a-f]+) +0x[0-9a-f]+ +(\w\S*|-\w|r-)", re.MULTILINE)


def check_indexes(client, found):
    """`found` is the space, with nothing under way."""
    space, mappings = found.space, list(found.holdings.mappings.values())
    if (space.mapping_count, space.mapped_bytes, space.svq_count) != (
            len(mappings), sum(m.size for m in mappings), len(found.holdings.svqs)):
        raise Disagreement(f"{space.name}: miscounted: {space}")
    _check_translations(client, space, mappings)
    _check_free_ranges(client, space, mappings)
    for attachment in space.attachments:
        _check_device(client, space, attachment, mappings)


def _check_translations(client, space, mappings, most=40):
    """Mappings are found by each of their addresses, at the last byte."""
    queries, expected = [], []
    for m in random.sample(mappings, min(most, len(mappings))):
        offset = m.size - 1
        hva = m.hva + offset
        over = sorted((o for o in mappings if o.hva <= hva < o.hva + o.size),
                      key=lambda o: o.iova)
        queries.append(dict(iova=m.iova + offset, size=1))
        expected.append((m, offset, len(over) - 1))
        if m.HasField("gpa"):
            queries.append(dict(gpa=m.gpa + offset, size=1))
            expected.append((m, offset, len(over) - 1))
        queries.append(dict(hva=hva, size=1))
        expected.append((over[0], hva - over[0].hva, len(over) - 1))
    # Nothing is beyond the last one.
    last = max((m.iova + m.size for m in mappings), default=0)
    queries.append(dict(iova=last, size=1))
    answer = client.Translate(space=space.name, queries=queries)
    if answer.revision != space.revision:
        raise Disagreement(f"{space.name}: translates at {answer.revision}")
    *translations, miss = answer.translations
    if miss.segments or miss.fault.address != last:
        raise Disagreement(f"{space.name}: something at IOVA {last:#x}: {miss}")
    for query, translation, (m, offset, aliases) in zip(queries, translations, expected):
        (segment,) = translation.segments
        if (segment.mapping_id, segment.iova, segment.hva, segment.access,
                translation.alias_count) != (m.mapping_id, m.iova + offset, m.hva + offset,
                                             m.access, aliases):
            raise Disagreement(f"{space.name}: {query} is {translation} instead of {m}, "
                               f"{aliases} aliases")


def _check_free_ranges(client, space, mappings):
    """What the allocator calls free is what nobody has."""
    rows = [(int(first, 16), int(last, 16), what)
            for first, last, what in _ROW.findall(client.Dump(space=space.name).text)]
    if rows != sorted(rows) or any(a[1] >= b[0] for a, b in zip(rows, rows[1:])):
        raise Disagreement(f"{space.name}: rows of Dump overlap: {rows}")
    free = [(first, last) for first, last, what in rows if what == "free"]
    mapped = [(first, last) for first, last, what in rows
              if what not in ("free", "reserved", "quarantined")]
    if mapped != sorted((m.iova, m.iova + m.size - 1) for m in mappings):
        raise Disagreement(f"{space.name}: Dump has other mappings: {mapped}")
    taken = sorted([(m.iova, m.iova + m.size - 1) for m in mappings]
                   + [(r.first, r.last) for r in space.reserved.ranges])
    expected, at = [], space.iova_range.first
    for first, last in taken + [(space.iova_range.last + 1, None)]:
        if first > at:
            expected.append((at, first - 1))
        at = max(at, (last or 0) + 1)
    if free != expected:
        raise Disagreement(f"{space.name}: free are {free} instead of {expected}")


def _check_device(client, space, attachment, mappings):
    """A device that the server has holds exactly the mappings."""
    device = client.GetDevice(device=attachment.device).device
    entries = {(a.space, a.asid): a.entries for a in device.attachments}
    if entries.get((space.name, attachment.asid)) != len(mappings):
        raise Disagreement(f"{space.name}: {attachment.device} counts {entries}")
    if device.backend != 3:
        return
    table = replay(device_log(client, attachment.device), strict=False).get(attachment.asid, {})
    expected = table_of_mappings(mappings)
    if table != expected:
        raise Disagreement(f"{space.name}: device {attachment.device} has {table} instead of "
                           f"{expected}")
