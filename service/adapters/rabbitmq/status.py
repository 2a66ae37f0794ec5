"""Watching the status topic, live and from the stream: the port `StatusReader`. Nothing is published here."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Literal

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

from service.adapters.rabbitmq.connection import (
    CLOSE_TIMEOUT,
    CONNECT_TIMEOUT,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    SERVER,
    Link,
    Say,
    ask,
    explain,
    running,
    say_to_log,
)
from service.adapters.rabbitmq.frames import Content, Delivered
from service.adapters.rabbitmq.names import MARK, STATUS_EXCHANGE, STATUS_LOG
from service.errors import Unavailable
from service.ports import Clock
from service.timeouts import time_limit

HEARTBEAT = 5
"""Seconds: an outage is noticed after at most 18, well within the overlap below."""
AT_ONCE = 500
"""Notifications of the stream on their way at once."""
QUIET = 2.0
"""Seconds without another notification after which a replay has caught up; the broker does not say where the end is."""
OVERLAP = timedelta(seconds=30)
"""How much earlier than an outage the stream is read again, for what the broker had sent and we never got."""
REMEMBERED = 20_000
"""Notifications by which those of the overlap are known again."""
MOST_WAITING = 100_000
"""Notifications the broker keeps for a watcher that does not keep up; then it drops the oldest."""

Notification = tuple[str, bytes]
"""Routing key and body."""
Offset = Literal["first"] | datetime


def matches(binding: str, routing_key: str) -> bool:
    """Whether a topic binding (`*` one word, `#` any number) means this routing key."""
    return _match(binding.split("."), routing_key.split("."))


def _match(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_match(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _match(pattern[1:], words[1:])


def is_mark(routing_key: str, body: bytes) -> bool:
    """Whether it only marks a place in the stream. What the exchange refused stands under the same name as marks do."""
    return routing_key == STATUS_LOG and f'"type": "{MARK}"'.encode() in body[:200]


class RabbitStatusReader:
    """Each watch and each replay has a connection of its own, made when it begins."""

    def __init__(self, url: str, *, clock: Clock, on_event: Say = say_to_log) -> None:
        self._url, self._clock, self._say = url, clock, on_event

    async def watch(self, binding: str) -> AsyncGenerator[Notification, None]:
        """Every notification that matches the topic binding from now on, without end.

        After an outage what was missed is read from the stream first; only what the stream lost too is missing then.
        """
        async with self.watching(binding) as notifications:
            async for notification in notifications:
                yield notification

    @contextlib.asynccontextmanager
    async def watching(self, binding: str) -> AsyncIterator[AsyncIterator[Notification]]:
        """The same, entered when the binding stands: what is published afterwards is seen."""
        watcher = _Watcher(binding, self._link("watching"), self.replay, self._clock, self._say)
        async with running(watcher.run()):
            await watcher.bound.wait()
            yield watcher.notifications()

    async def replay(self, offset: Offset = "first", quiet: float = QUIET) -> AsyncGenerator[Notification, None]:
        """What the status log holds, oldest first, until nothing more has come for `quiet` seconds.

        `offset`: from the first one kept, or from a moment (aware; some earlier ones come too, the stream is cut into
        chunks). Raises Unavailable when the broker is away or has no status log.
        """
        link = self._link("replaying")
        inbox: asyncio.Queue[tuple[int, str, bytes]] = asyncio.Queue()

        def receive(delivered: Delivered, content: Content, body: bytes) -> None:
            _, tag, _, routing_key = delivered
            inbox.put_nowait((tag, routing_key, body))

        async with running(link.run()), opened_channel(link, await link.up(CONNECT_TIMEOUT), receive) as channel:
            try:
                await ask(channel.basic_qos(prefetch_count=AT_ONCE))
                await ask(channel.basic_consume(STATUS_LOG, _never, arguments={"x-stream-offset": offset}))
            except aiormq.AMQPChannelError as error:
                raise Unavailable(SERVER, f"its status log cannot be read: {explain(error)}") from error
            while True:
                try:
                    async with time_limit(quiet):
                        tag, routing_key, body = await inbox.get()
                except TimeoutError:
                    if channel.is_closed:
                        raise Unavailable(SERVER, "the connection was lost during a replay") from None
                    return
                if not is_mark(routing_key, body):
                    yield routing_key, body
                if tag % (AT_ONCE // 2) == 0:
                    await ask(channel.basic_ack(tag, multiple=True, wait=False))

    def _link(self, name: str) -> Link:
        return Link(name, self._url, clock=self._clock, heartbeat=HEARTBEAT, say=self._say)


class _Watcher:
    """One live watch: an exclusive queue that is made again after every outage."""

    def __init__(
        self,
        binding: str,
        link: Link,
        replay: Callable[[Offset], AsyncIterator[Notification]],
        clock: Clock,
        say: Say,
    ) -> None:
        self.bound = asyncio.Event()
        self._binding, self._link, self._replay, self._clock, self._say = binding, link, replay, clock, say
        self._ready: asyncio.Queue[Notification] = asyncio.Queue()
        self._held: list[Notification] | None = None
        """While a gap is filled: what came live meanwhile."""
        self._seen: set[int] = set()
        self._order: deque[int] = deque()
        self._gap_since: datetime | None = None

    async def notifications(self) -> AsyncIterator[Notification]:
        while True:
            yield await self._ready.get()

    async def run(self) -> None:
        async with running(self._link.run()):
            pause, said = FIRST_PAUSE, False
            while True:
                connection = await self._link.up()
                try:
                    async with opened_channel(self._link, connection, self._receive) as channel:
                        await self._bind(channel)
                        pause, said = FIRST_PAUSE, False
                        await self._fill_gap()
                        await self._until_over(channel)
                except (Unavailable, aiormq.AMQPError) as error:
                    if not said and self._link.current is connection:
                        said = True
                        self._say("watch.interrupted", binding=self._binding, why=explain(error))
                self._gap_since = self._gap_since or self._clock.now()
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _bind(self, channel: AbstractChannel) -> None:
        self._held = [] if self._gap_since is not None else None
        declaring = channel.queue_declare(exclusive=True, auto_delete=True, arguments={"x-max-length": MOST_WAITING})
        if (queue := (await ask(declaring)).queue) is None:
            raise Unavailable(SERVER, "it named no queue")
        await ask(channel.queue_bind(queue, STATUS_EXCHANGE, self._binding))
        await ask(channel.basic_consume(queue, _never, no_ack=True))
        self.bound.set()

    async def _fill_gap(self) -> None:
        if self._gap_since is None:
            return
        # Only a gap that was filled is forgotten; if this fails, the next attempt reads from the same moment.
        async for routing_key, body in self._replay(self._gap_since - OVERLAP):
            if matches(self._binding, routing_key):
                self._hand_out((routing_key, body), known=False)
        self._gap_since = None
        held, self._held = self._held or [], None
        for notification in held:
            self._hand_out(notification, known=False)

    async def _until_over(self, channel: AbstractChannel) -> None:
        over = asyncio.Event()
        closing = channel.closing
        closing.add_done_callback(lambda _: over.set())
        channel.on_consumer_cancel_callbacks.add(lambda _: over.set())
        await over.wait()

    def _receive(self, delivered: Delivered, content: Content, body: bytes) -> None:
        *_, routing_key = delivered
        notification = (routing_key, body)
        if self._held is None:
            self._hand_out(notification, known=True)
        else:
            self._held.append(notification)

    def _hand_out(self, notification: Notification, *, known: bool) -> None:
        """`known` True: hand out even what was seen, as the broker sent it; False: only what was not."""
        mark = hash(notification)
        if mark in self._seen:
            if not known:
                return
        else:
            self._seen.add(mark)
            self._order.append(mark)
            if len(self._order) > REMEMBERED:
                self._seen.discard(self._order.popleft())
        self._ready.put_nowait(notification)


@contextlib.asynccontextmanager
async def opened_channel(
    link: Link, connection: AbstractConnection, receive: Callable[[Delivered, Content, bytes], None]
) -> AsyncIterator[AbstractChannel]:
    """A channel whose deliveries go to `receive`; closed with the block."""
    tap = link.tap
    channel = await ask(connection.channel(publisher_confirms=False))
    try:
        if tap is None or link.current is not connection:
            raise Unavailable(SERVER, "the connection was lost while a channel was opened")
        tap.listen(channel.number, receive)
        yield channel
    finally:
        with contextlib.suppress(Unavailable, aiormq.AMQPError):
            if not channel.is_closed:
                await ask(channel.close(), CLOSE_TIMEOUT)
        if tap is not None:
            tap.forget(channel.number)


async def _never(_: DeliveredMessage) -> None:
    """Deliveries are taken by the tap; aiormq wants a callback all the same."""
