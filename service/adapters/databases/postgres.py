"""The port `Databases`: one question, one short connection, read-only, no pool: a check must see a new connection."""

from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import asyncpg

from schemas.base import Json
from service.adapters.databases.amcheck import look
from service.errors import Permanent, Retry
from service.ports import Looked, OpenTransaction
from service.timeouts import time_limit

CONNECT_WITHIN = 5.0
"""Seconds for a new connection; a server that is up answers within milliseconds."""
SESSIONS_WITHIN = 10.0
"""Seconds for one look at pg_stat_activity."""
CLOSE_WITHIN = 2.0
"""Seconds for a polite goodbye; then the connection is dropped."""

SESSIONS = """
select format('pid %s, %s, %s, %s: %s', pid, coalesce(usename, '-'), coalesce(state, '-'),
              date_trunc('second', clock_timestamp() - backend_start),
              left(regexp_replace(query, '\\s+', ' ', 'g'), 80))
from pg_stat_activity
where application_name = $1 and pid <> pg_backend_pid() and coalesce(backend_type, '-') in ('client backend', '-')
order by pid
"""
"""One line a session of an application, in every database of the server: pid, user, state, age, query head. The type
of a session that our role may not look into is null: it counts."""

TRANSACTIONS = """
select pid, coalesce(usename, '-') as role, application_name as application, coalesce(state, '-') as state,
       coalesce(extract(epoch from clock_timestamp() - xact_start), 0)::float8 as seconds,
       left(regexp_replace(query, '\\s+', ' ', 'g'), 80) as query,
       backend_xid is not null as writes, state is null as hidden
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
  and coalesce(backend_type, '-') in ('client backend', '-')
  and (xact_start is not null or state is null)
union all
select null, owner, '', 'prepared', extract(epoch from clock_timestamp() - prepared)::float8, left(gid, 80), true, false
from pg_prepared_xacts
where database = current_database()
order by seconds desc, pid
"""
"""Every transaction in progress in this database. The state of a session that our role may not look into is null."""

PASSING = ("08", "40", "53", "55", "57", "58")
"""SQLSTATE classes that time may mend: connection, rollback, resources, lock, operator (starting up), system."""

T = TypeVar("T")


class PostgresDatabases:
    """Any PostgreSQL a system's file names."""

    async def value(self, dsn: str, query: str, timeout: timedelta) -> Json:
        """First column of the first row, None without rows. Raises Retry when the server is away, else Permanent."""
        seconds = timeout.total_seconds()
        return _json(await _ask(dsn, seconds, lambda connection: connection.fetchval(query, timeout=seconds)))

    async def sessions(self, dsn: str, application: str) -> tuple[str, ...]:
        """The sessions of an application, one line each. Raises Retry when the server is away, else Permanent."""
        rows = await _ask(dsn, SESSIONS_WITHIN, lambda connection: connection.fetch(SESSIONS, application))
        return tuple(row[0] for row in rows)

    async def transactions(self, dsn: str) -> tuple[OpenTransaction, ...]:
        """The open transactions of this database. Raises Retry when the server is away, else Permanent."""
        rows = await _ask(dsn, SESSIONS_WITHIN, lambda connection: connection.fetch(TRANSACTIONS))
        return tuple(OpenTransaction(**dict(row)) for row in rows)

    async def damage(self, dsn: str, tables: Sequence[str], timeout: timedelta) -> Looked:
        """What amcheck says of these tables (none: all) and their indexes. Raises Retry when the server is away or it
        takes too long, else Permanent."""
        return await _ask(dsn, timeout.total_seconds(), lambda connection: look(connection, tables))


async def _ask(dsn: str, seconds: float, question: "Callable[[asyncpg.Connection], Coroutine[Any, Any, T]]") -> T:
    """Connects, asks inside a read-only session, leaves. Errors never repeat the DSN: it holds a password."""
    try:
        async with time_limit(CONNECT_WITHIN + seconds):
            connection = await _connect(dsn, seconds)
            try:
                return await question(connection)
            finally:
                await _leave(connection)
    except TimeoutError as error:
        raise Retry(f"the database did not answer within {seconds:g} s") from error
    except asyncpg.PostgresError as error:
        # asyncpg puts the SQLSTATE on its errors; its own client-side ones have none and no such class.
        if (error.sqlstate or "")[:2] in PASSING:
            raise Retry(f"the database refused for now: {error}") from error
        raise Permanent(f"the database refused the question: {error} (SQLSTATE {error.sqlstate})") from error
    except asyncpg.ClientConfigurationError as error:
        raise Permanent("the DSN of the database is not valid; look at what its reference points to") from error
    # A server that dies in the middle of an answer is an internal error to asyncpg ("cannot switch to state …").
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise Retry(f"the database is away: {type(error).__name__}: {error}") from error


async def _connect(dsn: str, seconds: float) -> "asyncpg.Connection":
    try:
        return await asyncpg.connect(
            dsn,
            timeout=min(CONNECT_WITHIN, seconds),
            server_settings={
                "application_name": "relight",
                "default_transaction_read_only": "on",
                "statement_timeout": str(max(1, round(seconds * 1000))),
            },
        )
    except ValueError as error:
        # A password that was not encoded is read as part of host and port, and repeated: by asyncpg, not by us.
        raise Permanent("the DSN of the database is not valid; look at what its reference points to") from error


async def _leave(connection: "asyncpg.Connection") -> None:
    try:
        await connection.close(timeout=CLOSE_WITHIN)
    except (TimeoutError, OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError):
        connection.terminate()


def _json(value: object) -> Json:
    """A database's value as JSON has it: numbers as numbers as long as that is exact enough, the rest as its text."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Decimal() if value.is_finite():
            return int(value) if value == value.to_integral_value() else float(value)
        case list():
            return [_json(item) for item in value]
        case _:
            return str(value)
