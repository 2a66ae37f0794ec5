"""Publishes a batch in one write and waits for its confirms: one channel, in order. What it means is not known here.

One awaited publish a message costs more than everything else on the way of an event (PERFORMANCE: 4,700 against 12,300
a second); here a batch is packed into frames, written at once, and confirmed by a few multiple acks.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiormq
from aiormq.abc import AbstractConnection, ChannelFrame

from service.adapters.rabbitmq.confirms import ConfirmChannel, Waiting
from service.adapters.rabbitmq.connection import CLOSE_TIMEOUT, SERVER, Link, Say, ask, blocked, explain
from service.adapters.rabbitmq.names import OPERATIONS_EXCHANGE
from service.errors import Unavailable
from service.ports import OutMessage, Sent

WINDOW = 1000
"""Messages that may be without a confirm at once; beyond it the next batch waits for room."""
CONFIRM_TIMEOUT = 30.0
"""Seconds without any confirm after which the channel is given up; time that the broker blocks us is not counted."""
BLOCKED_AFTER = 1.0
"""Seconds of silence after which it is asked whether the broker blocks this connection (a memory or disk alarm)."""


class BatchPublisher:
    """The port `Publisher`. Its channel is opened when it is first needed, and again after it was lost."""

    def __init__(
        self,
        link: Link,
        *,
        say: Say,
        declare_again: Callable[[], Awaitable[None]],
        declare_for: Callable[[AbstractConnection], Awaitable[None]],
        window: int = WINDOW,
    ) -> None:
        """`declare_again` restores the topology once the broker has said that an exchange is missing; `declare_for`
        before anything is published on a new connection."""
        self._link, self._say, self._declare_again, self._window = link, say, declare_again, window
        self._declare_for = declare_for
        self._channel: ConfirmChannel | None = None
        self._writing = asyncio.Lock()
        self._exchange_missing = False
        self._blocked = False

    async def publish(
        self, messages: Sequence[OutMessage], *, mandatory: bool = False, expiration: int | None = None
    ) -> tuple[Sent, ...]:
        """One verdict a message. Raises Unavailable when cut off: each of them may or may not have arrived.

        `expiration` in milliseconds: the broker drops what nobody took by then. Raises ValueError for a name that AMQP
        cannot carry (over 255 bytes); then nothing of that write was sent.
        """
        batches: list[tuple[ConfirmChannel, Waiting]] = []
        async with self._writing:
            for start in range(0, len(messages), self._window):
                part = messages[start : start + self._window]
                channel = await self._open()
                await self._until_unblocked(channel)
                while channel.outstanding and channel.outstanding + len(part) > self._window:
                    await self._wait(channel, channel.room())
                waiting, payload = channel.number_and_pack(part, mandatory, expiration)
                batches.append((channel, waiting))
                await self._write(channel, payload)
        for channel, waiting in batches:
            await self._wait(channel, waiting.done)
        verdicts = tuple(verdict for _, waiting in batches for verdict in waiting.verdicts)
        if Sent.RETURNED in verdicts and any(
            verdict is Sent.RETURNED and message.exchange == OPERATIONS_EXCHANGE
            for message, verdict in zip(messages, verdicts, strict=True)
        ):
            # Somebody deleted the queue: nobody of ours consumes it, so nobody else would notice.
            await self._declare_again()
        return verdicts

    async def close(self) -> None:
        """Closes the channel; whoever still waits for a confirm gets Unavailable."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.give_up(Unavailable(SERVER, "the publisher was closed"))
            with contextlib.suppress(Unavailable, aiormq.AMQPError):
                await ask(channel.close(), CLOSE_TIMEOUT)

    async def _open(self) -> ConfirmChannel:
        channel = self._channel
        if channel is not None and not channel.is_closed and not channel.lost.done():
            return channel
        connection = self._link.current
        if connection is None:
            raise Unavailable(SERVER, f"not connected for {self._link.name}")
        if self._exchange_missing:
            await self._declare_again()
            self._exchange_missing = False
        await self._declare_for(connection)
        channel = ConfirmChannel(connection)
        channel.closing.add_done_callback(lambda closing: self._on_closed(channel, closing))
        try:
            await ask(channel.open())
        except aiormq.AMQPChannelError as error:
            raise Unavailable(SERVER, explain(error)) from error
        self._channel = channel
        return channel

    def _on_closed(self, channel: ConfirmChannel, closing: "asyncio.Future[None]") -> None:
        why = None if closing.cancelled() else closing.exception()
        if isinstance(why, aiormq.ChannelNotFoundEntity):
            self._exchange_missing = True
        text = "the channel ended" if why is None else explain(why)
        channel.give_up(Unavailable(SERVER, f"{text}; {channel.outstanding} messages are without a confirm"))

    async def _write(self, channel: ConfirmChannel, payload: bytes) -> None:
        """Hands the bytes to the connection's writer, and waits until the socket has taken enough of them."""
        drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        frame = ChannelFrame(payload, should_close=False, drain_future=drained)
        try:
            channel.write_queue.put_nowait(frame)
        except asyncio.QueueFull:
            putting = asyncio.ensure_future(channel.write_queue.put(frame))
            try:
                await self._wait(channel, putting)
            except BaseException:
                # Numbered but not written: every later number on this channel would be wrong.
                putting.cancel()
                channel.give_up(Unavailable(SERVER, "a write was given up"))
                await self._link.cut()
                raise
        await self._wait(channel, drained)

    async def _wait(self, channel: ConfirmChannel, event: "asyncio.Future[None]") -> None:
        """Waits for one thing to happen on the channel. Raises Unavailable when it cannot happen any more."""
        silent = 0.0
        while not event.done():
            settled = channel.settled
            either: tuple[asyncio.Future[Any], ...] = (event, channel.lost)
            await asyncio.wait(either, timeout=BLOCKED_AFTER, return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                break
            if channel.lost.done():
                raise channel.lost.result()
            if await self._is_blocked(channel) or channel.settled != settled:
                silent = 0.0
                continue
            silent += BLOCKED_AFTER
            if silent >= CONFIRM_TIMEOUT:
                channel.give_up(Unavailable(SERVER, f"no confirm within {CONFIRM_TIMEOUT:.0f} s"))
                await self.close()
        event.result()
        if self._blocked:
            await self._is_blocked(channel)

    async def _until_unblocked(self, channel: ConfirmChannel) -> None:
        while await self._is_blocked(channel):
            await asyncio.wait({channel.lost}, timeout=BLOCKED_AFTER)
            if channel.lost.done():
                raise channel.lost.result()

    async def _is_blocked(self, channel: ConfirmChannel) -> bool:
        now = await blocked(channel.connection)
        if now != self._blocked:
            self._blocked = now
            if now:
                self._say("broker.blocked", connection=self._link.name, why="memory or disk alarm on the broker")
            else:
                self._say("broker.unblocked", connection=self._link.name)
        return now
