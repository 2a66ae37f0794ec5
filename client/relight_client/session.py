"""One connection to the broker with one channel, and its errors in our words. What is done with it is its user's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import aio_pika
from aio_pika import exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractQueue

from relight_client.errors import Away, ClientError, Forbidden
from relight_client.events import CONTENT_TYPE, Event

EVENTS, STATUS, STATUS_LOG, COMMANDS = "relight.events", "relight.status", "relight.status.log", "relight.commands"
"""Relight's exchanges and its stream. They are used as they are and never declared from here."""

WITHIN = 10.0
"""Seconds for one question to the broker."""
HEARTBEAT = 10
"""Seconds: a broker that fell silent is noticed after at most twice that."""
LOOK = 3.0
"""Seconds between two looks at whether the broker still knows our consumer: a client may miss that it was cancelled."""

T = TypeVar("T")


async def asked(question: Awaitable[T], within: float = WITHIN) -> T:
    """The broker's answer. Raises Away or Forbidden; a cancellation from outside goes through."""
    this = asyncio.current_task()
    try:
        async with asyncio.timeout(within):
            return await question
    except asyncio.CancelledError:
        # The AMQP client cancels what waits on a connection that broke; only a cancellation of ours is counted.
        if this is None or this.cancelling():
            raise
        raise Away("the connection broke in the middle of a question") from None
    except TimeoutError as error:
        raise Away(f"the broker did not answer within {within:g} s") from error
    except (exceptions.AuthenticationError, exceptions.ProbableAuthenticationError) as error:
        # The second is also what a broker looks like that goes away in the middle of a greeting.
        if isinstance(error, exceptions.ProbableAuthenticationError) and "ACCESS_REFUSED" not in str(error):
            raise Away(f"{type(error).__name__}: {error}") from error
        raise Forbidden(f"the broker does not let this user in: {error}") from error
    except exceptions.ChannelNotFoundEntity as error:
        hint = ": has Relight served on this broker and vhost yet?" if "NOT_FOUND - no " in str(error) else ""
        raise Away(f"{error}{hint}") from error
    except exceptions.AMQPChannelError as error:
        raise Forbidden(str(error)) from error
    except (exceptions.AMQPError, exceptions.ChannelInvalidStateError, OSError) as error:
        raise Away(f"{type(error).__name__}: {error}") from error


def user_of(url: str) -> str:
    """The broker's user in an AMQP URL."""
    return unquote(urlsplit(url).username or "guest")


class Session:
    """Open from `session(…)` until its block ends; `lost` is set when connection or channel are gone."""

    def __init__(self, connection: AbstractConnection, channel: AbstractChannel, user: str) -> None:
        self.channel = channel
        self.lost = asyncio.Event()
        self._connection = connection
        self._user = user
        connection.close_callbacks.add(self._on_close)
        channel.close_callbacks.add(self._on_close)

    def _on_close(self, *_: Any) -> None:
        self.lost.set()

    async def publish(self, event: Event, within: float = WITHIN) -> None:
        """Returns when the broker has the event on disk. Raises Away (also when it has no room) or Forbidden."""
        message = aio_pika.Message(
            event.body(self._user),
            content_type=CONTENT_TYPE,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=event.id,
            user_id=self._user,
        )
        events: AbstractExchange = await asked(self.channel.get_exchange(EVENTS, ensure=False))
        await asked(events.publish(message, event.routing_key), within)

    async def still_heard(self, queue: AbstractQueue) -> None:
        """Raises Away when the broker has no consumer of ours on `queue` any more."""
        known = await asked(self.channel.declare_queue(queue.name, passive=True))
        if not known.declaration_result.consumer_count:
            raise Away("the broker has ended our consumer")

    async def close(self) -> None:
        """Whatever state it is in."""
        with contextlib.suppress(ClientError):
            await asked(self._connection.close())


async def connect(url: str, purpose: str, prefetch: int = 0) -> Session:
    """A new session, which its caller closes. Raises Away or Forbidden."""
    user = user_of(url)
    connection = await asked(
        aio_pika.connect(
            _with_heartbeat(url), timeout=WITHIN, client_properties={"connection_name": f"{user} ({purpose})"}
        )
    )
    try:
        channel = await asked(connection.channel(on_return_raises=True))
        if prefetch:
            await asked(channel.set_qos(prefetch_count=prefetch))
    except BaseException:
        with contextlib.suppress(ClientError):
            await asked(connection.close())
        raise
    return Session(connection, channel, user)


def _with_heartbeat(url: str) -> str:
    if "heartbeat=" in url:
        return url
    return f"{url}{'&' if urlsplit(url).query else '?'}heartbeat={HEARTBEAT}"


@contextlib.asynccontextmanager
async def session(url: str, purpose: str, prefetch: int = 0) -> AsyncIterator[Session]:
    """The same, closed with the block."""
    opened = await connect(url, purpose, prefetch)
    try:
        yield opened
    finally:
        await opened.close()
