"""The port `Dumps`: pg_dump and pg_restore as children, their bytes as streams. Where those go is not known here.

No DSN and no password ever stands in an argument: children are told by their environment alone.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from schemas.backup import Contents
from service.adapters.pg_tools.access import Access, access
from service.adapters.pg_tools.child import Child, started
from service.adapters.pg_tools.contents import snapshot
from service.adapters.pg_tools.programs import Tools, tools_for
from service.adapters.pg_tools.scratch import scratch_server
from service.errors import Permanent, Retry
from service.timeouts import time_limit

IDENTIFIED_WITHIN = 30.0
"""Seconds to be told which server this is."""
LOCKED_AT_MOST = "--lock-wait-timeout=30000"
"""Milliseconds that pg_dump waits for a table somebody has locked."""
FULL = "No space left on device"

T = TypeVar("T")


class PostgresDumps:
    """With the newest programs on this machine. `scratch` is a folder with room for a restored database."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    async def identify(self, dsn: str) -> str:
        """The `system_identifier` of the server."""
        async with _in_time(timedelta(seconds=IDENTIFIED_WITHIN), "the database"), snapshot(dsn) as seen:
            return await seen.identifier()

    async def dump(
        self, dsn: str, sink: Callable[[AsyncIterator[bytes]], Awaitable[T]], timeout: timedelta
    ) -> tuple[Contents, T]:
        """Counts first, then dumps the same snapshot: the locks of counting keep the tables as they are."""
        reached = access(dsn)
        async with _in_time(timeout, "pg_dump"), snapshot(dsn) as seen:
            contents = await seen.contents()
            tools = await asyncio.to_thread(tools_for, contents.server_version, "pg_dump")
            command = [tools["pg_dump"], "--format=custom", "--no-password", LOCKED_AT_MOST]
            command.append(f"--snapshot={await seen.export()}")
            async with (
                started(command, reached.environment, writes=True) as child,
                contextlib.aclosing(_whole(child, reached)) as chunks,
            ):
                answer = await sink(chunks)
        return contents, answer

    async def readable(self, chunks: AsyncIterator[bytes], timeout: timedelta) -> None:
        """Through pg_restore: its list of contents alone would not find what is damaged behind it."""
        tools = await asyncio.to_thread(tools_for, 0, "pg_restore")
        async with (
            _in_time(timeout, "pg_restore"),
            started([tools["pg_restore"], "--file=/dev/null"], {}, reads=True) as child,
        ):
            await child.feed(chunks)
            await _well(child, "the dump cannot be read: pg_restore")

    async def restored(self, chunks: AsyncIterator[bytes], expected: Contents, timeout: timedelta) -> Contents:
        """On a server that nobody else can reach, of the newest version here, which is gone afterwards."""
        tools = await asyncio.to_thread(tools_for, expected.server_version, "pg_restore", "initdb", "postgres")
        async with (
            _in_time(timeout, "the restore"),
            scratch_server(self._scratch, tools, expected.database_bytes) as server,
        ):
            await server.prepare(expected.roles, expected.encoding)
            await self._restore(chunks, tools, server.environment)
            async with snapshot(None, **server.arguments) as seen:
                return await seen.contents()

    async def _restore(self, chunks: AsyncIterator[bytes], tools: Tools, environment: dict[str, str]) -> None:
        command = [tools["pg_restore"], "--exit-on-error", "--no-password", "--no-tablespaces", "--no-subscriptions"]
        command.append(f"--dbname={environment['PGDATABASE']}")
        async with started(command, environment, reads=True) as child:
            await child.feed(chunks)
            await _well(child, "the dump cannot be restored: pg_restore")


async def _whole(child: Child, reached: Access) -> AsyncGenerator[bytes, None]:
    """pg_dump's output, which ends well only when pg_dump did."""
    async for chunk in child.output():
        yield chunk
    if status := await child.ended():
        raise Retry(f"pg_dump {_how(status)}: {reached.hide(child.said())}")


async def _well(child: Child, what: str) -> None:
    status = await child.ended()
    if status == 0:
        return
    words = f"{what} {_how(status)}: {child.said()}"
    raise Retry(words) if status < 0 or FULL in words else Permanent(words)


def _how(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


@contextlib.asynccontextmanager
async def _in_time(timeout: timedelta, what: str) -> AsyncIterator[None]:
    seconds = timeout.total_seconds()
    try:
        async with time_limit(seconds) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise Retry(f"{what} did not end within {seconds:g} s and was ended") from error
