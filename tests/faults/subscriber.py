"""A subscriber to everything, as another service would be: it logs what it hears, in its order, repetitions included.

It has a durable queue of its own and acknowledges after its log is written. It drops nothing: that is judged later.
"""

import contextlib
import json
from pathlib import Path

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection

from tests.faults.evidence import notification

QUEUE = "test.subscriber"


class Subscriber:
    """Bound to every notification from `listen` on; each is a line of JSON in `log`."""

    def __init__(self, amqp_url: str, log: Path) -> None:
        self._url, self._log = amqp_url, log
        self._connection: AbstractRobustConnection | None = None

    async def listen(self) -> None:
        """Returns when the binding stands. `serve` must have declared the exchange; a lost connection comes back."""
        self._connection = await aio_pika.connect_robust(self._url, timeout=10)
        channel = await self._connection.channel()
        await channel.set_qos(prefetch_count=500)
        # A quorum queue, so that what was confirmed to Relight outlives a broker that was killed.
        queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind("relight.status", "#", timeout=10)
        await queue.consume(self._hear)

    async def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(aio_pika.exceptions.AMQPError):
                await self._connection.close()

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        note = notification(message.routing_key or "", message.body)
        with self._log.open("a") as file:
            file.write(json.dumps(note.__dict__) + "\n")
        with contextlib.suppress(aio_pika.exceptions.AMQPError, aio_pika.exceptions.ChannelInvalidStateError):
            # An acknowledgement that is lost brings the message again, which is what subscribers live with.
            await message.ack()
