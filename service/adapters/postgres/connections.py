"""A few connections to PostgreSQL that come back by themselves. No query and no table is known here."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeAlias

import asyncpg

from service.adapters.postgres.failures import ENDS_CONNECTION, SERVER, translate
from service.errors import Misconfigured, Unavailable
from service.timeouts import time_limit

TIMEOUT = timedelta(seconds=10)
"""For one statement, connecting and waiting for a free connection included."""

WRONG_ADDRESS = frozenset({"28P01", "28000", "3D000"})
"""Password, role or database are wrong: said at the start instead of waited for."""

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "application_name": "relight",
        "timezone": "UTC",
        "synchronous_commit": "on",
        "jit": "off",
        # Shorter than any lease: a replica that hangs in a transaction does not hold the shard's row for ever.
        "idle_in_transaction_session_timeout": "1500",
        "lock_timeout": "5000",
    }
)

KEYED: Mapping[str, str] = MappingProxyType(
    {
        **SETTINGS,
        # Every statement of the engine looks rows up by key. A plan made while a table was small stays good when it
        # has grown: index probes only.
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
    }
)

Rows = list[asyncpg.Record]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
"""A string, because asyncpg's class takes its parameter only for type checkers."""


class Connections:
    """At most `size` connections, opened when needed. A connection whose state is in doubt is closed, never reused."""

    def __init__(
        self, dsn: str, size: int, *, settings: Mapping[str, str] = KEYED, timeout: timedelta = TIMEOUT
    ) -> None:
        self._dsn = dsn
        self._timeout = timeout.total_seconds()
        # The server gives up a little earlier than we do: then its own words reach the log.
        self._settings = {**settings, "statement_timeout": str(int(self._timeout * 900))}
        self._idle: list[Connection] = []
        self._lent: set[Connection] = set()
        self._places = asyncio.Semaphore(size)
        self._closed = False

    async def fetch(self, query: str, *values: object) -> Rows:
        """The rows of one statement, in one round trip. Raises Unavailable, LostLease, Conflict, Transient, Poison."""
        async with self.lend() as connection:
            rows: Rows = await connection.fetch(query, *values)
            return rows

    async def value(self, query: str, *values: object) -> Any:
        """The first column of the first row, or None."""
        rows = await self.fetch(query, *values)
        return rows[0][0] if rows else None

    async def many(self, statements: Sequence[tuple[str, tuple[object, ...]]]) -> list[Rows]:
        """Several reading statements that all see the same moment."""
        async with self.lend() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            return [await connection.fetch(query, *values) for query, values in statements]

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """One connection for a while that ends within the timeout; errors inside are translated."""
        if self._closed:
            raise Unavailable(SERVER, "the store was closed")
        try:
            async with time_limit(self._timeout), self._places, self._use() as connection:
                yield connection
        except Exception as error:
            if (translated := translate(error)) is None:
                raise
            raise translated from error

    async def close(self) -> None:
        """Closes what is idle and cuts what is in use."""
        self._closed = True
        for connection in (*self._idle, *self._lent):
            connection.terminate()
        self._idle.clear()

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[Connection]:
        connection = await self._take()
        self._lent.add(connection)
        sound = False
        try:
            yield connection
            sound = True
        except asyncpg.PostgresError as error:
            sound = str(error.sqlstate)[:2] not in ENDS_CONNECTION
            if not sound:
                # What ended this one has ended its neighbours too.
                while self._idle:
                    self._idle.pop().terminate()
            raise
        finally:
            self._lent.discard(connection)
            if sound and not connection.is_closed() and not self._closed:
                self._idle.append(connection)
            else:
                connection.terminate()

    async def _take(self) -> Connection:
        while self._idle:
            if not (connection := self._idle.pop()).is_closed():
                return connection
        return await open_connection(self._dsn, self._settings, self._timeout)


async def open_connection(dsn: str, settings: Mapping[str, str], timeout: float) -> Connection:
    """A new connection. Raises asyncpg's errors, TimeoutError and OSError; Misconfigured, which repeats nothing of it,
    for a URL that cannot be read."""
    try:
        return await asyncpg.connect(dsn, timeout=timeout, server_settings=dict(settings), statement_cache_size=200)
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        why = "it cannot be read as a URL; special characters of a password are written %40 for @, %2F for /, %3A for :"
        raise Misconfigured((f"RELIGHT_POSTGRES_URL: {why}",)) from error


def wrong_address(error: BaseException | None) -> Misconfigured | None:
    """Misconfigured when the server itself says that password, role or database are wrong."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in WRONG_ADDRESS:
        return Misconfigured((f"RELIGHT_POSTGRES_URL: {SERVER} refuses it: {error}",))
    return None
