"""The memory double of `StepStore` and `Reader`; the rules are those of the PostgreSQL store, and so are the tests."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from machines.model import ENDED, InstanceId, StepStatus
from schemas.base import Json
from schemas.sharding import shard_of
from service.adapters.memory.faults import Doors, door
from service.adapters.memory.tables import TAKEN, Tables, storable
from service.adapters.memory.waking import Bell
from service.errors import LostLease
from service.ports import (
    Clock,
    DeadLetter,
    GateView,
    InstanceView,
    Loaded,
    LogRow,
    NewSignal,
    Signal,
    StepRow,
    TimerRow,
    Token,
)

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class WorkerSide(Doors):
    """The Protocol `StepStore`: see the PostgreSQL store for when an attempt counts."""

    tables: Tables
    shards: int
    _clock: Clock
    _bell: Bell

    @door
    async def claim(
        self, worker: str, places: Sequence[str], now: datetime, lease: timedelta, limit: int
    ) -> tuple[StepRow, ...]:
        free = [row for row in self.tables.steps.values() if row.place in places and self._is_free(row, now)]
        free.sort(key=lambda r: (r.ready_at or _LONG_AGO, r.key.instance, r.planned.position, r.key.name))
        claimed = []
        for row in free[:limit]:
            interrupted = row.status is StepStatus.RUNNING
            goes_on = interrupted or row.answer is not None
            self.tables.steps[row.key] = mine = replace(
                row,
                status=StepStatus.RUNNING,
                token=self.tables.token(),
                worker=worker,
                lease_until=self._clock.now() + lease,
                attempt=max(row.attempt, 1) if goes_on else row.attempt + 1,
                error="interrupted" if interrupted else row.error if row.error != "interrupted" else None,
            )
            claimed.append(mine)
        return in_order(claimed)

    def _is_free(self, row: StepRow, now: datetime) -> bool:
        if row.status is StepStatus.READY:
            ripe = row.ready_at is None or row.ready_at <= now
        else:
            over = row.lease_until is not None and row.lease_until <= self._clock.now()
            ripe = row.status is StepStatus.RUNNING and over
        return ripe and not self._is_held_back(row) and self.tables.is_cleared(row.system, self._clock.now())

    def _is_held_back(self, row: StepRow) -> bool:
        """A worker is still at a step of the instance that was taken from it."""
        now = self._clock.now()
        return any(
            one.key.instance == row.key.instance and one.key.entry <= row.key.entry
            and one.status in TAKEN and one.lease_until is not None and one.lease_until > now
            for one in self.tables.steps.values()
        )  # fmt: skip

    @door
    async def taken(self, claims: Sequence[StepRow]) -> frozenset[Token]:
        stored = (self.tables.steps.get(row.key, row) for row in claims)
        tokens = {row.token for row in claims}
        return frozenset(one.token for one in stored if one.token in tokens and one.status in TAKEN and one.token)

    @door
    async def let_go(self, row: StepRow) -> None:
        stored = self.tables.steps.get(row.key)
        if stored is not None and stored.token == row.token and stored.status in TAKEN and stored.worker is not None:
            self.tables.steps[row.key] = replace(stored, worker=None, lease_until=None)
            self._bell.ring("steps")

    @door
    async def renew_claim(self, row: StepRow, lease: timedelta) -> None:
        self.tables.steps[row.key] = replace(self._mine(row), lease_until=self._clock.now() + lease)

    @door
    async def finish(
        self,
        row: StepRow,
        status: StepStatus,
        result: Mapping[str, Json],
        error: str | None,
        ready_at: datetime | None,
        signal: NewSignal,
    ) -> None:
        storable(result)
        mine = self._mine(row)
        self.tables.steps[row.key] = replace(
            mine,
            status=status,
            result=result,
            error=error,
            ready_at=ready_at,
            worker=None,
            lease_until=None,
            answer=None if status is StepStatus.READY else mine.answer,
        )
        self.append_signals((signal,))
        if status is StepStatus.READY:
            self._bell.ring("steps")

    @door
    async def wait(self, row: StepRow, until: datetime, signal: NewSignal) -> bool:
        mine = self._mine(row)
        answered = mine.answer is not None and mine.answer != row.answer
        self.tables.steps[row.key] = replace(
            mine,
            status=StepStatus.READY if answered else StepStatus.WAITING,
            answer=mine.answer if answered else None,
            ready_at=None,
            worker=None,
            lease_until=None,
            error=None,
        )
        if answered:
            self._bell.ring("steps")
            return False
        timer = TimerRow(row.key.instance, row.key.entry, f"step:{row.key.name}", until)
        self.tables.timers[timer.instance, timer.kind] = (shard_of(row.system, self.shards), timer)
        self.append_signals((signal,))
        return True

    @door
    async def context(self, row: StepRow) -> Loaded:
        place = (row.key.instance, row.key.entry)
        steps = [step for key, step in self.tables.steps.items() if (key.instance, key.entry) == place]
        return Loaded(self.tables.instances.get(row.key.instance), in_order(steps))

    async def wait_for_step(self, timeout: float) -> None:
        await self._bell.wait("steps", timeout)

    def append_signals(self, signals: Sequence[NewSignal]) -> None:
        """Adds them and wakes the owners of their shards."""
        for new in signals:
            number = self.tables.number("signal")
            shard = shard_of(new.system, self.shards)
            self.tables.signals[number] = (shard, Signal(number, new.body, new.user, new.local, self._clock.now()))
            self._bell.ring(f"signals:{shard}")

    def _mine(self, row: StepRow) -> StepRow:
        stored = self.tables.steps.get(row.key)
        if stored is None or stored.status is not StepStatus.RUNNING or stored.token != row.token:
            raise LostLease(f"token {row.token} is not the claim of step {row.key.name} of {row.key.instance} any more")
        return stored


class ReaderSide(Doors):
    """The Protocol `Reader`."""

    tables: Tables

    @door
    async def instances(self, system: str | None = None) -> tuple[InstanceView, ...]:
        found = [one for _, one in sorted(self.tables.instances.items()) if system in (None, one.system)]
        timers = sorted((row for _, row in self.tables.timers.values()), key=lambda row: row.due_at)
        return tuple(
            InstanceView(
                one,
                self.current_steps(one.instance),
                tuple(row for row in timers if (row.instance, row.entry) == (one.instance, one.entry)),
            )
            for one in found
        )

    def current_steps(self, instance: InstanceId) -> tuple[StepRow, ...]:
        """The steps of the instance's current state entry."""
        snapshot = self.tables.instances.get(instance)
        steps = (row for row in self.tables.steps.values() if row.key.instance == instance)
        return in_order([row for row in steps if snapshot is not None and row.key.entry == snapshot.entry])

    @door
    async def history(self, instance: InstanceId, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]:
        rows = [row for (whose, seq), row in self.tables.log.items() if whose == instance and seq > after_seq]
        return tuple(sorted(rows, key=lambda row: row.seq)[:limit])

    @door
    async def steps(self, instance: InstanceId, first_entry: int = 0) -> tuple[StepRow, ...]:
        rows = [r for r in self.tables.steps.values() if r.key.instance == instance and r.key.entry >= first_entry]
        return tuple(sorted(in_order(rows), key=lambda row: row.key.entry))

    @door
    async def dead_letters(self, limit: int = 100) -> tuple[DeadLetter, ...]:
        return tuple(reversed(self.tables.dead))[:limit]

    @door
    async def gates(self, system: str | None = None) -> tuple[GateView, ...]:
        return self.tables.gates.views(system)

    @door
    async def counts(self) -> Mapping[str, int]:
        kept = self.tables
        counts = {
            "signals": len(kept.signals),
            "outbox": len(kept.outbox),
            "undelivered": len(kept.undelivered) - sum(kind == "undelivered" for kind, _ in kept.settled),
            "dead": len(kept.dead) - sum(kind == "dead" for kind, _ in kept.settled),
            "timers": len(kept.timers),
            "held": len(kept.gates.rows),
        }
        for row in kept.steps.values():
            if row.status not in ENDED:
                counts[f"steps_{row.status}"] = counts.get(f"steps_{row.status}", 0) + 1
        return counts


def in_order(rows: Sequence[StepRow]) -> tuple[StepRow, ...]:
    """By position, then by name."""
    return tuple(sorted(rows, key=lambda row: (row.planned.position, row.key.name)))
