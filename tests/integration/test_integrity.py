"""The integrity check on a real PostgreSQL whose files are really damaged: what is not whole is named."""

import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from schemas.base import Json
from service.adapters.databases import PostgresDatabases
from service.adapters.memory.world import MemoryWorld
from service.clock import SystemClock
from service.embedded import PostgresServer
from service.errors import Permanent, Retry
from tests.performing import Bench
from tests.servers import private, unique
from tests.unit.steps_world import Shop

PAGE = 8192
TABLES = """
create extension amcheck;
create table trades (id bigint primary key, pnl double precision not null);
create table notes (id bigint primary key, text text not null);
insert into trades select n, n from generate_series(1, 100) n;
insert into notes select n, repeat(md5(n::text), 200) from generate_series(1, 10) n;
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this file's own: its files are written to behind its back."""
    with private(PostgresServer) as server:
        yield server


@pytest.fixture
async def url(server: PostgresServer) -> str:
    name = unique("whole")
    url = await server.create_database(name)
    async with connected(url) as connection:
        await connection.execute(TABLES)
    return url


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def nobody(*_: object) -> dict[str, str]:
    raise AssertionError("nothing waits for an answer here")


def bench(url: str, *tables: str) -> Bench:
    """The shop of the unit tests with this one check, on this database, in real time."""
    clock = SystemClock()
    memory = MemoryWorld(clock)
    memory.secrets.values["env:ORDERS"] = url
    check: dict[str, Json] = {"integrity": "orders", "tables": list(tables)}
    world = replace(memory.world(), databases=PostgresDatabases())
    return Bench(Shop(verify=[check]).system, world, clock, nobody)


async def damage(server: PostgresServer, url: str, relation: str, offset: int, content: bytes) -> None:
    """Writes over a relation's file while the server is down, as a bad disk would."""
    async with connected(url) as connection:
        await connection.execute("checkpoint")
        folder = await connection.fetchval("show data_directory")
        file = Path(folder) / await connection.fetchval("select pg_relation_filepath($1::text::regclass)", relation)
    await server.stop()
    with file.open("r+b") as bytes_:
        bytes_.seek(offset)
        bytes_.write(content)
    await server.start()


async def test_whole_database_passes_with_what_was_read(url: str) -> None:
    result = await bench(url).perform("check.run", check=0)
    value = result["value"]
    assert isinstance(value, dict)
    assert (result["passed"], result["title"], result["expected"]) == (True, "integrity orders", "no damage")
    # Its own tables, their TOAST and indexes, and those of the catalogs.
    assert int(str(value["tables"])) > 60
    assert int(str(value["indexes"])) > 100


async def test_named_tables_alone_are_read_with_their_toast_and_their_indexes(url: str) -> None:
    result = await bench(url, "notes", "public.trades").perform("check.run", check=0)
    assert result["value"] == {"tables": 3, "indexes": 3}
    with pytest.raises(Permanent, match="integrity orders: there is no table wishes there"):
        await bench(url, "wishes").perform("check.run", check=0)


async def test_index_whose_page_was_overwritten_is_named_and_reindex_mends_it(server: PostgresServer, url: str) -> None:
    # The first item of the first leaf stands at the end of its page, before 16 bytes of the tree: header, key.
    await damage(server, url, "trades_pkey", 2 * PAGE - 16 - 8, struct.pack("<q", 1 << 40))
    async with connected(url) as connection:
        assert await connection.fetchval("select count(*) from trades") == 100, "connecting and asking show nothing"
    with pytest.raises(Permanent, match=r"integrity orders: index trades_pkey: item order invariant violated.*reindex"):
        await bench(url).perform("check.run", check=0)
    assert (await bench(url, "notes").perform("check.run", check=0))["passed"] is True
    async with connected(url) as connection:
        await connection.execute("reindex index trades_pkey")
    assert (await bench(url).perform("check.run", check=0))["passed"] is True


async def test_table_whose_page_was_overwritten_is_named_with_block_and_row(server: PostgresServer, url: str) -> None:
    # The first row takes the last 40 bytes of its page; byte 22 of its header says where its values begin.
    await damage(server, url, "trades", PAGE - 40 + 22, b"\xf8")
    with pytest.raises(Permanent, match=r"table trades: block 0, row 1: .*data begins at offset 248"):
        await bench(url).perform("check.run", check=0)


async def test_table_whose_file_is_gone_is_damage_and_not_absence(server: PostgresServer, url: str) -> None:
    async with connected(url) as connection:
        await connection.execute("checkpoint")
        folder = await connection.fetchval("show data_directory")
        file = Path(folder) / await connection.fetchval("select pg_relation_filepath('notes'::regclass)")
    await server.stop()
    file.unlink()
    await server.start()
    with pytest.raises(Permanent, match="table notes: could not open file"):
        await bench(url).perform("check.run", check=0)


async def test_missing_extension_and_missing_right_say_what_their_superuser_has_to_run(
    server: PostgresServer, url: str
) -> None:
    role = unique("reader")
    async with connected(url) as connection:
        await connection.execute(f"create role {role} login password 'reads'")
        trust = await connection.fetchval("select inet_server_port()")
    parts = urlsplit(url)
    as_reader = urlunsplit(parts._replace(netloc=f"{role}:reads@127.0.0.1:{trust}"))
    with pytest.raises(Permanent, match=f"role {role} may not use amcheck there") as refused:
        await bench(as_reader).perform("check.run", check=0)
    async with connected(url) as connection:
        # What it says is pasted as it stands.
        await connection.execute(str(refused.value).split("run: ", 1)[1])
    assert (await bench(as_reader).perform("check.run", check=0))["passed"] is True
    async with connected(url) as connection:
        await connection.execute("drop extension amcheck")
    with pytest.raises(Permanent, match=r"needs the extension amcheck there.*run: create extension amcheck$"):
        await bench(as_reader).perform("check.run", check=0)


async def test_database_that_is_locked_longer_than_the_check_may_take_is_tried_again(url: str) -> None:
    async with connected(url) as connection, connection.transaction():
        await connection.execute("lock table trades in access exclusive mode")
        with pytest.raises(Retry, match="integrity orders: "):
            await bench(url, "trades").perform("check.run", check=0, timeout=1.0)
