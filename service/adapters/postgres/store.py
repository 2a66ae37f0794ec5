"""Relight's own tables as one object: all Protocols of `ports/store.py`, connections and upkeep."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Self

from schemas.sharding import shard_of
from service.adapters.postgres.connections import SETTINGS, TIMEOUT, Connections, wrong_address
from service.adapters.postgres.leftovers import LeftoversSide
from service.adapters.postgres.listening import Listening
from service.adapters.postgres.migrating import check
from service.adapters.postgres.owner import OwnerSide
from service.adapters.postgres.queries import UPKEEP
from service.adapters.postgres.reader import ReaderSide
from service.adapters.postgres.worker import WorkerSide
from service.errors import Misconfigured, Unavailable

KEPT = timedelta(days=30)
"""How long a known event id is recognised; a broker does not redeliver later."""

PRUNED_AT_ONCE = 5000
"""Rows of one statement of `prune`: short enough to disturb nobody."""

MONTHS_AHEAD = 3
"""Partitions of the log that exist before their month begins, the current one included."""


class PostgresStore(OwnerSide, WorkerSide, ReaderSide, LeftoversSide):
    """PostgreSQL 15 to 18. Every call is one round trip; a server that is away is Unavailable until it is back."""

    def __init__(
        self, dsn: str, *, shards: int = 1, timeout: timedelta = TIMEOUT, writers: int = 2, others: int = 4
    ) -> None:
        """Opens nothing. `shards` must be the same on every replica; `timeout` is for each call."""
        self.shards = shards
        self._writers = Connections(dsn, writers, timeout=timeout)
        self._others = Connections(dsn, others, timeout=timeout)
        self._views = Connections(dsn, 2, settings=SETTINGS, timeout=timeout)
        self._listening = Listening(dsn)

    @classmethod
    async def connect(
        cls, dsn: str, *, shards: int = 1, timeout: timedelta = TIMEOUT, writers: int = 2, others: int = 4
    ) -> Self:
        """A store that was reached, whose tables fit this version and whose rows fit `shards`.

        Raises Unavailable (wait and try again) and Misconfigured (wrong address, tables not migrated or too new,
        another number of shards in use).
        """
        store = cls(dsn, shards=shards, timeout=timeout, writers=writers, others=others)
        async with store._opening():
            await store._settle_shards()
        return store

    @classmethod
    async def visit(cls, dsn: str, *, timeout: timedelta = TIMEOUT) -> Self:
        """A store for a command of people: with as many shards as the tables were written for, and nothing is moved.

        Raises Unavailable and Misconfigured, as `connect` does.
        """
        store = cls(dsn, timeout=timeout)
        async with store._opening():
            store.shards = await store._others.value(UPKEEP["shards"]) or store.shards
        return store

    @asynccontextmanager
    async def _opening(self) -> AsyncIterator[None]:
        try:
            await self.check_schema()
            yield
        except Unavailable as error:
            await self.close()
            raise wrong_address(error.__cause__) or error from error.__cause__
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Closes every connection; nothing waits for an answer any more."""
        for connections in (self._writers, self._others, self._views):
            await connections.close()
        await self._listening.close()

    async def check_schema(self) -> None:
        """Raises Misconfigured when the tables are not those that this version of Relight works with."""
        async with self._views.lend() as connection:
            await check(connection)

    async def prune(self, now: datetime) -> int:
        """Forgets events, attempts, observations and settled leftovers older than 30 days; prepares the log's months.

        Safe to call at any time from any replica; once a day is enough. Returns how many events were forgotten.
        """
        before = now - KEPT
        forgotten = 0
        while rows := await self._views.fetch(UPKEEP["prune_inbox"], before, PRUNED_AT_ONCE):
            forgotten += len(rows)
        await self._views.fetch(UPKEEP["prune_attempts"], before)
        await self._views.fetch(UPKEEP["prune_observations"], before)
        await self._views.fetch(UPKEEP["prune_dead"], before)
        await self._views.fetch(UPKEEP["prune_undelivered"], before)
        await self._views.fetch(UPKEEP["make_log_partitions"], now, MONTHS_AHEAD)
        return forgotten

    async def _settle_shards(self) -> None:
        """Rows name their shard: when the number of shards was changed, they move, while no owner is at work."""
        if await self._others.value(UPKEEP["shards"]) == self.shards:
            return
        async with self._others.lend() as connection, connection.transaction():
            await connection.execute(UPKEEP["hold_leases"])
            written_for = await connection.fetchval(UPKEEP["shards"])
            if written_for == self.shards:
                return
            if await connection.fetchval(UPKEEP["leases"]):
                raise Misconfigured(
                    (
                        f"RELIGHT_SHARDS: {self.shards} was asked for, but replicas with {written_for} shards are at "
                        "work; nothing was changed. Stop all replicas first, or set the same number everywhere",
                    )
                )
            for row in await connection.fetch(UPKEEP["systems_waiting"]):
                for move in ("move_signals", "move_timers", "move_outbox"):
                    await connection.execute(UPKEEP[move], row["system"], shard_of(row["system"], self.shards))
            await connection.execute(UPKEEP["forget_systems"])
            await connection.execute(UPKEEP["set_shards"], self.shards)
