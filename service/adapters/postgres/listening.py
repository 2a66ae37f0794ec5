"""One connection that hears NOTIFY and comes back by itself; whoever waits polls besides: nothing hangs on it."""

import asyncio
import contextlib
from datetime import timedelta

from service.adapters.postgres.connections import SETTINGS, Connection, open_connection
from service.adapters.postgres.failures import translate
from service.timeouts import time_limit

SIGNALS = "relight_signals"
STEPS = "relight_steps"

CONNECTING = timedelta(seconds=2)
"""For one try to connect; meanwhile the waiting falls back to its timeout."""

PAUSE = 1.0
"""Seconds between two tries while the server is away."""


class Listening:
    """Events by channel and payload, kept until somebody waits: one that comes before its waiter is not lost."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._failed = False
        self._heard: dict[tuple[str, str], asyncio.Event] = {}

    async def wait(self, channel: str, payload: str, timeout: float) -> None:
        """Returns when a notification came since the last wait, when the connection was made anew, or in time."""
        heard = self._heard.setdefault((channel, payload), asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with time_limit(timeout):
                while not heard.is_set():
                    if self._connection is not None and not self._connection.is_closed():
                        await heard.wait()
                    else:
                        await self._open()
        heard.clear()

    async def close(self) -> None:
        """Stops listening."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._connection is not None:
            self._connection.terminate()

    async def _open(self) -> None:
        # Goes on when its waiter's time is over: a slow server is reached by the next one.
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._connect())
        opening = self._opening
        await asyncio.wait({opening})
        if not opening.cancelled():
            opening.result()

    async def _connect(self) -> None:
        if self._failed:
            await asyncio.sleep(PAUSE)
        self._failed = True
        try:
            async with time_limit(CONNECTING.total_seconds()):
                connection = await open_connection(self._dsn, SETTINGS, CONNECTING.total_seconds())
                try:
                    for channel in (SIGNALS, STEPS):
                        await connection.add_listener(channel, self._hear)
                except BaseException:
                    connection.terminate()
                    raise
        except Exception as error:
            if translate(error) is None:
                raise
            return
        self._failed = False
        self._connection = connection
        connection.add_termination_listener(self._wake_all)
        # What was told while nobody listened is found by looking.
        self._wake_all()

    def _hear(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        self._heard.setdefault((channel, str(payload)), asyncio.Event()).set()

    def _wake_all(self, _connection: object = None) -> None:
        for heard in self._heard.values():
            heard.set()
