"""Relight's tables come into being by migrations only, in order, once, and never behind anybody's back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.adapters.postgres import Phase, PostgresStore, check_schema, migrate
from service.adapters.postgres.migrating import FOLDER, Migration, check, migrations
from service.adapters.postgres.queries import parse
from service.errors import Misconfigured, Unavailable
from tests.migration.catalog import catalog

ALL = migrations()
SCHEMA = FOLDER.parent / "sql" / "schema.sql"


def extra(name: str, text: str = "CREATE TABLE relight.extra (x int)") -> Migration:
    return Migration(name, Phase.POST if "_post_" in name else Phase.PRE, text)


@pytest.fixture
async def sql(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def test_the_schema_is_the_sum_of_its_migrations(postgres_url: str, sql: Any) -> None:
    await migrate(postgres_url, known=ALL)
    summed = await catalog(sql)
    await sql.execute("DROP SCHEMA relight CASCADE")
    await sql.execute(SCHEMA.read_text())
    assert await catalog(sql) == summed
    assert len(summed) > 100


@pytest.mark.parametrize("applied", range(len(ALL)))
async def test_every_earlier_schema_becomes_the_newest(postgres_url: str, sql: Any, applied: int) -> None:
    await migrate(postgres_url, known=ALL[:applied])
    assert await migrate(postgres_url, known=ALL) == tuple(one.name for one in ALL[applied:])
    stepwise = await catalog(sql)
    await sql.execute("DROP SCHEMA relight CASCADE")
    await migrate(postgres_url, known=ALL)
    assert await catalog(sql) == stepwise


async def test_migrating_twice_or_at_once_applies_each_migration_once(postgres_url: str) -> None:
    at_once = await asyncio.gather(*(migrate(postgres_url) for _ in range(3)))
    assert sorted(at_once, key=len) == [(), (), tuple(one.name for one in ALL)]
    assert await migrate(postgres_url) == ()
    await check_schema(postgres_url)


async def test_relight_does_not_start_before_it_is_migrated(postgres_url: str) -> None:
    with pytest.raises(Misconfigured, match="relight migrate"):
        await PostgresStore.connect(postgres_url)
    with pytest.raises(Misconfigured, match=ALL[0].name):
        await check_schema(postgres_url)
    await migrate(postgres_url)
    await (await PostgresStore.connect(postgres_url)).close()


async def test_an_applied_file_never_changes(postgres_url: str, sql: Any) -> None:
    await migrate(postgres_url)
    changed = (replace(ALL[0], text=ALL[0].text + "\n-- a word more"), *ALL[1:], extra("9999_pre_more"))
    with pytest.raises(Misconfigured, match=f"{ALL[0].name} was changed"):
        await migrate(postgres_url, known=changed)
    with pytest.raises(Misconfigured, match="was changed"):
        await check(sql, known=changed)
    assert await sql.fetchval("SELECT to_regclass('relight.extra')") is None


async def test_a_database_of_a_later_version_is_refused_once_it_lost_something(postgres_url: str, sql: Any) -> None:
    await migrate(postgres_url, known=(*ALL, extra("9998_pre_adds")))
    await check_schema(postgres_url)  # before the deployment: what was added disturbs nobody
    await migrate(postgres_url, known=(*ALL, extra("9998_pre_adds"), extra("9999_post_removes", "SELECT 1")))
    for refused in (check_schema(postgres_url), migrate(postgres_url), PostgresStore.connect(postgres_url)):
        with pytest.raises(Misconfigured, match="newer than this version"):
            await refused


async def test_what_removes_waits_for_the_deployment(postgres_url: str, sql: Any) -> None:
    added = [one for one in ALL if one.phase is Phase.PRE]
    wanted = (*added, extra("9997_pre_one", "SELECT 1"), extra("9998_post_two", "SELECT 2"), extra("9999_pre_three"))
    applied = await migrate(postgres_url, known=wanted, until=Phase.PRE)
    assert applied == (*(one.name for one in added), "9997_pre_one")
    with pytest.raises(Misconfigured, match="9999_pre_three"):
        await check(sql, known=wanted)
    assert await migrate(postgres_url, known=wanted) == ("9998_post_two", "9999_pre_three")


async def test_batches_are_taken_as_columns_too_until_the_version_that_says_them_as_rows_is_deployed(
    postgres_url: str, sql: Any
) -> None:
    parameters = "SELECT pronargs FROM pg_proc WHERE proname = 'commit' ORDER BY pronargs"
    await migrate(postgres_url, until=Phase.PRE)
    assert [row[0] for row in await sql.fetch(parameters)] == [11, 51]
    await migrate(postgres_url)
    assert [row[0] for row in await sql.fetch(parameters)] == [11]


async def test_a_migration_that_fails_leaves_nothing_of_itself(postgres_url: str, sql: Any) -> None:
    broken = extra("9999_pre_broken", "CREATE TABLE relight.half (x int); SELECT 1 / 0")
    with pytest.raises(Exception, match="division by zero"):
        await migrate(postgres_url, known=(*ALL, broken))
    assert await sql.fetchval("SELECT to_regclass('relight.half')") is None
    assert await migrate(postgres_url, known=ALL) == ()


async def test_who_waits_for_another_migration_gives_up_in_time(postgres_url: str, sql: Any) -> None:
    await sql.execute("SELECT pg_advisory_lock(32199663644272756)")
    with pytest.raises(Unavailable):
        await migrate(postgres_url, deadline=timedelta(seconds=0.5))


def test_a_migration_says_in_its_name_when_it_is_applied(tmp_path: Path) -> None:
    (tmp_path / "0001_adds.sql").write_text("SELECT 1")
    with pytest.raises(ValueError, match="0001_adds"):
        migrations(tmp_path)


def test_every_query_has_a_name_and_a_comment() -> None:
    for path in SCHEMA.parent.glob("*.sql"):
        if path != SCHEMA:
            text = path.read_text()
            assert len(parse(text)) == text.count(" --\n-- ") > 0, path.name
            assert all(query and ";" not in query for query in parse(text).values()), path.name
    with pytest.raises(ValueError, match="twice"):
        parse("-- a --\n-- One.\nSELECT 1;\n-- a --\n-- Two.\nSELECT 2;\n")
