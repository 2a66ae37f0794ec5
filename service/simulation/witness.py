"""The store of a story with a witness before it: who wrote under which token, and who held it then. Nothing is judged.

It sees what the tables took in, whatever the engine believes and whatever the store's own looks let pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from machines.model import StepStatus
from service.adapters.memory.store import MemoryStore
from service.ports import Batch, Clock, Ownership, StepKey, StepRow, Token


@dataclass(frozen=True, slots=True)
class Write:
    """A write that was accepted. `whose`: a shard, or a step's command id; `held`: the token of who held it then."""

    what: str
    whose: str
    token: int
    held: int


class WatchedStore(MemoryStore):
    """`writes` and `stolen` (claims of steps whose claim still lasted) in their order; `taken_over`: how often a shard
    went to another owner because a lease ended that nobody had given back."""

    def __init__(self, clock: Clock, *, shards: int = 1) -> None:
        super().__init__(clock, shards=shards)
        self.writes: list[Write] = []
        self.stolen: list[Write] = []
        self.taken_over = 0
        self._owners: dict[int, tuple[str, Token]] = {}
        self._given_back: set[Token] = set()
        self._lasting: dict[StepKey, int] = {}

    async def acquire(self, shard: int, owner: str, lease: timedelta) -> Ownership | None:
        mine = await super().acquire(shard, owner, lease)
        if mine is not None:
            before, token = self._owners.get(shard, (owner, mine.token))
            self.taken_over += before != owner and token not in self._given_back
            self._owners[shard] = owner, mine.token
        return mine

    async def release(self, ownership: Ownership) -> None:
        await super().release(ownership)
        if self.tables.leases[ownership.shard].until == self._clock.now():
            self._given_back.add(ownership.token)

    async def commit(self, batch: Batch) -> tuple[int, ...]:
        ids = await super().commit(batch)
        self._shard_written("batch", batch.shard, batch.token)
        return ids

    async def undeliverable(self, shard: int, token: Token, row: int, why: str) -> None:
        await super().undeliverable(shard, token, row, why)
        self._shard_written("burial", shard, token)

    async def claim(
        self, worker: str, places: Sequence[str], now: datetime, lease: timedelta, limit: int
    ) -> tuple[StepRow, ...]:
        rows = await super().claim(worker, places, now, lease, limit)
        for row in rows:
            self._step_written("claim", row)
            if held := self._lasting.pop(row.key, 0):
                self.stolen.append(Write("claim", row.key.command_id, row.token or 0, held))
        return rows

    async def finish(self, row: StepRow, *given: Any, **more: Any) -> None:
        await super().finish(row, *given, **more)
        self._step_written("record", row)

    async def wait(self, row: StepRow, *given: Any, **more: Any) -> bool:
        waits = await super().wait(row, *given, **more)
        self._step_written("record", row)
        return waits

    def _is_free(self, row: StepRow, now: datetime) -> bool:
        free = super()._is_free(row, now)
        running = free and row.status is StepStatus.RUNNING
        if running and row.lease_until is not None and row.lease_until > self._clock.now():
            self._lasting[row.key] = row.token or 0
        return free

    def _shard_written(self, what: str, shard: int, token: Token) -> None:
        lease = self.tables.leases.get(shard)
        self.writes.append(Write(what, f"shard {shard}", token, lease.token if lease is not None else 0))

    def _step_written(self, what: str, row: StepRow) -> None:
        self.writes.append(Write(what, row.key.command_id, row.token or 0, self.tables.steps[row.key].token or 0))
