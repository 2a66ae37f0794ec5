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
STATUS_LOG = "relight.status.log"
SILENCE = 30.0
"""Seconds without a message after which reading the status log is given up."""


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


async def status_log(amqp_url: str) -> list[Notification]:
    """Everything that the stream holds, in its order. Raises TimeoutError when it falls silent before its end.

    A stream does not say where its end is: so a mark is put there, as Relight does it, which its readers pass over.
    """
    connection = await aio_pika.connect(amqp_url, timeout=10)
    try:
        channel = await connection.channel(publisher_confirms=True)
        end = f"mark:{uuid.uuid4()}"
        mark = {"specversion": "1.0", "id": end, "type": "relight.mark", "source": SOURCE, "data": {}}
        await channel.default_exchange.publish(aio_pika.Message(json.dumps(mark).encode()), STATUS_LOG, timeout=10)
        await channel.set_qos(prefetch_count=500)
        stream = await channel.get_queue(STATUS_LOG)
        arriving: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await stream.consume(arriving.put, arguments={"x-stream-offset": "first"})
        found: list[Notification] = []
        while True:
            async with asyncio.timeout(SILENCE):
                message = await arriving.get()
            note = notification(message.routing_key or "", message.body)
            if note.id == end:
                return found
            found.append(note)
            await message.ack()
    finally:
        with contextlib.suppress(aio_pika.exceptions.AMQPError):
            await connection.close()
