"""Declares what `names.py` lists, and turns a clash with what is already there into words for people."""

import contextlib
import re
from collections.abc import Awaitable, Callable
from functools import partial

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection

from service.adapters.rabbitmq.connection import CLOSE_TIMEOUT, ask
from service.adapters.rabbitmq.names import Binding, Exchange, Queue, Topology
from service.errors import Misconfigured, Unavailable

# `PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'quorum' but current is …`
_NOT_YET = ("down or inaccessible", "is starting", "coordinator", "timeout")
"""What a broker says of a queue or stream that exists without a leader, as after a kill: it comes back by itself."""

_DIFFERS = re.compile(r"inequivalent arg '(?P<what>[^']+)'.*?received (?P<ours>.*?) but current is (?P<theirs>.*)$")

Declaring = Callable[[AbstractChannel], Awaitable[None]]


async def declare(connection: AbstractConnection, wanted: Topology, vhost: str) -> None:
    """Declares everything; what is there already stays. Raises Misconfigured with every clash, and Unavailable."""
    declaring = _Declarations(connection, vhost)
    try:
        for exchange in wanted.exchanges:
            await declaring.perform("exchange", exchange.name, partial(_exchange, exchange))
        for queue in wanted.queues:
            await declaring.perform("queue", queue.name, partial(_queue, queue))
        declaring.stop_on_problems()
        for binding in wanted.bindings:
            await declaring.perform("queue", binding.queue, partial(_bind, binding))
        for binding in wanted.foreign:
            # A system that moved to another shard must not be heard in both.
            await declaring.perform("queue", binding.queue, partial(_unbind, binding))
        declaring.stop_on_problems()
    finally:
        await declaring.end()


async def _exchange(it: Exchange, channel: AbstractChannel) -> None:
    await channel.exchange_declare(it.name, exchange_type=it.kind, durable=True, arguments=dict(it.arguments))


async def _queue(it: Queue, channel: AbstractChannel) -> None:
    await channel.queue_declare(it.name, durable=True, arguments=dict(it.arguments))


async def _bind(it: Binding, channel: AbstractChannel) -> None:
    await channel.queue_bind(it.queue, it.exchange, it.routing_key)


async def _unbind(it: Binding, channel: AbstractChannel) -> None:
    await channel.queue_unbind(it.queue, it.exchange, it.routing_key)


class _Declarations:
    """A channel for declaring; a refusal closes it, and the next declaration opens another."""

    def __init__(self, connection: AbstractConnection, vhost: str) -> None:
        self._connection = connection
        self._vhost = vhost
        self._channel: AbstractChannel | None = None
        self._problems: list[str] = []

    async def perform(self, kind: str, name: str, declaring: Declaring) -> None:
        """One declaration; a refusal is kept as a problem."""
        if self._channel is None or self._channel.is_closed:
            self._channel = await ask(self._connection.channel(publisher_confirms=False))
        try:
            await ask(declaring(self._channel))
        except aiormq.AMQPChannelError as refusal:
            self._channel = None
            if any(words in str(refusal) for words in _NOT_YET):
                raise Unavailable("RabbitMQ", f"the {kind} {name!r} is not up yet: {refusal}") from refusal
            self._problems.append(self._explain(kind, name, refusal))

    def stop_on_problems(self) -> None:
        """Raises Misconfigured with all that was refused so far."""
        if self._problems:
            raise Misconfigured(tuple(dict.fromkeys(self._problems)))

    async def end(self) -> None:
        """Closes the channel."""
        if self._channel is not None and not self._channel.is_closed:
            with contextlib.suppress(Unavailable, aiormq.AMQPError):
                await ask(self._channel.close(), CLOSE_TIMEOUT)

    def _explain(self, kind: str, name: str, refusal: aiormq.AMQPChannelError) -> str:
        said = str(refusal)
        where = f"the {kind} {name!r} in vhost {self._vhost!r}"
        if isinstance(refusal, aiormq.ChannelAccessRefused):
            return (
                f"RabbitMQ does not let Relight's user declare {where} ({said}). Nothing was changed. "
                "Give the user the rights configure, write and read on 'relight\\..*' in this vhost."
            )
        if (differs := _DIFFERS.search(said)) is not None:
            theirs, ours = differs["theirs"].strip("'"), differs["ours"].removeprefix("the value ").strip("'")
            command = f"delete_queue {name}" if kind == "queue" else "(an exchange is deleted in the management page)"
            return (
                f"{where} exists with {differs['what']} = {theirs}; Relight needs {ours}. It was left as it is. "
                f"If nobody else uses it, empty and delete it (rabbitmqctl -p {self._vhost} {command}); "
                "else give Relight a vhost of its own in RELIGHT_AMQP_URL."
            )
        return f"RabbitMQ refused to declare {where}: {said}. It was left as it is."
