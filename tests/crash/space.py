"""A space that drivers change and the server's death cuts off, and what must be true of it.

After a restart everything acknowledged is there; of each request under way all or nothing.
Whether it is there is found by repeating it: what the space held before the repeat is what
the driver had without the request, or with it. The revisions tell the same: those of all
requests that are there follow each other without a gap.
"""

import threading

import grpc

from daemon import wait_until
from driver import Driver
from indexes import check_indexes
from state import Disagreement, difference, find, nothing, put_together, share_of

LIVE = 1
FAILED = 4


class Space:
    """One space, its drivers, and its devices."""

    def __init__(self, name, rng, ram, drivers=1, devices=(), spare=(), refuses=False, relay=None):
        """It is made with `devices`; `spare` ones come and go. With `refuses`, one of its
        devices refuses now and then."""
        self.name = name
        self.ram = ram
        self.devices = devices
        self.relay = relay
        self.refuses = refuses
        self.may_be_deleted = drivers == 1 and relay is None
        self.exists = False
        self.revision = 0  # that was found last
        self.in_flight = 0  # requests that were repeated
        self._uid = ""
        self._steps = set()  # revisions that were acknowledged since
        self._last_mapping = 0
        self._mu = threading.Lock()
        self._relay_began = False
        self.drivers = [Driver(self, i, rng.random(), devices=spare if i == 0 else (),
                               makes_queues_of_its_own=relay is None) for i in range(drivers)]

    # ---- Told by the drivers

    def created(self, space):
        """It was made, or made anew."""
        if space.uid == self._uid:
            raise Disagreement(f"{self.name}: a uid came twice")
        self._uid = space.uid
        self._steps = set()
        self._last_mapping = 0
        self.revision = space.revision
        self.exists = True

    def deleted(self):
        """It is gone."""
        self.exists = False
        for driver in self.drivers:
            driver.begin_anew()

    def stepped(self, revision):
        """A change was acknowledged as this revision."""
        with self._mu:
            if revision in self._steps or revision <= self.revision:
                raise Disagreement(f"{self.name}: revision {revision} came twice")
            self._steps.add(revision)

    def gave_out(self, mapping_id):
        """A mapping was made."""
        with self._mu:
            self._last_mapping = max(self._last_mapping, mapping_id)
            held = sum(mapping_id in d.holdings.mappings for d in self.drivers)
        if held:
            raise Disagreement(f"{self.name}: mapping id {mapping_id} was given out twice")

    def refused(self, client, rpc, refusal):
        """Whether the server is there still. Nothing but a device may refuse."""
        if refusal.reason == "ATTACHMENT_FAILED" and self.refuses:
            return self.repair(client)
        if refusal.reason != "DEVICE_ERROR" or not self.refuses:
            raise Disagreement(f"{self.name}: {rpc} was refused: {refusal}")
        return True

    # ---- Devices

    def connect(self, client):
        """The relay comes (back). False when the server is gone."""
        if self.relay is None or not self.exists:
            return True
        try:
            if not self.relay.attach(client):
                return False
            if not self._relay_began:
                # Which took a revision, and nothing else did.
                self.stepped(client.space(self.name).revision)
                self._relay_began = True
        except grpc.RpcError:
            return False
        return True

    def repair(self, client):
        """Resets devices whose attachment is FAILED. False when the server is gone."""
        try:
            for attachment in client.space(self.name).attachments:
                if attachment.state == FAILED:
                    try:
                        client.ResetDevice(device=attachment.device)
                    except grpc.RpcError as error:
                        if error.code() != grpc.StatusCode.INTERNAL:
                            raise
        except grpc.RpcError:
            return False
        return True

    def wait_live(self, client):
        """Every attachment is LIVE; those of a device that refuses after some resets."""
        def live():
            states = {a.state for a in client.space(self.name).attachments}
            if FAILED in states and self.refuses:
                self.repair(client)
            return states <= {LIVE}

        wait_until(live, f"everything attached to {self.name} is LIVE")

    # ---- Checking

    def holdings(self):
        """What all drivers have, with what is nobody's: the devices that it was made with."""
        if not self.exists:
            return nothing()
        given = nothing()
        given.attachments.update({d: () for d in self.devices})
        if self._relay_began:
            given.attachments[self.relay.device] = ()
        return put_together([given] + [d.holdings for d in self.drivers])

    def check(self, client):
        """After a restart."""
        if not self.exists and len(self.drivers) > 1:
            # They could not all do it.
            self.created(client.CreateSpace(space=self.name, attachments=[
                dict(device=d) for d in self.devices]).space)
        if self.exists and self.relay is not None:
            if not self.connect(client):
                raise Disagreement(f"{self.name}: the relay cannot come back")
        found = find(client, self.name)
        existed = self.exists
        before = [d.what_it_has() for d in self.drivers]
        acknowledged = set(self._steps)
        if existed and found is not None:
            self.wait_live(client)
        for driver in self.drivers:
            driver.ask_again(client, space_is_there=found is not None)
        pending = [d.pending for d in self.drivers]
        for driver in self.drivers:
            if driver.pending is None:
                continue
            self.in_flight += 1
            if not driver.send(client):
                raise Disagreement(f"{self.name}: the server went away again")
        if existed and self.exists:
            self._check_found(found, before, pending, acknowledged)
        else:
            self._check_coming_and_going(found, existed, before, pending)
        self._check_now(client)

    def _check_found(self, found, before, pending, acknowledged):
        if found is None:
            raise Disagreement(f"{self.name}: it is gone")
        if found.space.uid != self._uid:
            raise Disagreement(f"{self.name}: it is another one")
        mine = nothing()
        for driver, had, request in zip(self.drivers, before, pending):
            share = share_of(found.holdings, driver)
            for kind, part in zip(mine, share):
                kind.update(part)
            if share not in (had, driver.holdings):
                raise Disagreement(f"{driver.name}: {request} is there by halves: "
                                   f"{difference(share, had)}; or, had it been done: "
                                   f"{difference(share, driver.holdings)}")
            if request is None and share != had:
                raise Disagreement(f"{driver.name}: {difference(share, had)}")
        given = self.holdings().attachments.keys() - mine.attachments.keys()
        mine.attachments.update({d: g for d, g in found.holdings.attachments.items()
                                 if d in given})
        if mine != found.holdings:
            raise Disagreement(f"{self.name}: nobody's: {difference(found.holdings, mine)}")
        # Of the repeats, those that were there before.
        there = {r for r in self._steps if r <= found.revision}
        if not acknowledged <= there or there != set(range(self.revision + 1, found.revision + 1)):
            raise Disagreement(f"{self.name}: at revision {found.revision}, found at "
                               f"{self.revision} before; acknowledged {sorted(acknowledged)}, "
                               f"repeated {sorted(self._steps - acknowledged)}")

    def _check_coming_and_going(self, found, existed, before, pending):
        """It did not exist, or does not any more, or is another one: there was one driver."""
        assert len(self.drivers) == 1
        rpc = pending[0] and pending[0][0]
        if found is None:
            if existed and rpc != "DeleteSpace":
                raise Disagreement(f"{self.name}: it is gone")
            return
        if not existed and rpc != "CreateSpace":
            raise Disagreement(f"{self.name}: a space that nobody asked for")
        share = share_of(found.holdings, self.drivers[0])
        if share != before[0]:
            raise Disagreement(f"{self.name}: {rpc} is there by halves: "
                               f"{difference(share, before[0])}")

    def _check_now(self, client):
        """Nothing is under way: all ways of looking agree."""
        found = find(client, self.name)
        if not self.exists:
            if found is not None:
                raise Disagreement(f"{self.name}: it was deleted")
            return
        expected = self.holdings()
        if found.holdings != expected:
            raise Disagreement(f"{self.name}: {difference(found.holdings, expected)}")
        newest = max(self._steps, default=self.revision)
        if found.revision != newest:
            raise Disagreement(f"{self.name}: revision {found.revision} instead of {newest}")
        self.revision, self._steps = newest, set()
        self.wait_live(client)
        check_indexes(client, found)
        if self.relay is not None and self._relay_began:
            self.relay.check(found.holdings.mappings.values())
