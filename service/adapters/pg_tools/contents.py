"""What is in a database, exactly, as one snapshot sees it: tables, rows, owners, roles. It is only read."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg

from schemas.backup import Contents, Table
from service.errors import Permanent, Retry

CONNECT_WITHIN = 10.0
"""Seconds for a new connection."""
CLOSE_WITHIN = 2.0
"""Seconds for a polite goodbye; then the connection is dropped."""
SETTINGS = {
    "application_name": "relight",
    "default_transaction_read_only": "on",
    "row_security": "off",  # hidden rows would be missing without a word: rather an error
    "timezone": "UTC",
    "datestyle": "ISO",
    "lock_timeout": "30000",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",  # the transaction is idle while pg_dump works
}
PASSING = ("08", "40", "53", "55", "57", "58")
"""SQLSTATE classes that time may mend: connection, rollback, resources, lock, operator (starting up), system."""

UNLIMITED = """
select set_config(name, '0', false) from pg_settings where name in ('transaction_timeout', 'idle_session_timeout')
"""
"""Newer servers know more limits that would end the transaction under a long dump."""

ABOUT = """
select current_setting('server_version_num')::int / 10000 as version,
       (select system_identifier::text from pg_control_system()) as identifier,
       pg_encoding_to_char(encoding) as encoding, pg_database_size(oid) as size
from pg_database where datname = current_database()
"""

ROLES = """
select r.rolname from pg_roles r
where r.oid = 10 or exists (
    select from pg_shdepend d where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid
    and d.dbid = (select oid from pg_database where datname = current_database()))
order by 1
"""
"""Owners and grantees. The first superuser (10) is pinned and stands in no dependency."""

TABLES = """
select n.nspname || '.' || c.relname as name, pg_get_userbyid(c.relowner) as owner,
       coalesce(array_agg(a.attname::text order by a.attnum) filter (where a.attname is not null), '{}') as columns,
       format('select count(*)%s from only %I.%I',
              coalesce(string_agg(', max(' || quote_ident(a.attname) || ')::text', '' order by a.attnum), ''),
              n.nspname, c.relname) as question
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join (pg_attribute a join pg_type t on t.oid = a.atttypid) on a.attrelid = c.oid and a.attnum > 0
    and not a.attisdropped and t.typnamespace = 'pg_catalog'::regnamespace and (
        t.typname in ('date', 'timestamp', 'timestamptz')
        or t.typname in ('int2', 'int4', 'int8', 'numeric') and exists (
            select from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indnkeyatts = 1
            and i.indkey[0] = a.attnum))
where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname not in ('pg_catalog', 'information_schema')
    and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                    and d.deptype = 'e')
group by c.oid, n.nspname, c.relname, c.relowner
order by 1
"""
"""Every table whose rows pg_dump saves, with the one question that counts it and finds its newest rows in one pass."""


class Snapshot:
    """A connection inside of a read-only transaction that sees one moment; its locks keep the tables from changing
    their shape until it ends."""

    def __init__(self, connection: "asyncpg.Connection") -> None:
        self._connection = connection

    async def identifier(self) -> str:
        return str((await self._connection.fetchrow(ABOUT))["identifier"])

    async def export(self) -> str:
        """The name under which pg_dump can see the same moment, while this one is open."""
        return str(await self._connection.fetchval("select pg_export_snapshot()"))

    async def contents(self) -> Contents:
        about = await self._connection.fetchrow(ABOUT)
        tables = {}
        for row in await self._connection.fetch(TABLES):
            rows, *newest = await self._connection.fetchrow(row["question"])
            tables[row["name"]] = Table(
                owner=row["owner"], rows=rows, newest=dict(zip(row["columns"], newest, strict=True))
            )
        return Contents(
            server_version=about["version"],
            system_identifier=about["identifier"],
            encoding=about["encoding"],
            database_bytes=about["size"],
            roles=[row["rolname"] for row in await self._connection.fetch(ROLES)],
            tables=tables,
        )


@contextlib.asynccontextmanager
async def snapshot(dsn: str | None, **more: Any) -> AsyncIterator[Snapshot]:
    """Raises Retry when the server is away or busy, else Permanent; errors never repeat the DSN."""
    async with connected(dsn, SETTINGS, **more) as connection:
        await connection.execute(UNLIMITED)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield Snapshot(connection)


@contextlib.asynccontextmanager
async def connected(dsn: str | None, settings: dict[str, str], **more: Any) -> "AsyncIterator[asyncpg.Connection]":
    """A connection of its own, with our errors."""
    with our_errors():
        try:
            connection = await asyncpg.connect(dsn, timeout=CONNECT_WITHIN, server_settings=settings, **more)
        except ValueError as error:
            # Read as host or port, and repeated: what of a password was not encoded.
            raise Permanent("the DSN of the database is not valid; look at what its reference points to") from error
        except (TimeoutError, OSError) as error:
            raise Retry(f"the database is away: {type(error).__name__}: {error}") from error
        try:
            yield connection
        finally:
            await _leave(connection)


@contextlib.contextmanager
def our_errors() -> Iterator[None]:
    """asyncpg's errors as ours. What else the block raises passes through."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "")[:2] in PASSING:
            raise Retry(f"the database refused for now: {error}") from error
        raise Permanent(f"the database refused: {error} (SQLSTATE {error.sqlstate})") from error
    except asyncpg.ClientConfigurationError as error:
        raise Permanent("the DSN of the database is not valid; look at what its reference points to") from error
    # A server that dies in the middle of an answer is an internal error to asyncpg ("cannot switch to state …").
    except (ConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise Retry(f"the database is away: {type(error).__name__}: {error}") from error


async def _leave(connection: "asyncpg.Connection") -> None:
    try:
        await connection.close(timeout=CLOSE_WITHIN)
    except (TimeoutError, OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError):
        connection.terminate()
