"""RabbitMQ as the port `Broker`: two supervised connections, and what is opened on them. Composition only."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import datetime
from itertools import count
from types import TracebackType
from typing import Self

import aiormq
from aiormq.abc import AbstractConnection
from yarl import URL

from service.adapters.rabbitmq.commands import RabbitCommands
from service.adapters.rabbitmq.connection import CONNECT_TIMEOUT, Link, Say, running, say_to_log
from service.adapters.rabbitmq.history import told
from service.adapters.rabbitmq.lanes import RabbitLanes
from service.adapters.rabbitmq.names import STREAM_AGE, Topology, topology
from service.adapters.rabbitmq.publisher import BatchPublisher
from service.adapters.rabbitmq.topology import declare
from service.errors import Unavailable
from service.ports import Clock

HEARTBEAT = 4
"""Seconds. The broker gives up on a silent owner after about two of them, before its lease of ten has ended."""
PREFETCH = 600
"""Deliveries a lane may hold unacknowledged: about three batches."""


class RabbitBroker:
    """Connections are made in the background from `start` on; a server that is away is waited for, and said once."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        heartbeat: int = HEARTBEAT,
        prefetch: int = PREFETCH,
        stream_age: str = STREAM_AGE,
        on_event: Say = say_to_log,
    ) -> None:
        """`url`: amqp:// or amqps:// with user, password and vhost. `heartbeat` in seconds, shorter than the lease."""
        path = URL(url).path
        self._vhost = path[1:].replace("%2F", "/") or "/"
        self._clock, self._prefetch, self._stream_age, self._say = clock, prefetch, stream_age, on_event
        self._consuming = Link("consuming", url, clock=clock, heartbeat=heartbeat, say=on_event)
        self._publishing = Link("publishing", url, clock=clock, heartbeat=heartbeat, say=on_event)
        self._wanted: Topology | None = None
        self._systems: tuple[Sequence[str], Mapping[str, int], Sequence[str]] = (), {}, ()
        self._owned: set[int] = set()
        self._declared_on: AbstractConnection | None = None
        self._declared_for: AbstractConnection | None = None
        self._declaring = asyncio.Lock()
        self._numbers = count(1)
        self._life: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begins to connect; returns at once."""
        if self._life is None:
            self._life = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """Closes both connections. What was not acknowledged is delivered again to whoever consumes next."""
        life, self._life = self._life, None
        if life is not None:
            life.cancel()
            results = await asyncio.gather(life, return_exceptions=True)
            if isinstance(results[0], Exception):
                raise results[0]

    def available(self) -> Mapping[str, bool]:
        return {link.name: link.current is not None for link in (self._consuming, self._publishing)}

    async def declare(self, systems: Sequence[str], shards: Mapping[str, int], gated: Sequence[str] = ()) -> None:
        """Raises Misconfigured when something of that name is there already but different, Unavailable when cut off.

        What is asked for here is declared again by itself after every reconnect.
        """
        self._systems = systems, shards, gated
        self._wanted = self._topology()
        await self._restore(await self._consuming.up(CONNECT_TIMEOUT), True)

    @contextlib.asynccontextmanager
    async def lanes(self, shard: int) -> AsyncIterator[RabbitLanes]:
        if shard not in self._owned and self._wanted is not None:
            # A shard without a system has an owner too, and what was left in its queues has a consumer.
            self._owned.add(shard)
            self._wanted = self._topology()
            self._declared_on = None
        lanes = RabbitLanes(
            shard,
            link=self._consuming,
            prefetch=self._prefetch,
            clock=self._clock,
            say=self._say,
            restore=self._restore,
            numbers=self._numbers,
        )
        async with running(lanes.run()):
            yield lanes

    @contextlib.asynccontextmanager
    async def publisher(self) -> AsyncIterator[BatchPublisher]:
        publisher = self._new_publisher()
        try:
            yield publisher
        finally:
            await publisher.close()

    async def told(self, since: datetime | None) -> AsyncGenerator[tuple[str, bytes], None]:
        async with (
            self.publisher() as publisher,
            contextlib.aclosing(told(self._consuming, publisher, since, self._clock)) as found,
        ):
            async for notification in found:
                yield notification

    @contextlib.asynccontextmanager
    async def commands(self) -> AsyncIterator[RabbitCommands]:
        """The port `Commands`, on a channel of its own of the publishing connection."""
        async with self.publisher() as publisher:
            yield RabbitCommands(publisher, self._clock)

    def _new_publisher(self) -> BatchPublisher:
        return BatchPublisher(
            self._publishing, say=self._say, declare_again=self._declare_again, declare_for=self._declare_for
        )

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._consuming.run())
                group.create_task(self._publishing.run())
        except Exception as failure:
            # A fault of ours: nobody would connect again. `available` shows it, this tells it, and `stop` raises it.
            self._say("broker.failed", why=repr(failure))
            raise

    def _topology(self) -> Topology:
        systems, shards, gated = self._systems
        return topology(systems, shards, self._stream_age, self._owned, gated)

    async def _declare_for(self, publishing: AbstractConnection) -> None:
        # After a kill -9 of the broker (3.10.8) a stream gets nothing, and all is confirmed, until it is declared:
        # what is published before is not in the status log.
        if self._declared_for is not publishing:
            await self._declare_again()
            self._declared_for = publishing

    async def _declare_again(self) -> None:
        await self._restore(await self._consuming.up(CONNECT_TIMEOUT), True)

    async def _restore(self, connection: AbstractConnection, again: bool) -> None:
        # On the consuming connection: a memory alarm stops the other one.
        async with self._declaring:
            if self._wanted is None or (self._declared_on is connection and not again):
                return
            try:
                await declare(connection, self._wanted, self._vhost)
            except aiormq.AMQPError as error:
                raise Unavailable("RabbitMQ", str(error)) from error
            self._declared_on = connection
