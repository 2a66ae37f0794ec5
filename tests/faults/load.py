"""Publishers with confirms that log what they know of each event, and the reader of the whole status log. AMQP only."""

import asyncio
import contextlib
import itertools
import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection

from tests.faults.evidence import Notification, Verdict, notification

SOURCE = "test/load"
PATIENCE = 30.0
"""Seconds for a confirm; the broker is up, so one that takes longer is unknown for good."""
FEW = 0.15
"""Seconds between measurements of which only a few are sent."""
QUIET = 1.5
"""Seconds without a message after which the status log has been read to its end."""


class Load:
    """Publishes into `relight.events`, each event once, and logs its verdict to `log` as one JSON object a line."""

    def __init__(self, amqp_url: str, system: str, log: Path) -> None:
        self._url, self._system, self._log = amqp_url, system, log
        self._user = urlsplit(amqp_url).username
        self.trouble: str | None = None
        self.confirmed = 0
        self.held = False
        """Whether only a few measurements a second are sent for now."""
        self._connection: AbstractRobustConnection | None = None
        self._exchange: Any = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        """Raises whatever the client raises when the broker is away."""
        self._connection = await aio_pika.connect_robust(self._url, timeout=10)
        channel = await self._connection.channel(publisher_confirms=True)
        self._exchange = await channel.get_exchange("relight.events", ensure=False)

    async def close(self) -> None:
        await self.stop()
        if self._connection is not None:
            await self._connection.close()

    def begin(self, *, metrics: int, pause: float, restart_every: float, slow: Sequence[str] = ()) -> None:
        """Publishes without end: measurements that cross the thresholds up and down, and wishes for a restart.

        Those of `slow` cross them every two seconds, in turn: long enough for an alert that waits for a duration.
        """
        self._running = [
            asyncio.create_task(self._measure(metrics, pause)),
            asyncio.create_task(self._wish(restart_every)),
            asyncio.create_task(self._measure_slowly(slow)),
        ]

    async def stop(self) -> None:
        """Ends it, and waits until everything that was sent has a verdict."""
        running, self._running = self._running, []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE + 5)

    async def restart(self, reason: str) -> str:
        """One wish for a restart; the id of its event."""
        return await self.publish("restart.requested", {"reason": reason}, f"lifecycle/{self._system}")

    async def publish(self, name: str, data: dict[str, Any], instance: str) -> str:
        """One event; returns its id once its verdict is logged."""
        key = f"{uuid.uuid4()}"
        verdict = Verdict.UNKNOWN
        event = {
            "specversion": "1.0", "id": key, "source": SOURCE, "type": f"relight.{name}", "subject": self._system,
            "data": data,
        }  # fmt: skip
        message = aio_pika.Message(
            json.dumps(event).encode(),
            content_type="application/cloudevents+json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=key,
            user_id=self._user,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                await self._exchange.publish(message, f"{self._system}.{name}", mandatory=True)
            verdict = Verdict.CONFIRMED
            self.confirmed += 1
        except aio_pika.exceptions.DeliveryError:
            verdict = Verdict.FAILED
        except Exception as error:  # noqa: BLE001  # whatever the client says of a broken connection: nobody can tell
            self.trouble = repr(error)
        finally:
            with self._log.open("a") as file:
                line = {
                    "source": SOURCE, "id": key, "verdict": str(verdict), "instance": instance, "at": time.time()
                }  # fmt: skip
                file.write(json.dumps(line) + "\n")
        return key

    async def raw(self, body: bytes, routing_key: str, *, user: bool = True) -> None:
        """Anything at all, confirmed; not logged, since it may be no event."""
        message = aio_pika.Message(
            body,
            content_type="application/cloudevents+json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            user_id=self._user if user else None,
        )
        async with asyncio.timeout(PATIENCE):
            await self._exchange.publish(message, routing_key, mandatory=True)

    async def _measure(self, metrics: int, pause: float) -> None:
        for number in itertools.count():
            metric, round_ = number % metrics, number // metrics
            value = (95.0, 10.0, 80.0, 20.0)[round_ % 4]
            self._send("metric.observed", {"metric": f"m{metric}", "value": value}, f"alert/{self._system}/m{metric}")
            await asyncio.sleep(pause if not self.held else max(pause, FEW))

    async def _measure_slowly(self, metrics: Sequence[str]) -> None:
        for number in itertools.count() if metrics else ():
            metric, value = metrics[number % len(metrics)], (95.0, 10.0)[number // len(metrics) % 2]
            self._send("metric.observed", {"metric": metric, "value": value}, f"alert/{self._system}/{metric}")
            await asyncio.sleep(2.0 / len(metrics))

    async def _wish(self, every: float) -> None:
        for number in itertools.count():
            self._send("restart.requested", {"reason": f"wish {number}"}, f"lifecycle/{self._system}")
            await asyncio.sleep(every)

    def _send(self, name: str, data: dict[str, Any], instance: str) -> None:
        task = asyncio.create_task(self._quietly(name, data, instance))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quietly(self, name: str, data: dict[str, Any], instance: str) -> None:
        await self.publish(name, data, instance)


async def status_log(amqp_url: str, quiet: float = QUIET) -> list[Notification]:
    """Everything that the stream holds, in its order, until `quiet` seconds bring no more."""
    found: list[Notification] = []
    last = asyncio.get_running_loop().time()

    async def take(message: AbstractIncomingMessage) -> None:
        nonlocal last
        found.append(notification(message.routing_key or "", message.body))
        last = asyncio.get_running_loop().time()
        await message.ack()

    connection = await aio_pika.connect(amqp_url, timeout=10)
    try:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=500)
        queue = await channel.get_queue("relight.status.log")
        await queue.consume(take, arguments={"x-stream-offset": "first"})
        while asyncio.get_running_loop().time() - last < quiet:
            await asyncio.sleep(0.05)
    finally:
        with contextlib.suppress(aio_pika.exceptions.AMQPError):
            await connection.close()
    return found
