"""What the owner of a shard does with the store: leases, reading before deciding, the commit, the outbox, signals."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from machines.model import InstanceId
from schemas.sharding import shard_of
from service.adapters.postgres import rows
from service.adapters.postgres.batch import parameters
from service.adapters.postgres.connections import Connections
from service.adapters.postgres.listening import SIGNALS, Listening
from service.adapters.postgres.queries import OWNER
from service.errors import LostLease
from service.ports import (
    Batch,
    EventKey,
    Loaded,
    Loss,
    NewSignal,
    OutboxRow,
    Ownership,
    Prepared,
    Publication,
    Signal,
    StepRow,
    TimerRow,
    Token,
)

OVERDUE = 50
"""Expired operations of one gate that one batch tells of; the gate's timer brings the others."""


class OwnerSide:
    """The Protocol `Store`."""

    _writers: Connections
    _others: Connections
    _listening: Listening
    shards: int

    async def acquire(self, shard: int, owner: str, lease: timedelta) -> Ownership | None:
        """An owner gets its own lease again, with a new token: after its restart it does not wait for itself.

        Nobody gets one who counts the shards differently from the rows: that replica has to be started anew.
        """
        found = await self._others.fetch(OWNER["acquire_shard"], shard, owner, lease, self.shards)
        for row in found:
            return Ownership(shard, Token(row["token"]), lease, row["compared_at"], row["compared"])
        return None

    async def renew(self, ownership: Ownership, lease: timedelta) -> None:
        if await self._others.value(OWNER["renew_shard"], ownership.shard, ownership.token, lease) is None:
            raise _lost(ownership.shard, ownership.token)

    async def release(self, ownership: Ownership) -> None:
        await self._others.fetch(OWNER["release_shard"], ownership.shard, ownership.token)

    async def missing(self, told: Sequence[Publication]) -> tuple[Publication, ...]:
        rows_ = [(o.system, o.instance, o.epoch, o.seq, o.at, o.event.source, o.event.id) for o in told]
        columns = list(zip(*rows_, strict=True)) if rows_ else [()] * 7
        found = await self._others.fetch(OWNER["missing"], *map(list, columns))
        return tuple(told[row["place"] - 1] for row in found)

    async def clear(self, ownership: Ownership, systems: Sequence[str], *, compared: bool) -> None:
        shard, token = ownership.shard, ownership.token
        if await self._others.value(OWNER["clear"], shard, token, list(systems), compared) is None:
            raise _lost(shard, token)

    async def lose(self, ownership: Ownership, epoch: int, systems: Sequence[str], losses: Sequence[Loss]) -> None:
        await self._writers.fetch(
            OWNER["lose"], ownership.shard, ownership.token, epoch, list(systems), [loss.system for loss in losses],
            [loss.said for loss in losses], [loss.signal for loss in losses],
        )  # fmt: skip

    async def pending(self, shard: int, now: datetime, limit: int) -> tuple[tuple[Signal, ...], tuple[TimerRow, ...]]:
        [found] = await self._others.fetch(OWNER["pending"], shard, now, limit)
        return tuple(map(rows.signal, found["signals"])), tuple(map(rows.timer, found["timers"]))

    async def next_timer(self, shard: int) -> datetime | None:
        due: datetime | None = await self._others.value(OWNER["next_timer"], shard)
        return due

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
        wanted = list(dict.fromkeys(instances))
        [found] = await self._writers.fetch(
            OWNER["prepare"], [key.source for key in keys], [key.id for key in keys], wanted, list(systems),
            list(gates), now, OVERDUE,
        )  # fmt: skip
        steps: dict[str, list[StepRow]] = {}
        for row in found["steps"]:
            steps.setdefault(row["instance"], []).append(rows.step(row))
        snapshots = {one.instance: one for one in map(rows.snapshot, found["instances"])}
        runs: dict[str, dict[InstanceId, str]] = {system: {} for system in systems}
        for row in found["live_runs"]:
            runs[row["system"]][InstanceId(row["instance"])] = row["state"]
        return Prepared(
            known={row.key: row for row in map(rows.inbox, found["known"])},
            instances={
                # Few instances have steps: nothing is sorted for the others.
                instance: Loaded(snapshots.get(instance), in_order(steps[instance]) if instance in steps else ())
                for instance in wanted
            },
            live_runs=runs,
            gates=rows.gates(found["gates"], found["overdue"]) if gates else {},
        )

    async def commit(self, batch: Batch) -> tuple[int, ...]:
        ids: list[int] = await self._writers.value(OWNER["commit"], *parameters(batch))
        return tuple(ids)

    async def count_attempt(self, shard: int, token: Token, key: EventKey) -> int:
        count: int | None = await self._writers.value(OWNER["count_attempt"], shard, token, key.source, key.id)
        if count is None:
            raise _lost(shard, token)
        return count

    async def unsent(self, shard: int, limit: int) -> tuple[OutboxRow, ...]:
        return tuple(map(rows.outbox, await self._others.fetch(OWNER["unsent"], shard, limit)))

    async def undeliverable(self, shard: int, token: Token, row: int, why: str) -> None:
        if await self._writers.value(OWNER["undeliverable"], shard, token, row, rows.readable(why)) is None:
            raise _lost(shard, token)

    async def signal(self, signals: Sequence[NewSignal]) -> None:
        if signals:
            await self._others.fetch(
                OWNER["signal"],
                [shard_of(one.system, self.shards) for one in signals],
                [one.system for one in signals],
                [one.body for one in signals],
                [one.user for one in signals],
                [one.local for one in signals],
            )

    async def wait_for_signal(self, shard: int, timeout: float) -> None:
        await self._listening.wait(SIGNALS, str(shard), timeout)

    async def keep_configurations(self, configurations: Mapping[str, str]) -> None:
        texts = list(configurations.values())
        systems = [_system(text) for text in texts]
        await self._others.fetch(OWNER["keep_configurations"], list(configurations), systems, texts)

    async def configurations_in_use(self) -> Mapping[str, str]:
        """A text that is missing is empty, so that whoever needs it can say so."""
        found = await self._others.fetch(OWNER["configurations_in_use"])
        return {row["hash"]: row["text"] for row in found}

    async def machines_in_use(self) -> Mapping[tuple[str, int], int]:
        found = await self._others.fetch(OWNER["machines_in_use"])
        return {(row["machine"], row["machine_version"]): row["instances"] for row in found}


def in_order(steps: Sequence[StepRow]) -> tuple[StepRow, ...]:
    """By position, then by name."""
    return tuple(sorted(steps, key=lambda row: (row.planned.position, row.key.name)))


def _lost(shard: int, token: Token) -> LostLease:
    return LostLease(f"token {token} is not the lease of shard {shard} any more")


def _system(text: str) -> str:
    """The system that a canonical configuration is for; a column for people, so that anything else is no error."""
    try:
        found = json.loads(text)
    except ValueError:
        return ""
    return str(found.get("system", "")) if isinstance(found, dict) else ""
