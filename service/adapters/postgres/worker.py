"""What a worker does with the store: claim steps, prolong, finish or give up its claims."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from machines.model import StepStatus
from schemas.base import Json
from schemas.sharding import shard_of
from service.adapters.postgres import rows
from service.adapters.postgres.connections import Connections
from service.adapters.postgres.listening import STEPS as READY_STEPS
from service.adapters.postgres.listening import Listening
from service.adapters.postgres.owner import in_order
from service.adapters.postgres.queries import STEPS
from service.errors import LostLease
from service.ports import Loaded, NewSignal, StepRow, Token


class WorkerSide:
    """The Protocol `StepStore`.

    `attempt` grows only when a step begins anew. A claim that follows an answer goes on with the attempt that asked,
    and an interrupted one is the same attempt still: its probe decides, and a crash costs no part of the budget.
    """

    _others: Connections
    _listening: Listening
    shards: int

    async def claim(
        self, worker: str, places: Sequence[str], now: datetime, lease: timedelta, limit: int
    ) -> tuple[StepRow, ...]:
        found = await self._others.fetch(STEPS["claim"], worker, list(places), now, lease, limit)
        return in_order([rows.step(row) for row in found])

    async def renew_claim(self, row: StepRow, lease: timedelta) -> None:
        if await self._others.value(STEPS["renew_claim"], *_claim(row), lease) is None:
            raise _lost(row)

    async def taken(self, claims: Sequence[StepRow]) -> frozenset[Token]:
        columns = zip(*map(_claim, claims), strict=True) if claims else ([],) * 4
        found = await self._others.fetch(STEPS["taken"], *map(list, columns))
        return frozenset(Token(row["token"]) for row in found)

    async def let_go(self, row: StepRow) -> None:
        await self._others.fetch(STEPS["let_go"], *_claim(row))

    async def finish(
        self,
        row: StepRow,
        status: StepStatus,
        result: Mapping[str, Json],
        error: str | None,
        ready_at: datetime | None,
        signal: NewSignal,
    ) -> None:
        """Allowed as long as nobody else has claimed the step, even when the lease ended: what is known is not lost.

        Ready again, the step's answer is used up and its next claim is a new attempt.
        """
        text = None if error is None else rows.readable(error)
        done = await self._others.fetch(
            STEPS["finish"], *_claim(row), status.value, rows.dump(result), text, ready_at, *self._signal(signal)
        )
        if not done:
            raise _lost(row)

    async def wait(self, row: StepRow, until: datetime, signal: NewSignal) -> bool:
        """An answer that the claim already carried is used up: the step waits for the next one."""
        waits: bool = await self._others.value(
            STEPS["wait"],
            *_claim(row),
            rows.optional_dump(row.answer),
            shard_of(row.system, self.shards),
            until,
            *self._signal(signal),
        )
        return waits

    async def context(self, row: StepRow) -> Loaded:
        [found] = await self._others.fetch(STEPS["context"], row.key.instance, row.key.entry)
        snapshot = None if found["instance"] is None else rows.snapshot(found["instance"])
        return Loaded(snapshot, tuple(map(rows.step, found["steps"])))

    async def wait_for_step(self, timeout: float) -> None:
        await self._listening.wait(READY_STEPS, "", timeout)

    def _signal(self, signal: NewSignal) -> tuple[object, ...]:
        shard = shard_of(signal.system, self.shards)
        return (shard, signal.system, signal.body, signal.user, signal.local)


def _claim(row: StepRow) -> tuple[object, ...]:
    return (row.key.instance, row.key.entry, row.key.name, row.token)


def _lost(row: StepRow) -> LostLease:
    return LostLease(f"token {row.token} is not the claim of step {row.key.name} of {row.key.instance} any more")
