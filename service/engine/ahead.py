"""The next batch decided while PostgreSQL commits the one before it, where neither can mean anything to the other.

Only a backlog is decided ahead: with less than a whole batch waiting, batches would become small and commits many. What
was decided is committed in its turn, after the batch before; if anything else is committed first, it is thrown away.
"""

import asyncio
from collections.abc import Sequence
from itertools import chain

import structlog

from service.engine.deciding import Decided, Decider
from service.engine.reading import from_delivery, meant
from service.engine.work import Work
from service.ports import Clock, Delivery, Lanes

log = structlog.get_logger()


class Ahead:
    """At most one batch of deliveries, taken from the lanes and not yet taken in. Its decisions run in `tasks`."""

    def __init__(self, lanes: Lanes, decider: Decider, clock: Clock, size: int, tasks: asyncio.TaskGroup) -> None:
        self._lanes = lanes
        self._decider = decider
        self._clock = clock
        self._size = size
        self._tasks = tasks
        self._deliveries: Sequence[Delivery] = ()
        self._deciding: asyncio.Task[Decided | None] | None = None

    def begin(self, before: Work) -> None:
        """`before` is about to be committed: takes the next batch, if a whole one waits, and decides it meanwhile.

        What was delivered before is only taken: it may have killed its owner, and is tried alone in its turn.
        """
        if self._deliveries or self._lanes.waiting() < self._size or not before.only_moves_the_resting:
            return
        self._deliveries = self._lanes.take(self._size)
        if self._deliveries and not any(delivery.redelivered for delivery in self._deliveries):
            self._deciding = self._tasks.create_task(self._decide(self._deliveries, before))

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

    async def _decide(self, deliveries: Sequence[Delivery], before: Work) -> Decided | None:
        now = self._clock.now()
        try:
            arrived = [from_delivery(delivery, self._decider.definitions, now) for delivery in deliveries]
            addressed = meant(arrived, self._decider.definitions)
            if before.touches((one.key for one in arrived), chain.from_iterable(addressed)):
                return None
            return await self._decider.decide(arrived, addressed, now)
        except Exception as error:  # noqa: BLE001  # it is decided again in its turn, where this is told and dealt with
            log.debug("ahead.not_decided", events=len(deliveries), error=repr(error))
            return None
