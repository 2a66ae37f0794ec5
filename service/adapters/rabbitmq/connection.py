"""One supervised connection to RabbitMQ: made, watched, made again with backoff, each outage said once.

Nothing here knows queues or messages. Everything that waits for aiormq goes through `ask`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from itertools import count
from typing import Any, NoReturn, Protocol, TypeVar

import aiormq
from aiormq.abc import AbstractConnection
from yarl import URL

from service.adapters.rabbitmq.tap import Tap, TappedTransport
from service.errors import Unavailable
from service.ports import Clock
from service.timeouts import time_limit

T = TypeVar("T")

SERVER = "RabbitMQ"
CONNECT_TIMEOUT = 10.0
"""Seconds for one attempt to connect, and for whoever needs a connection at once."""
CALL_TIMEOUT = 15.0
"""Seconds for one answer of the server; a quorum queue that elects a leader takes a few."""
CLOSE_TIMEOUT = 2.0
"""Seconds for a polite goodbye; then the socket is cut, which gives the messages back as well."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between attempts: doubled from the first to the longest."""

_log = logging.getLogger("relight.rabbitmq")

# The library reports every failed attempt of an outage; ours is said once, when it begins.
for _name in ("aiormq", "aio_pika"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Say(Protocol):
    """Where events of the connection are told: an event name and fields."""

    def __call__(self, event: str, **fields: object) -> None: ...


def say_to_log(event: str, **fields: object) -> None:
    """The default: the standard logging module."""
    _log.warning("%s %s", event, " ".join(f"{key}={value}" for key, value in fields.items()))


def pauses() -> Iterator[float]:
    """The pauses between attempts, without end: doubling up to the longest."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE)


async def ask(call: Awaitable[T], timeout: float = CALL_TIMEOUT) -> T:
    """The answer of an aiormq call, or Unavailable; a refusal by the server is raised as it is.

    aiormq ends its calls with CancelledError when a connection dies, and may answer although we were cancelled (its
    `wait_for` does, on Python 3.11). Neither may reach a caller: a dying connection is no request to stop, and such a
    request must not be lost. What counts is whether our own task was asked to stop while this call lasted.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        async with time_limit(timeout):
            answer = await call
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError
        return answer
    except asyncio.CancelledError:
        if task is not None and task.cancelling() > before:
            raise
        raise Unavailable(SERVER, "the connection was lost while it was asked") from None
    except TimeoutError:
        raise Unavailable(SERVER, f"no answer within {timeout:.0f} s") from None
    except (aiormq.AMQPChannelError, aiormq.DeliveryError):
        raise
    except (aiormq.AMQPError, OSError, RuntimeError) as error:
        raise Unavailable(SERVER, explain(error)) from error
    except Exception as error:
        # aiormq ends calls with a bare Exception when the connection was closed without a reason.
        if type(error) is not Exception:
            raise
        raise Unavailable(SERVER, "the connection was closed while it was asked") from error


def explain(error: BaseException) -> str:
    """What a library's error says to a person, without secrets."""
    if isinstance(error, aiormq.ProbableAuthenticationError):
        return "it refuses user or password (ACCESS_REFUSED)"
    if isinstance(error, TimeoutError):
        return "no answer to the attempt to connect"
    if isinstance(error, asyncio.CancelledError):
        return "the connection was cut: the server was silent for too long"
    return str(error) or type(error).__name__


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Runs `work` beside the block and ends it with it. Unlike a TaskGroup it leaves the block's errors as they are."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        # A failure of the work itself is ours to know; its cancellation is what we asked for.
        results = await asyncio.gather(task, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]


class Link:
    """A connection by name. `up()` waits for it; `current` is it, or None while it is away."""

    def __init__(self, name: str, url: str, *, clock: Clock, heartbeat: int, say: Say) -> None:
        """Nothing is opened yet. `heartbeat` in seconds: the server gives up on us after about two of them."""
        self.name = name
        self.tap: Tap | None = None
        self._url = URL(url).update_query(heartbeat=str(heartbeat), name=f"relight {name}")
        self._clock, self._say = clock, say
        self._connection: AbstractConnection | None = None
        self._transport: TappedTransport | None = None
        self._is_up = asyncio.Event()

    @property
    def current(self) -> AbstractConnection | None:
        connection = self._connection
        return None if connection is None or connection.is_closed else connection

    async def up(self, timeout: float | None = None) -> AbstractConnection:
        """The connection, as soon as there is one. Raises Unavailable after `timeout` seconds (None: no limit)."""
        try:
            async with time_limit(timeout):
                while (connection := self.current) is None:
                    self._is_up.clear()
                    await self._is_up.wait()
        except TimeoutError:
            raise Unavailable(SERVER, f"not connected for {self.name}") from None
        return connection

    async def run(self) -> NoReturn:
        """Keeps the connection until it is cancelled."""
        away_since: float | None = None
        while True:
            for pause in pauses():
                try:
                    connection = await self._connect()
                    break
                except (Unavailable, aiormq.AMQPError) as error:
                    if away_since is None:
                        away_since = self._clock.monotonic()
                        self._say("broker.away", connection=self.name, why=str(error))
                    await self._clock.sleep(pause)
            try:
                if away_since is not None:
                    self._say("broker.back", connection=self.name, after=round(self._clock.monotonic() - away_since, 1))
                    away_since = None
                self._connection = connection
                self._is_up.set()
                closing = connection.closing
                await asyncio.wait({closing})
                away_since = self._clock.monotonic()
                why = None if closing.cancelled() else closing.exception()
                self._say("broker.away", connection=self.name, why=explain(why) if why else "the connection ended")
            finally:
                self._connection = None
                if not await close(connection):
                    self._abort()

    async def cut(self) -> None:
        """Ends the current connection without a word, for the server may not be listening; `run` makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._abort()
            await close(connection)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _connect(self) -> AbstractConnection:
        transport = TappedTransport()
        connection = aiormq.Connection(self._url, transport_factory=transport)
        try:
            await ask(connection.connect(), CONNECT_TIMEOUT)
        except BaseException as error:
            transport.abort()
            await close(connection)
            if not isinstance(error, Exception) or isinstance(error, Unavailable | aiormq.AMQPError):
                raise
            # Somebody who listens and hangs up, or is no broker at all: aiormq lets its parsers' errors through.
            why = f"what answers there is no RabbitMQ that is up ({explain(error)})"
            raise Unavailable(SERVER, why) from error
        self.tap, self._transport = transport.tap, transport
        return connection


async def close(connection: AbstractConnection) -> bool:
    """Says goodbye and closes; False when that took longer than CLOSE_TIMEOUT. Raises only our own cancellation."""
    try:
        await ask(connection.close(), CLOSE_TIMEOUT)
    except (Unavailable, aiormq.AMQPError):
        return False
    return True


async def blocked(connection: AbstractConnection) -> bool:
    """Whether the broker has said that it takes nothing from this connection (connection.blocked)."""
    try:
        async with time_limit(0):
            await connection.ready()
    except TimeoutError:
        return True
    return False


def next_number(connection: AbstractConnection) -> int:
    """A channel number that is free on this connection."""
    return next(number for number in count(1) if number not in connection.channels)
