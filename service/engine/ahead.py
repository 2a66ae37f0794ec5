"""The next batch decided while PostgreSQL commits the one before it, where neither can mean anything to the other.

Only a backlog is decided ahead: with less than a whole batch waiting, batches would become small and commits many. What
was decided is committed in its turn, after the batch before; if that one fails, it is thrown away.
"""

import asyncio
from collections.abc import Sequence

import structlog

from service.engine.deciding import Decided, Decider
from service.engine.reading import Arrived, Meant, from_delivery, meant
from service.engine.work import Work
from service.ports import Batch, Clock, Delivery, Lanes

log = structlog.get_logger()


class Ahead:
    """At most one batch of deliveries, taken from the lanes and not yet taken in."""

    def __init__(self, lanes: Lanes, decider: Decider, clock: Clock, size: int) -> None:
        self._lanes = lanes
        self._decider = decider
        self._clock = clock
        self._size = size
        self._deliveries: Sequence[Delivery] = ()
        self._deciding: asyncio.Task[Decided | None] | None = None

    def begin(self, work: Work, before: Batch, tasks: asyncio.TaskGroup) -> None:
        """`before`, the batch of `work`, is about to be committed: takes the next, if a whole one waits, and decides it
        meanwhile."""
        if self._deliveries or self._lanes.waiting < self._size or not _only_moves(before) or not work.stirs_no_run():
            return
        self._deliveries = self._lanes.take(self._size)
        if self._deliveries and not any(delivery.redelivered for delivery in self._deliveries):
            self._deciding = tasks.create_task(self._decide(self._deliveries, before))

    def give_up(self) -> None:
        """What was decided holds for one commit, since another may change what it was decided on. The deliveries keep
        their turn."""
        if self._deciding is not None:
            self._deciding.cancel()
            self._deciding = None

    async def next(self) -> tuple[Sequence[Delivery], Decided | None]:
        """The deliveries whose turn has come, if any were taken, and what was decided of them, if anything was."""
        deliveries, deciding = self._deliveries, self._deciding
        decided = await deciding if deciding is not None else None
        self._deliveries, self._deciding = (), None
        return deliveries, decided

    async def _decide(self, deliveries: Sequence[Delivery], before: Batch) -> Decided | None:
        now = self._clock.now()
        try:
            arrived = [from_delivery(delivery, self._decider.definitions, now) for delivery in deliveries]
            addressed = meant(arrived, self._decider.definitions)
            if not _apart(before, arrived, addressed):
                return None
            return await self._decider.decide(arrived, addressed, now)
        except Exception as error:  # noqa: BLE001  # it is decided again in its turn, where this is told and dealt with
            log.debug("ahead.not_decided", events=len(deliveries), error=repr(error))
            return None


def _only_moves(batch: Batch) -> bool:
    """Whether it touches no steps, due times, signals, dead letters and gates: only instances."""
    beside = (
        batch.leave, batch.steps_new, batch.step_changes, batch.timers, batch.timers_fired, batch.signals_done,
        batch.dead, batch.gates,
    )  # fmt: skip
    return not any(beside)


def _apart(before: Batch, arrived: Sequence[Arrived], addressed: Sequence[Meant]) -> bool:
    """Whether no event of `before` is among them, and none of them means an instance that `before` moves."""
    moved = {write.snapshot.instance for write in before.snapshots}
    settled = {row.key for row in before.inbox}
    return settled.isdisjoint(one.key for one in arrived) and not any(moved.intersection(its) for its in addressed)
