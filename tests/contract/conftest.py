"""The stores that every contract test runs on, each with a way to let time pass by its own clock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service.adapters.memory.store import MemoryStore
from service.adapters.postgres import PostgresStore, migrate
from service.ports import Ownership
from tests.contract.rows import Owner
from tests.servers import Databases, unique

LEASE = timedelta(minutes=5)
"""Longer than any test: a lease that does not end unless the story says so."""


class HandClock:
    """Time that the test moves; sleeping is real, so that waiting with a timeout ends."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + self.passed

    def monotonic(self) -> float:
        return self.passed.total_seconds()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Kept:
    """A store of four shards and its time."""

    store: PostgresStore | MemoryStore
    pass_time: Callable[[float], Awaitable[None]]

    async def listens(self) -> None:
        """Afterwards the store hears what is told; that it began to listen wakes waiters too, and is over."""
        if isinstance(self.store, PostgresStore):
            await self.store.wait_for_step(10)

    async def owner(self, shard: int = 0, name: str = "a", lease: timedelta = LEASE) -> Owner:
        """The owner of a shard, who must get its lease."""
        ownership = await self.store.acquire(shard, name, lease)
        assert isinstance(ownership, Ownership)
        return Owner(ownership)


EMPTY = """
ALTER TABLE relight.log DISABLE TRIGGER USER;
DELETE FROM relight.shards; DELETE FROM relight.inbox; DELETE FROM relight.log; DELETE FROM relight.instances;
DELETE FROM relight.live_runs; DELETE FROM relight.steps; DELETE FROM relight.timers; DELETE FROM relight.signals;
DELETE FROM relight.outbox; DELETE FROM relight.undelivered; DELETE FROM relight.dead_letters;
DELETE FROM relight.attempts; DELETE FROM relight.configurations; DELETE FROM relight.observations;
DELETE FROM relight.held; DELETE FROM relight.gates; DELETE FROM relight.losses; UPDATE relight.settings SET epoch = 1;
ALTER TABLE relight.log ENABLE TRIGGER USER;
"""


@pytest.fixture(scope="session")
def contract_url(databases: Databases) -> Iterator[str]:
    """One migrated database for all contract tests: emptying it is twenty times faster than a new one."""
    name = unique("contract")
    url = asyncio.run(databases.create_database(name))
    asyncio.run(migrate(url))
    yield url
    asyncio.run(databases.drop_database(name))


@pytest.fixture(params=["memory", "postgres"])
def store_url(request: pytest.FixtureRequest) -> str | None:
    """The URL of a migrated database; None for the memory store, which needs no server."""
    return None if request.param == "memory" else str(request.getfixturevalue("contract_url"))


@pytest.fixture
async def kept(store_url: str | None) -> AsyncIterator[Kept]:
    """An empty store, once in memory and once in PostgreSQL."""
    if store_url is None:
        clock = HandClock()

        async def move(seconds: float) -> None:
            clock.passed += timedelta(seconds=seconds)

        yield Kept(MemoryStore(clock, shards=4), move)
        return
    connection = await asyncpg.connect(store_url)
    await connection.execute(EMPTY)
    await connection.close()
    store = await PostgresStore.connect(store_url, shards=4)
    yield Kept(store, asyncio.sleep)
    await store.close()
