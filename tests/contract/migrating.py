"""Exports and imports, as a program that carries a space to another host does them.

    records = export(client, "a")
    result = import_(client, header("b", bindings=[bind(0, PAGE, HVA)]), records)
"""

from daemon import scaled
from harness import extent
from stubs import migration_pb2 as migration
from stubs import migration_pb2_grpc

KEEP = migration.IMPORT_PLACEMENT_KEEP
ANEW = migration.IMPORT_PLACEMENT_ANEW

_CRC_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = (_byte >> 1) ^ (0x82F63B78 if _byte & 1 else 0)
    _CRC_TABLE.append(_byte)


def crc32c(data):
    """CRC-32C of bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def checksum(records):
    """What a trailer says of the records before it, as migration.proto defines it."""
    return crc32c(b"".join(r.SerializeToString(deterministic=True) for r in records))


def stub(client):
    """The service's stub."""
    return migration_pb2_grpc.MigrationServiceStub(client.channel)


def export_stream(client, space, **fields):
    """The call, to be read by the caller."""
    return stub(client).ExportSpace(migration.ExportSpaceRequest(space=space, **fields),
                                    timeout=scaled(60))


def export(client, space, **fields):
    """All records of an export."""
    return [record for response in export_stream(client, space, **fields)
            for record in response.records]


def mappings_of(records):
    """The mappings among records."""
    return [r.mapping for r in records if r.HasField("mapping")]


def sealed(records):
    """The records with a trailer that fits them, whatever was done to them."""
    body = [r for r in records if not r.HasField("trailer")]
    trailer = migration.SpaceRecord(trailer=migration.ExportTrailer(
        mapping_count=len(mappings_of(body)), svq_count=sum(r.HasField("svq") for r in body),
        revision=body[0].header.space.revision, crc32c=checksum(body)))
    return body + [trailer]


def bind(gpa, size, hva, **fields):
    """A MemoryBinding."""
    return migration.MemoryBinding(gpa=extent(gpa, size), hva=hva, **fields)


def header(space, **fields):
    """An ImportHeader."""
    return migration.ImportHeader(space=space, **fields)


def messages(first, records, together=100):
    """What an import sends."""
    if first is not None:
        yield migration.ImportSpaceRequest(header=first)
    for i in range(0, len(records), together):
        yield migration.ImportSpaceRequest(
            records=migration.ExportSpaceResponse(records=records[i:i + together]))


def import_stream(client, requests):
    """The call, to be read by the caller."""
    return stub(client).ImportSpace(requests, timeout=scaled(60))


def import_(client, first, records, together=100):
    """Imports, and returns the ImportResult, which has to come last."""
    *progress, last = import_stream(client, messages(first, records, together))
    assert all(p.WhichOneof("message") == "progress" for p in progress)
    assert last.WhichOneof("message") == "result"
    return last.result
