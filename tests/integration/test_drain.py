"""The drain on a real PostgreSQL: who is in the way is named, nobody is ended, strangers who only read do not count."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest

from service.adapters.databases import PostgresDatabases
from service.adapters.memory.world import MemoryWorld
from service.clock import SystemClock
from service.errors import Permanent, Retry
from tests.performing import Bench
from tests.servers import Databases, unique
from tests.unit.steps_world import Shop


async def nobody(*_: object) -> dict[str, str]:
    raise AssertionError("nothing waits for an answer here")


def bench(url: str) -> Bench:
    """The shop of the unit tests on this database, in real time."""
    clock = SystemClock()
    memory = MemoryWorld(clock)
    memory.secrets.values["env:ORDERS"] = url
    return Bench(Shop().system, replace(memory.world(), databases=PostgresDatabases()), clock, nobody)


@asynccontextmanager
async def session(url: str, application: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, server_settings={"application_name": application})
    try:
        yield connection
    finally:
        await connection.close()


async def test_database_without_open_transactions_is_drained_at_once(postgres_url: str) -> None:
    async with session(postgres_url, "shop.counter") as idle:
        await idle.execute("select 'idle and outside of a transaction'")
        result = await bench(postgres_url).perform("postgres.drain", database="orders", timeout=10.0)
    assert (result["open"], result["waited_for"]) == (0, [])


async def test_component_in_a_transaction_is_named_with_what_happens_and_when_it_ends_the_drain_is_done(
    postgres_url: str,
) -> None:
    desk = bench(postgres_url)
    async with session(postgres_url, "shop.counter") as worker:
        transaction = worker.transaction()
        await transaction.start()
        await worker.execute("select 'half way through'")
        with pytest.raises(Retry) as blocked:
            await desk.perform("postgres.drain", database="orders", timeout=3.0, attempt=1, attempts=3)
        said = str(blocked.value)
        outlook = r"0m00s blocks; if nobody acts: abort and resume at \d\d:\d\d:\d\d UTC; "
        assert re.match(rf"pid {worker.get_server_pid()} \w+ {outlook}", said)
        assert said.endswith("(shop.counter, idle in transaction): select 'half way through'")
        waiting = asyncio.create_task(
            desk.perform("postgres.drain", database="orders", timeout=30.0, attempt=3, attempts=3)
        )
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await transaction.rollback()
        result = await asyncio.wait_for(waiting, 10)
    assert result["open"] == 0
    assert "half way through" in str(result["waited_for"])


async def test_when_the_time_is_over_it_says_how_to_end_it_and_has_ended_nothing(postgres_url: str) -> None:
    async with session(postgres_url, "shop.counter") as worker, worker.transaction():
        await worker.execute("select 1")
        with pytest.raises(
            Permanent, match=rf"open in orders after 1s.*pg_terminate_backend\({worker.get_server_pid()}\)"
        ):
            await bench(postgres_url).perform("postgres.drain", database="orders", timeout=1.0, attempt=3, attempts=3)
        assert await worker.fetchval("select 2") == 2


async def test_stranger_who_reads_does_not_count_and_one_who_writes_does(postgres_url: str) -> None:
    desk = bench(postgres_url)
    async with session(postgres_url, "psql") as stranger:
        await stranger.execute("create table notes (line text)")
        async with stranger.transaction():
            await stranger.fetch("select * from notes")
            assert (await desk.perform("postgres.drain", database="orders", timeout=2.0))["open"] == 0
            await stranger.execute("insert into notes values ('not yet committed')")
            with pytest.raises(Permanent, match=r"\(psql, idle in transaction\): insert into notes"):
                await desk.perform("postgres.drain", database="orders", timeout=1.0)


async def test_busy_strangers_whose_transactions_are_short_hold_nothing_up(postgres_url: str) -> None:
    async with session(postgres_url, "importer") as one, session(postgres_url, "importer") as other:
        await one.execute("create table notes (line text)")

        async def write(connection: asyncpg.Connection) -> None:
            while True:
                async with connection.transaction():
                    await connection.execute("insert into notes values ('x')")
                    await asyncio.sleep(0.15)

        writers = [asyncio.create_task(write(connection)) for connection in (one, other)]
        await asyncio.sleep(0.1)
        result = await bench(postgres_url).perform("postgres.drain", database="orders", timeout=20.0)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
    assert result["open"] == 0


async def test_role_that_may_not_look_into_a_components_session_cannot_tell_and_says_so(
    postgres_url: str, databases: Databases
) -> None:
    role = unique("reader")
    async with session(postgres_url, "shop.counter") as worker:
        await worker.execute(f"create role {role} login password 'hush'")
        try:
            places = postgres_url.split("@", 1)[1]
            with pytest.raises(
                Permanent, match=r"may not see what .* does there.*grant it pg_read_all_stats"
            ) as hidden:
                await bench(f"postgresql://{role}:hush@{places}").perform(
                    "postgres.drain", database="orders", timeout=2.0
                )
            assert "hush" not in str(hidden.value)
        finally:
            await worker.execute(f"drop role {role}")
