"""The memory double of Relight's own tables: same rules as PostgreSQL's, deterministic, at home in virtual time.

The object is what survives a simulated crash: engine objects are thrown away, the store lives on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from machines.model import InstanceId
from service.adapters.memory.faults import door
from service.adapters.memory.leftovers import LeftoversSide
from service.adapters.memory.tables import Compared, Lease, Tables
from service.adapters.memory.waking import Bell
from service.adapters.memory.worker import ReaderSide, WorkerSide
from service.ports import (
    Batch,
    Clock,
    EventKey,
    Loaded,
    Loss,
    NewSignal,
    OutboxRow,
    Ownership,
    Prepared,
    Publication,
    Signal,
    TimerRow,
    Token,
)

KEPT = timedelta(days=30)
"""How long a known event id is recognised, as in the PostgreSQL store."""


class MemoryStore(WorkerSide, ReaderSide, LeftoversSide):
    """All four Protocols of `ports/store.py`; leases are judged by `clock`. `tables` is open to checkers."""

    def __init__(self, clock: Clock, *, shards: int = 1) -> None:
        super().__init__()
        self.tables = Tables()
        self.shards = shards
        self._clock = clock
        self._bell = Bell()

    @door
    async def acquire(self, shard: int, owner: str, lease: timedelta) -> Ownership | None:
        """An owner gets its own lease again, with a new token: after its restart it does not wait for itself."""
        held, now = self.tables.leases.get(shard), self._clock.now()
        if held is not None and held.until > now and held.owner != owner:
            return None
        token = self.tables.token()
        self.tables.leases[shard] = Lease(owner, token, now + lease)
        history = self.tables.histories.get(shard, Compared())
        return Ownership(shard, token, lease, history.until, history.compared is not None)

    @door
    async def renew(self, ownership: Ownership, lease: timedelta) -> None:
        now = self._clock.now()
        self.tables.hold(ownership.shard, ownership.token, now)
        held = self.tables.leases[ownership.shard]
        self.tables.leases[ownership.shard] = Lease(held.owner, held.token, now + lease)
        self.tables.known(ownership.shard, ownership.token, now)

    @door
    async def release(self, ownership: Ownership) -> None:
        held, now = self.tables.leases.get(ownership.shard), self._clock.now()
        if held is not None and held.token == ownership.token and held.until > now:
            self.tables.leases[ownership.shard] = Lease(held.owner, held.token, now)
            self.tables.known(ownership.shard, ownership.token, now)

    @door
    async def missing(self, told: Sequence[Publication]) -> tuple[Publication, ...]:
        return tuple(one for one in told if self.tables.lacks(one))

    @door
    async def clear(self, ownership: Ownership, systems: Sequence[str], *, compared: bool) -> None:
        shard, token, now = ownership.shard, ownership.token, self._clock.now()
        self.tables.hold(shard, token, now)
        until = now if compared else self.tables.histories.get(shard, Compared()).until
        self.tables.histories[shard] = Compared(tuple(systems), token, token if compared else None, until)
        self._bell.ring("steps")

    @door
    async def lose(self, ownership: Ownership, epoch: int, systems: Sequence[str], losses: Sequence[Loss]) -> None:
        self.tables.lose(ownership, epoch, systems, losses, self._clock.now())
        self._bell.ring(f"signals:{ownership.shard}")

    @door
    async def pending(self, shard: int, now: datetime, limit: int) -> tuple[tuple[Signal, ...], tuple[TimerRow, ...]]:
        signals = [signal for _, (whose, signal) in sorted(self.tables.signals.items()) if whose == shard]
        timers = [timer for whose, timer in self.tables.timers.values() if whose == shard and timer.due_at <= now]
        timers.sort(key=lambda timer: (timer.due_at, timer.instance, timer.kind))
        return tuple(signals[:limit]), tuple(timers[:limit])

    @door
    async def next_timer(self, shard: int) -> datetime | None:
        return min((timer.due_at for whose, timer in self.tables.timers.values() if whose == shard), default=None)

    @door
    async def prepare(
        self,
        shard: int,
        keys: Sequence[EventKey],
        instances: Sequence[InstanceId],
        systems: Sequence[str],
        gates: Sequence[str] = (),
        now: datetime | None = None,
    ) -> Prepared:
        """Under way (`live_runs`) are the instances that have a dwell or a deadline."""
        runs: dict[str, dict[InstanceId, str]] = {system: {} for system in systems}
        for one in self.tables.instances.values():
            if one.system in runs and (one.dwell_until is not None or one.deadline_at is not None):
                runs[one.system][one.instance] = one.state
        return Prepared(
            known={key: self.tables.inbox[key][0] for key in keys if key in self.tables.inbox},
            instances={one: Loaded(self.tables.instances.get(one), self.current_steps(one)) for one in instances},
            live_runs=runs,
            gates={system: self.tables.gates.look(system, now) for system in gates if now is not None},
        )

    @door
    async def commit(self, batch: Batch) -> tuple[int, ...]:
        ids, woken = self.tables.commit(batch, self._clock.now())
        if woken:
            self._bell.ring("steps")
        return ids

    @door
    async def count_attempt(self, shard: int, token: Token, key: EventKey) -> int:
        self.tables.hold(shard, token, self._clock.now())
        self.tables.attempts[key] = count = self.tables.attempts.get(key, 0) + 1
        return count

    @door
    async def unsent(self, shard: int, limit: int) -> tuple[OutboxRow, ...]:
        rows = [OutboxRow(number, row) for number, (whose, row) in sorted(self.tables.outbox.items()) if whose == shard]
        return tuple(rows[:limit])

    @door
    async def undeliverable(self, shard: int, token: Token, row: int, why: str) -> None:
        self.tables.hold(shard, token, self._clock.now())
        if self.tables.outbox.get(row, (None, None))[0] == shard:
            self.tables.undelivered[row] = (*self.tables.outbox.pop(row), why)
            self.tables.undelivered_at[row] = self._clock.now()

    @door
    async def signal(self, signals: Sequence[NewSignal]) -> None:
        self.append_signals(signals)

    async def wait_for_signal(self, shard: int, timeout: float) -> None:
        await self._bell.wait(f"signals:{shard}", timeout)

    @door
    async def keep_configurations(self, configurations: Mapping[str, str]) -> None:
        self.tables.configurations = {**configurations, **self.tables.configurations}

    @door
    async def configurations_in_use(self) -> Mapping[str, str]:
        """A text that is missing is empty, so that whoever needs it can say so."""
        used = {one.config_hash for one in self.tables.instances.values()}
        return {name: self.tables.configurations.get(name, "") for name in sorted(used)}

    @door
    async def machines_in_use(self) -> Mapping[tuple[str, int], int]:
        return Counter((one.machine, one.machine_version) for one in self.tables.instances.values())

    @door
    async def prune(self, now: datetime) -> int:
        """Forgets events older than 30 days; how many."""
        old = [key for key, (_, at) in self.tables.inbox.items() if at < now - KEPT]
        for key in old:
            del self.tables.inbox[key]
        return len(old)
