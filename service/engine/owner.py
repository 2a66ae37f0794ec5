"""Who decides for a shard: the lease, its renewal, and everything that runs only while it is held.

An owner that cannot renew stops, and so closes its channels, before its lease ends by its own monotonic clock.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta

import structlog

from schemas.sharding import shard_of
from service import metrics
from service.crash import crash_point
from service.engine.definitions import Definitions
from service.engine.intake import Intake
from service.engine.loss import Look
from service.engine.outbox import Outbox
from service.errors import LostLease, Transient, Unavailable, leaves
from service.ports import Broker, Clock, Ownership, Store
from service.timeouts import time_limit

MARGIN = 0.2
"""The share of a lease that is given up for safety: work stops when less than this is left."""

PATIENCE = 2
"""Leases for which an owner keeps its shard while RabbitMQ cannot be reached from here: from elsewhere it may be.

Doubled each time until RabbitMQ is back: in an outage for everybody the shard must not change hands all the time.
"""
LONGEST_PATIENCE = 64

AFTER_A_FAULT = 2.0
"""Seconds before an owner that broke strives for the lease again: a fault that stays must not become a busy loop."""

log = structlog.get_logger()


async def _apart(work: Coroutine[None, None, None]) -> None:
    """`work`, in a task of its own. A task group that is cancelled in the moment in which one of its tasks fails tells
    of the failure only (before Python 3.13); waited for from outside, a cancellation is never lost."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task})
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    task.result()


class Owner:
    """Strives for one shard's lease for ever, and runs intake and outbox while it holds it."""

    def __init__(
        self,
        shard: int,
        name: str,
        store: Store,
        broker: Broker,
        definitions: Callable[[], Definitions],
        clock: Clock,
        *,
        lease: timedelta,
        batch: int,
        shards: int = 1,
    ) -> None:
        self.shard = shard
        self.owns = False
        self.trouble: str | None = None
        """Why this owner broke, for people, until it has held the shard for a while without breaking."""
        self._name = name
        self._store = store
        self._broker = broker
        self._patience = PATIENCE
        self._intake: Intake | None = None
        self._definitions = definitions
        self._clock = clock
        self._lease = lease
        self._batch = batch
        self._shards = shards
        self._until = 0.0
        self._look: Look | None = None

    @property
    def unlooked(self) -> str | None:
        """Why it is not known whether the database has lost anything, for people; None when it is known."""
        return self._look.trouble if self.owns and self._look is not None else None

    async def run(self) -> None:
        """Until cancelled; hands the lease back then."""
        failures = 0
        while True:
            if not self._reaches():
                # Who reaches RabbitMQ is to be quicker; if nobody does, signals and timers still need an owner.
                await self._clock.sleep(self._lease.total_seconds() / 2)
            asked = self._clock.monotonic()
            try:
                ownership = await self._store.acquire(self.shard, self._name, self._lease)
            except (Unavailable, Transient) as error:
                failures += 1
                if failures == 1:
                    log.warning("owner.waits", shard=self.shard, error=str(error))
                await self._clock.sleep(min(2.0, 0.05 * 2 ** min(failures, 6)))
                continue
            failures = 0
            if ownership is None:
                await self._clock.sleep(self._lease.total_seconds() / 10)
                continue
            crash_point("owner.after_acquire")
            self._until = asked + self._lease.total_seconds() * (1 - MARGIN)
            await _apart(self._hold(ownership))

    async def _hold(self, ownership: Ownership) -> None:
        log.info("owner.holds", shard=self.shard, token=ownership.token, name=self._name)
        metrics.SHARDS_OWNED.inc()
        metrics.TAKEOVERS.inc()
        self.owns = True
        broke = False
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew(ownership))
                tasks.create_task(self._yield_when_cut_off())
                tasks.create_task(self._decide(ownership))
        except* LostLease as lost:
            log.warning("owner.lost", shard=self.shard, why="; ".join(map(str, leaves(lost))))
        except* Exception as faults:
            # A fault of our own. Everything that matters is in the tables, so beginning anew is safe.
            broke = True
            self.trouble = f"shard {self.shard} breaks: {'; '.join(map(repr, leaves(faults)))}"
            log.exception("owner.broke", shard=self.shard, then=f"strives for the lease again in {AFTER_A_FAULT:g}s")
        finally:
            self.owns = False
            metrics.SHARDS_OWNED.dec()
            crash_point("owner.before_release")
            await self._release(ownership)
        if broke:
            # The lease is given back first: another replica, perhaps without the fault, is quicker.
            await self._clock.sleep(max(AFTER_A_FAULT, self._lease.total_seconds() / 5))

    async def _renew(self, ownership: Ownership) -> None:
        pause = self._lease.total_seconds() / 4
        said = False
        while True:
            await self._clock.sleep(pause)
            asked = self._clock.monotonic()
            left = self._until - asked
            if left <= 0:
                raise LostLease(f"shard {self.shard}: its lease could not be renewed in time; another owner may follow")
            try:
                async with time_limit(left):
                    await self._store.renew(ownership, self._lease)
            except (Unavailable, Transient, TimeoutError) as error:
                if not said:
                    why = str(error) or "PostgreSQL says nothing"
                    log.warning("owner.cannot_renew", shard=self.shard, error=why, seconds_left=round(left, 1))
                said = True
                # Counted anew: the question itself may have taken all that was left.
                pause = max(0.0, min(0.2, self._until - self._clock.monotonic()))
                continue
            crash_point("owner.after_renew")
            self._until = asked + self._lease.total_seconds() * (1 - MARGIN)
            self.trouble = None
            said = False
            pause = self._lease.total_seconds() / 4

    @property
    def waits(self) -> str | None:
        """Why this owner settles nothing of what has arrived, for people; None when it does."""
        return self._intake.trouble if self.owns and self._intake is not None else None

    def _reaches(self) -> bool:
        return all(self._broker.available().values())

    async def _yield_when_cut_off(self) -> None:
        """Raises LostLease once RabbitMQ has been away for too long, seen from here: the lease is handed back then."""
        lease = self._lease.total_seconds()
        since = self._clock.monotonic()
        while True:
            await self._clock.sleep(lease / 4)
            now = self._clock.monotonic()
            if self._reaches():
                since, self._patience = now, PATIENCE
            elif now - since > self._patience * lease:
                self._patience = min(self._patience * 2, LONGEST_PATIENCE)
                cannot = f"RabbitMQ cannot be reached from here for {now - since:.0f}s"
                raise LostLease(f"shard {self.shard}: {cannot}; it is left to a replica that can")

    async def _decide(self, ownership: Ownership) -> None:
        systems = [name for name in self._definitions().systems if shard_of(name, self._shards) == self.shard]
        self._look = look = Look(self._store, self._broker, ownership, systems, self._clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(look.run())
            await look.ended()
            await self._work(ownership)

    async def _work(self, ownership: Ownership) -> None:
        async with self._broker.lanes(self.shard) as lanes, self._broker.publisher() as publisher:
            crash_point("owner.after_open")
            outbox = Outbox(self._store, publisher, ownership, self._clock)
            self._intake = intake = Intake(
                self._store, lanes, outbox, self._definitions(), ownership, self._clock, size=self._batch
            )  # fmt: skip
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(outbox.run())
                tasks.create_task(intake.run())

    async def _release(self, ownership: Ownership) -> None:
        try:
            async with time_limit(2.0):
                await self._store.release(ownership)
        except (Unavailable, Transient, LostLease, TimeoutError) as error:
            why = str(error) or "PostgreSQL says nothing"
            log.info("owner.not_released", shard=self.shard, error=why, then="the lease ends by itself")
        crash_point("owner.after_release")
