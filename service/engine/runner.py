"""The runner: claims steps that are ready and holds each claim while its action is performed, and no longer.

It decides nothing about the machine: a step's outcome goes through the same door as every event.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from service.crash import crash_point
from service.engine.definitions import Definitions
from service.engine.performing import Performer, patiently
from service.errors import LostLease, RelightError, Transient, Unavailable
from service.ports import Action, Clock, Ids, StepRow, StepStore, Token, World
from service.timeouts import time_limit

MARGIN = 0.2
"""The share of a claim's lease that is given up for safety: what the action needs to end when it is cancelled."""
RENEW_AGAIN = 0.2
"""Seconds between two tries to renew a claim while the database is away."""
LOOK_AGAIN = 0.5
"""Seconds between two looks at what is ready and what was taken away, when nobody wakes us."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Claim:
    """A step at work here. `taken` is set when the machine wants it no more."""

    row: StepRow
    taken: asyncio.Event


class Runner:
    """One worker. `places` are those it serves; `width` how many steps it performs at a time."""

    def __init__(
        self,
        store: StepStore,
        actions: Mapping[str, Action],
        world: World,
        definitions: Callable[[], Definitions],
        clock: Clock,
        ids: Ids,
        *,
        name: str,
        places: Sequence[str],
        lease: timedelta,
        width: int = 8,
    ) -> None:
        self._store = store
        self._performer = Performer(store, actions, world, definitions, clock, ids)
        self._clock = clock
        self._name = name
        self._places = places
        self._lease = lease
        self._width = width
        self._claims: dict[Token | None, Claim] = {}
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled: the running actions are cancelled with it and taken up again by their next claim."""
        failures = 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._freed.clear()
                asked = self._clock.monotonic()
                try:
                    rows = await self._claim()
                    if not rows:
                        await self._look()
                except (Unavailable, Transient) as error:
                    failures += 1
                    if failures == 1:
                        log.warning("runner.waits", error=str(error))
                    await self._clock.sleep(min(2.0, 0.05 * 2 ** min(failures, 6)))
                    continue
                failures = 0
                for row in rows:
                    self._claims[row.token] = claim = Claim(row, asyncio.Event())
                    tasks.create_task(self._hold(claim, asked))
                if not rows:
                    await self._rest()

    async def _claim(self) -> Sequence[StepRow]:
        room = self._width - len(self._claims)
        if room <= 0:
            return ()
        return await self._store.claim(self._name, self._places, self._clock.now(), self._lease, room)

    async def _look(self) -> None:
        """Ends what the machine wants no more: whatever follows it waits until it has ended."""
        if self._claims:
            for token in await self._store.taken([claim.row for claim in self._claims.values()]):
                if token in self._claims:
                    self._claims[token].taken.set()

    async def _rest(self) -> None:
        """Until somebody tells of steps, or a full worker has room again."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(self._store.wait_for_step(LOOK_AGAIN))]
        if len(self._claims) >= self._width:
            waits.append(asyncio.create_task(self._freed.wait()))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        except (Unavailable, Transient):
            await self._clock.sleep(LOOK_AGAIN)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _hold(self, claim: Claim, asked: float) -> None:
        """Performs a step claimed at `asked` (monotonic) while its lease is renewed; a lost one ends the action."""
        crash_point("runner.after_claim")
        row = claim.row
        work = asyncio.create_task(self._performer.perform(row))
        beside = [asyncio.create_task(self._renew(row, asked)), asyncio.create_task(claim.taken.wait())]
        try:
            await asyncio.wait({work, *beside}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, *beside):
                task.cancel()
            ended = await asyncio.gather(work, *beside, return_exceptions=True)
            del self._claims[row.token]
            self._freed.set()
        over = claim.taken.is_set()
        for error in ended:
            if isinstance(error, LostLease):
                over = True
                log.info("runner.claim_over", instance=row.key.instance, step=row.key.name, why=str(error))
            elif isinstance(error, Exception):
                # The row stays claimed until its lease ends; then it is claimed again, and probed first.
                log.error("runner.broke", instance=row.key.instance, step=row.key.name, exc_info=error)
        if over:
            await self._let_go(row)

    async def _let_go(self, row: StepRow) -> None:
        """The action has ended: what waited for that may begin. After a lease it would begin anyway."""
        crash_point("runner.before_let_go")
        try:
            async with time_limit(self._lease.total_seconds()):
                await patiently(self._clock, lambda: self._store.let_go(row))
        except (TimeoutError, RelightError) as error:
            log.warning("runner.not_let_go", instance=row.key.instance, step=row.key.name, error=str(error))
        else:
            crash_point("runner.after_let_go")
            log.info("runner.let_go", instance=row.key.instance, step=row.key.name)

    async def _renew(self, row: StepRow, asked: float) -> None:
        """Until cancelled. Raises LostLease while the lease still lasts, so that the action ends before another's."""
        lease = self._lease.total_seconds()
        until = asked + lease * (1 - MARGIN)
        pause = lease / 4
        while True:
            await self._clock.sleep(pause)
            asked = self._clock.monotonic()
            rest = until - asked
            try:
                # A database that says nothing must not keep the action beyond its lease: another worker may follow.
                async with time_limit(max(rest, 0.0)):
                    await self._store.renew_claim(row, self._lease)
            except (Unavailable, Transient, TimeoutError) as error:
                if self._clock.monotonic() >= until:
                    raise LostLease(f"the claim of {row.key.name} could not be renewed in time") from error
                pause = min(RENEW_AGAIN, max(until - self._clock.monotonic(), 0.0))
                continue
            crash_point("runner.after_renew")
            until = asked + lease * (1 - MARGIN)
            pause = lease / 4
