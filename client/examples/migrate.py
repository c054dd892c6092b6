#!/usr/bin/env python3
"""Moves a space to another iovad while its guest runs.

Makes the space at the destination, guest memory mapped and shadow virtqueues placed, and does
there what the source does. Then it takes a word from its standard input: "switch", when the
guest has stopped at the source, or "abort" (so does the end of the input), which leaves both
sides as they were; so does whatever goes wrong. What happens it says on standard output, one
JSON object a line.
"""

import argparse
import json
import sys
import threading
import time
import uuid

from iovad.v1 import address_space_pb2, migration_pb2, types_pb2
from iovad_client import Iovad, Refused

QUEUE = ("queue_index", "queue_size", "format", "control")  # what a queue is made again from


def say(event, **fields):
    print(json.dumps(dict(event=event, **fields)), flush=True)


class Migration:
    """A space on its way. The destination is what the source was at its revision `here`."""

    def __init__(self, space, source, destination, bind, attach, queues):
        self.space, self.bind, self.attach, self.asked = space, bind, attach, queues
        self.source, self.destination = Iovad(source), Iovad(destination)
        self.id, self.watch, self.failure, self.over = uuid.uuid4().hex, None, None, False
        self.moved = threading.Condition()

    def prepare(self):
        """Makes the destination's space, all of it or nothing, and begins to follow."""
        self.source_uid = self.source.GetSpace(space=self.space).space.uid
        export = list(self.source.ExportSpace(space=self.space, space_uid=self.source_uid))
        header = migration_pb2.ImportHeader(
            space=self.space, request_id=self.id, labels={"migration": self.id},
            attachments=[dict(device=device) for device in self.attach])
        for gpa, size, hva, path in self.bind:
            bound = header.bindings.add(gpa=dict(first=gpa, last=gpa + size - 1), hva=hva)
            if path:  # a file that the server opens, where a device needs registered memory
                header.memories.add(hva=hva, size=size, path=path)
                bound.memory_id = len(header.memories)
        for answer in self.destination.ImportSpace(
                [migration_pb2.ImportSpaceRequest(header=header),
                 *(migration_pb2.ImportSpaceRequest(records=records) for records in export)]):
            if answer.HasField("progress"):
                say("mapping", bytes=answer.progress.mapped_bytes, of=answer.progress.total_bytes)
        self.uid, self.here = answer.result.space.uid, export[-1].records[-1].trailer.revision
        self.match_queues()
        threading.Thread(target=self.follow, daemon=True).start()
        say("prepared", source_revision=self.here)

    def change(self, rpc, **fields):
        getattr(self.destination, rpc)(space=self.space, space_uid=self.uid, **fields)

    def match_queues(self):
        """Makes shadow virtqueues those of the source, and those that were asked for."""
        there, found = ({tuple(getattr(queue, field) for field in QUEUE): queue.svq_id
                         for queue in side.ListSVQs(space=self.space).svqs}
                        for side in (self.source, self.destination))
        wanted = {*there, *self.asked}
        if found.keys() - wanted:
            self.change("FreeSVQ", svq_ids=[found[queue] for queue in found.keys() - wanted])
        if wanted - found.keys():
            self.change("AllocSVQ", queues=[dict(zip(QUEUE, queue))
                                            for queue in sorted(wanted - found.keys())])

    def op(self, event):
        """What the destination has to do for an event of the source; None: nothing."""
        kind = event.WhichOneof("event")
        mapping = getattr(event, kind)
        if kind not in ("mapped", "unmapped") or not mapping.HasField("gpa"):
            return None
        if kind == "unmapped":
            return address_space_pb2.Op(unmap=dict(at_gpa=mapping.gpa))
        for gpa, size, hva, _ in self.bind:
            if gpa <= mapping.gpa and mapping.gpa + mapping.size <= gpa + size:
                return address_space_pb2.Op(map=dict(
                    gpa=mapping.gpa, hva=hva + mapping.gpa - gpa, size=mapping.size,
                    iova=mapping.iova, access=mapping.access, label=mapping.label))
        raise Refused(f"nothing is bound at GPA {mapping.gpa:#x}, which the source has mapped")

    def apply(self, revision, events):
        """Does what one revision of the source did. A repeat does what is left of it."""
        ops = [op for op in map(self.op, events) if op]
        update = dict(ops=ops, request_id=f"{self.id}/{revision}")
        queues_moved = any(event.WhichOneof("event").startswith("svq_") for event in events)
        try:
            if ops:
                self.change("Update", **update)
        except Refused as refused:
            if refused.reason != "IOVA_OVERLAP":
                raise
            self.change("FreeSVQ")  # they are where this server has put them, and give way
            self.change("Update", **update)
            queues_moved = True
        if queues_moved:
            self.match_queues()

    def follow(self):
        """Applies each revision of the source, over outages of either server."""
        while not self.over and not self.failure:
            try:
                self.watch = self.source.Watch(space=self.space, space_uid=self.source_uid,
                                               start_revision=self.here + 1)
                events = []
                for change in self.watch:
                    events += change.events
                    if not change.more and change.revision > self.here:
                        self.apply(change.revision, events)
                        events = []
                        with self.moved:
                            self.here = change.revision
                            self.moved.notify()
            except Refused as refused:
                with self.moved:
                    self.failure = None if refused.away else refused
                    self.moved.notify()
                time.sleep(0.05)

    def switch(self):
        """The destination is as the source, whose guest has stopped, and can be used."""
        begin = time.monotonic()
        last = self.source.GetSpace(space=self.space).space.revision
        with self.moved:
            in_time = self.moved.wait_for(lambda: self.failure or self.here >= last, timeout=30)
        if self.failure or not in_time:
            raise self.failure or Refused(f"it is at {self.here}, and the source at {last}")
        space = self.destination.GetSpace(space=self.space).space
        for attachment in space.attachments:
            if attachment.state != types_pb2.ATTACHMENT_STATE_LIVE:
                raise Refused(f"device {attachment.device}: {attachment.last_error}")
        queues = self.destination.ListSVQs(space=self.space).svqs
        took = time.monotonic() - begin
        self.stop()
        self.change("UpdateSpace", remove_labels=["migration"])
        say("switched", source_revision=last, mappings=space.mapping_count,
            not_ready_ms=round(1000 * took, 3), driver_iovas=[hex(q.driver_iova) for q in queues])

    def stop(self):
        self.over = True
        if self.watch:
            self.watch.cancel()

    def abort(self):
        """Removes what was made. The source was never changed."""
        self.stop()
        try:
            space = self.destination.GetSpace(space=self.space).space
            if space.labels.get("migration") == self.id:
                self.destination.DeleteSpace(space=space.name, space_uid=space.uid, force=True)
        except Refused as refused:
            if refused.reason != "SPACE_NOT_FOUND":
                raise
        say("aborted")


def binding(text):
    guest, _, host = text.partition("=")
    (gpa, _, size), (hva, _, path) = guest.partition("+"), host.partition("@")
    return int(gpa, 0), int(size, 0), int(hva, 0), path


def queue(text):
    index, size = text.split(":")
    return int(index), int(size), address_space_pb2.RING_FORMAT_SPLIT, False


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space")
    parser.add_argument("source", help="the socket of the iovad that has it")
    parser.add_argument("destination", help="the socket of the one that is to have it")
    parser.add_argument("--bind", type=binding, action="append", required=True,
                        metavar="GPA+SIZE=HVA[@FILE]", help="guest memory at the destination")
    parser.add_argument("--attach", action="append", default=[], metavar="DEVICE")
    parser.add_argument("--queue", dest="queues", type=queue, action="append", default=[],
                        metavar="INDEX:SIZE", help="a shadow virtqueue that it needs there")
    move = Migration(**vars(parser.parse_args()))
    try:
        move.prepare()
        return move.switch() if sys.stdin.readline() == "switch\n" else move.abort()
    except Refused as refused:
        say("refused", reason=refused.reason, message=str(refused))
        move.abort()
        return 1


if __name__ == "__main__":
    sys.exit(main())
