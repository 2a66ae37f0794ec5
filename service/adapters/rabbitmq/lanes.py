"""The two lanes of a shard as consumers, restored after whatever ends them. What a message means is not known here."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

from schemas.events import Lane
from service.adapters.rabbitmq.connection import CLOSE_TIMEOUT, FIRST_PAUSE, LONGEST_PAUSE, Link, Say, ask, explain
from service.adapters.rabbitmq.frames import Content, Delivered
from service.adapters.rabbitmq.names import consumed
from service.adapters.rabbitmq.tap import OnMessage
from service.errors import Misconfigured, Unavailable
from service.ports import Clock, Delivery
from service.timeouts import time_limit

LONG_PAUSE = 600.0
"""Seconds of a pause after which the channels are closed. The broker itself closes the channel of a delivery that is 30
minutes old, counts that against the message, and would do so again and again."""

Restore = Callable[[AbstractConnection, bool], Awaitable[None]]
"""Declares the topology on a connection: once for each, or (True) although it was done there already."""


class Consumer:
    """One lane: one channel at a time, and a buffer whose content dies with its channel."""

    def __init__(
        self,
        lane: Lane,
        queues: tuple[str, ...],
        *,
        link: Link,
        prefetch: int,
        clock: Clock,
        say: Say,
        restore: Restore,
        numbers: Iterator[int],
        arrived: Callable[[], None],
    ) -> None:
        """`numbers` gives each channel a number that no other channel of the process had."""
        self.lane = lane
        self.buffer: deque[Delivery] = deque()
        self.opened = asyncio.Event()
        """Set when it consumes for the first time."""
        self._queues, self._link, self._prefetch = queues, link, prefetch
        self._clock, self._say, self._restore = clock, say, restore
        self._numbers, self._arrived = numbers, arrived
        self._channel: AbstractChannel | None = None
        self._number = 0
        self._over = asyncio.Event()
        self._cancelled = False
        self._resting = False
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._troubled = False

    def rest(self) -> None:
        """Closes the channel and opens none until `work`."""
        self._wanted.clear()
        self._resting = True
        self._over.set()

    def work(self) -> None:
        """Consumes (again)."""
        self._wanted.set()

    def waiting(self) -> int:
        """How many `take` could give."""
        return len(self.buffer) if self._lives() else 0

    def _lives(self) -> bool:
        channel = self._channel
        return channel is not None and not channel.is_closed and self._link.current is channel.connection

    def take(self, limit: int) -> list[Delivery]:
        """The oldest of the buffer; nothing of a channel that is dead, although nobody may have noticed yet."""
        if not self._lives():
            self.buffer.clear()
        return [self.buffer.popleft() for _ in range(min(limit, len(self.buffer)))]

    async def ack(self, number: int, tag: int) -> None:
        """Acknowledges up to `tag` of the channel `number`; a closed channel's tags are passed over."""
        channel = self._channel
        if channel is None or number != self._number or channel.is_closed:
            return
        # A channel that dies now gives the messages back, and their ids are known by then.
        with contextlib.suppress(Unavailable, aiormq.AMQPError):
            await ask(channel.basic_ack(tag, multiple=True, wait=False))

    async def run(self) -> None:
        """Consumes until cancelled. What ends a channel is said once, and once that it is mended."""
        pause, declare = FIRST_PAUSE, False
        while True:
            await self._wanted.wait()
            connection = await self._link.up()
            try:
                await self._restore(connection, declare)
                declare = False
                async with self._open(connection) as channel:
                    pause = FIRST_PAUSE
                    why = await self._until_over(channel)
                if self._resting:
                    continue
                declare = self._cancelled
                if self._link.current is connection:
                    self._trouble(why)
            except aiormq.AMQPChannelError as refusal:
                # Most often 404: a queue was deleted.
                declare = True
                self._trouble(explain(refusal))
            except (Misconfigured, Unavailable) as error:
                # An outage of the connection is its own to tell.
                if self._link.current is connection:
                    self._trouble(str(error))
            await self._clock.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    @contextlib.asynccontextmanager
    async def _open(self, connection: AbstractConnection) -> AsyncIterator[AbstractChannel]:
        tap = self._link.tap
        channel = await ask(connection.channel(publisher_confirms=False))
        try:
            if tap is None or self._link.current is not connection:
                raise Unavailable("RabbitMQ", "the connection was lost while a lane was opened")
            self._resting = not self._wanted.is_set()
            self._over.clear()
            if self._resting:
                self._over.set()
            self._cancelled = False
            self._channel, self._number = channel, next(self._numbers)
            channel.on_consumer_cancel_callbacks.add(self._on_cancel)
            tap.listen(channel.number, self._receiver(self._number))
            await ask(channel.basic_qos(prefetch_count=self._prefetch))
            for queue in self._queues:
                await ask(channel.basic_consume(queue, _never, consumer_tag=queue))
            self.opened.set()
            if self._troubled:
                self._troubled = False
                self._say("lane.back", lane=self.lane.value, queues=", ".join(self._queues))
            yield channel
        finally:
            # First nobody can take or acknowledge, then the broker gives what was not acknowledged to the next owner.
            self._channel = None
            self.buffer.clear()
            await self._close(connection, channel)
            if tap is not None:
                tap.forget(channel.number)

    async def _close(self, connection: AbstractConnection, channel: AbstractChannel) -> None:
        try:
            if not channel.is_closed:
                await ask(channel.close(), CLOSE_TIMEOUT)
        except (Unavailable, aiormq.AMQPError):
            # A server that does not answer must not keep our messages: without the socket it gives them back.
            if self._link.current is connection:
                await self._link.cut()

    async def _until_over(self, channel: AbstractChannel) -> str:
        closing = channel.closing
        closing.add_done_callback(lambda _: self._over.set())
        await self._over.wait()
        if self._cancelled:
            return "the broker cancelled the consumer (the queue was deleted, or its leader moved)"
        why = closing.exception() if closing.done() and not closing.cancelled() else None
        return explain(why) if why is not None else "the channel ended"

    def _receiver(self, number: int) -> OnMessage:
        lane, buffer, arrived = self.lane, self.buffer, self._arrived

        def receive(delivered: Delivered, content: Content, body: bytes) -> None:
            if self._number != number or self._channel is None:
                return
            if not buffer:
                # Whoever waits does so only while nothing is here.
                arrived()
            consumer, tag, redelivered, routing_key = delivered
            _, content_type, user = content
            buffer.append(Delivery(lane, number, tag, consumer, routing_key, body, user, redelivered, content_type))

        return receive

    def _on_cancel(self, _: object) -> None:
        self._cancelled = True
        self._over.set()

    def _trouble(self, why: str) -> None:
        if not self._troubled:
            self._troubled = True
            self._say("lane.interrupted", lane=self.lane.value, queues=", ".join(self._queues), why=why)


async def _never(_: DeliveredMessage) -> None:
    """Deliveries are taken by the tap; aiormq wants a callback all the same."""


class RabbitLanes:
    """Both lanes of a shard, as the engine sees them."""

    def __init__(
        self,
        shard: int,
        *,
        link: Link,
        prefetch: int,
        clock: Clock,
        say: Say,
        restore: Restore,
        numbers: Iterator[int],
    ) -> None:
        """Nothing is consumed before `run`. `prefetch` is for each lane."""
        self._something = asyncio.Event()
        self._failure: Exception | None = None
        self._paused = asyncio.Event()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._clock = clock
        self._lanes = [
            Consumer(
                lane,
                consumed(lane, shard),
                link=link,
                prefetch=prefetch,
                clock=clock,
                say=say,
                restore=restore,
                numbers=numbers,
                arrived=self._something.set,
            )
            for lane in (Lane.CONTROL, Lane.METRICS)
        ]

    async def run(self) -> None:
        """Keeps both lanes consuming until cancelled; their channels are closed then."""
        try:
            async with asyncio.TaskGroup() as group:
                for lane in self._lanes:
                    group.create_task(lane.run())
                group.create_task(self._rest_when_paused_long())
        except Exception as failure:
            # A fault of ours, not of the broker. Whoever waits for deliveries must not wait for ever.
            self._failure = failure
            self._resumed.set()
            self._something.set()
            raise

    async def opened(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with time_limit(timeout):
                for lane in self._lanes:
                    await lane.opened.wait()

    async def wait(self, timeout: float) -> None:
        if self._failure is not None:
            raise self._failure
        with contextlib.suppress(TimeoutError):
            async with time_limit(timeout):
                await self._resumed.wait()
                if not any(lane.buffer for lane in self._lanes):
                    self._something.clear()
                    await self._something.wait()

    def waiting(self) -> int:
        return 0 if self._paused.is_set() else sum(lane.waiting() for lane in self._lanes)

    def take(self, limit: int) -> tuple[Delivery, ...]:
        if self._paused.is_set():
            return ()
        taken: list[Delivery] = []
        for lane in self._lanes:
            taken.extend(lane.take(limit - len(taken)))
        return tuple(taken)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        highest: dict[int, int] = {}
        for delivery in deliveries:
            if delivery.tag > highest.get(delivery.channel, 0):
                highest[delivery.channel] = delivery.tag
        for number, tag in highest.items():
            # No two channels have the same number: the other lane passes this one's over.
            for lane in self._lanes:
                await lane.ack(number, tag)

    def pause(self) -> None:
        self._resumed.clear()
        self._paused.set()

    def resume(self) -> None:
        self._paused.clear()
        self._resumed.set()
        for lane in self._lanes:
            lane.work()

    async def _rest_when_paused_long(self) -> None:
        while True:
            await self._paused.wait()
            with contextlib.suppress(TimeoutError):
                async with time_limit(LONG_PAUSE):
                    await self._resumed.wait()
                continue
            for lane in self._lanes:
                lane.rest()
            await self._resumed.wait()
