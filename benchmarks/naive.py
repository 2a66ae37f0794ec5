"""The naive way, as a careful engineer writes it first: one event, one transaction, one publish, one ack.

asyncpg and aio-pika, the machine's own decision, and the very rows that Relight writes: inbox, log with its hash chain,
snapshot, observation, outbox. It answers each event alone, serially or with several at once. What it does not have is
everything between: no lease, no batch, no draining of the outbox by whoever comes after a crash.
"""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import uvloop
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from machines.model import InstanceId, Snapshot
from machines.registry import MACHINES
from schemas.events import Lane
from service.adapters.systems import load_systems
from service.engine.definitions import Definitions
from service.engine.reading import addresses, from_delivery
from service.engine.settle import settle
from service.engine.work import Work
from service.ports import Batch, Delivery, Loaded, OutMessage, Prepared, Token

QUEUE = "relight.intake.metrics.0"

HAS_OUTCOME = "SELECT 1 FROM relight.inbox WHERE source = $1 AND id = $2"
SNAPSHOT = "SELECT * FROM relight.instances WHERE instance = $1 FOR UPDATE"
INBOX = "INSERT INTO relight.inbox (source, id, body_hash, outcomes, received_at) VALUES ($1, $2, $3, $4, $5)"
LOG = """
    INSERT INTO relight.log (instance, epoch, seq, kind, at, state_from, state_to, source, event_id, event_type, "user",
        causation, correlation, machine_version, config_hash, record, previous, hash)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
"""
UPDATE = """
    UPDATE relight.instances SET machine_version = $2, config_hash = $3, epoch = $4, seq = $5, state = $6, entry = $7,
        entered_at = $8, dwell_until = $9, deadline_at = $10, data = $11, hash = $12
    WHERE instance = $1
"""
OBSERVATION = """
    INSERT INTO relight.observations AS o (instance, minute, count, total) VALUES ($1, $2, $3, $4)
    ON CONFLICT (instance, minute) DO UPDATE SET count = o.count + excluded.count, total = o.total + excluded.total
"""
SENT = "DELETE FROM relight.outbox WHERE shard = 0 AND id = $1"
OUTBOX = """
    INSERT INTO relight.outbox (shard, exchange, routing_key, message_id, body) VALUES (0, $1, $2, $3, $4) RETURNING id
"""


class Naive:
    """Answers `events` events, `width` at once, and is done."""

    def __init__(self, definitions: Definitions, pool: Any, exchange: AbstractExchange) -> None:
        self._definitions, self._pool, self._exchange = definitions, pool, exchange
        self._sent: list[int] = []

    async def answer(self, message: AbstractIncomingMessage) -> None:
        """One event from its queue to its ack."""
        now = datetime.now(UTC)
        delivery = Delivery(
            Lane.METRICS,
            0,
            0,
            QUEUE,
            message.routing_key or "",
            message.body,
            message.user_id,
            bool(message.redelivered),
        )
        arrived = from_delivery(delivery, self._definitions, now)
        if arrived.event is None:
            raise ValueError(f"not an event: {arrived.rejected}")
        addressed = addresses(arrived.event, self._definitions)
        (instance,) = addressed
        batch = None
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval(HAS_OUTCOME, arrived.key.source, arrived.key.id):
                loaded = Loaded(_snapshot(await connection.fetchrow(SNAPSHOT, instance)))
                work = Work(Prepared({}, {instance: loaded}), self._definitions, epoch=1, now=now)
                settle(work, arrived, addressed, {}, {})
                batch = work.batch(0, Token(0), ())
                # The row of the event before: its notification is confirmed by now.
                row = await self._write(connection, batch, self._sent.pop() if self._sent else 0)
        if batch is not None:
            await self._tell(batch.outbox[0])
            self._sent.append(row)
        await message.ack()

    async def _write(self, connection: Any, batch: Batch, sent: int) -> int:
        (known,), (row,), (write,), (out,), (seen,) = (
            batch.inbox, batch.log, batch.snapshots, batch.outbox, batch.observations
        )  # fmt: skip
        outcomes = json.dumps(dict(known.outcomes))
        await connection.execute(INBOX, known.key.source, known.key.id, known.body_hash, outcomes, batch.at)
        await connection.execute(
            LOG, row.instance, row.epoch, row.seq, row.kind, row.at, row.state_from, row.state_to, row.event.source,
            row.event.id, row.event_type, row.user, row.causation, row.correlation, row.machine_version,
            row.config_hash, row.record, row.previous, row.hash,
        )  # fmt: skip
        new = write.snapshot
        await connection.execute(
            UPDATE, new.instance, new.machine_version, new.config_hash, new.epoch, new.seq, new.state, new.entry,
            new.entered_at, new.dwell_until, new.deadline_at, json.dumps(dict(new.data)), new.hash,
        )  # fmt: skip
        await connection.execute(OBSERVATION, seen.instance, seen.minute, seen.count, seen.total)
        await connection.execute(SENT, sent)
        return int(await connection.fetchval(OUTBOX, out.exchange, out.routing_key, out.message_id, out.body))

    async def _tell(self, out: OutMessage) -> None:
        notification = aio_pika.Message(
            out.body.encode(),
            content_type="application/cloudevents+json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=out.message_id,
            app_id="relight",
        )
        await self._exchange.publish(notification, out.routing_key, mandatory=False)

    async def finish(self) -> None:
        """The rows of the last events, too."""
        async with self._pool.acquire() as connection:
            await connection.executemany(SENT, [(row,) for row in self._sent])


def _snapshot(row: Any) -> Snapshot | None:
    if row is None:
        return None
    return Snapshot(
        instance=InstanceId(row["instance"]), system=row["system"], machine=row["machine"],
        machine_version=row["machine_version"], config_hash=row["config_hash"], epoch=row["epoch"], seq=row["seq"],
        state=row["state"], entry=row["entry"], entered_at=row["entered_at"], dwell_until=row["dwell_until"],
        deadline_at=row["deadline_at"], data=json.loads(row["data"]), hash=row["hash"],
    )  # fmt: skip


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Answers what the job says; `seconds` from the first event taken to the last ack."""
    systems = load_systems([Path(job["systems"])])
    definitions, width, events = Definitions(MACHINES, systems), int(job["width"]), int(job["events"])
    pool = await asyncpg.create_pool(job["postgres_url"], min_size=width, max_size=width, command_timeout=30)
    connection = await aio_pika.connect(job["amqp_url"], timeout=10)
    async with pool, connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange("relight.status", ensure=False)
        # One more than is at work: the next event is here already, and no answer waits for the broker.
        await channel.set_qos(prefetch_count=max(16, 2 * width))
        queue = await channel.get_queue(QUEUE, ensure=False)
        naive, waiting = Naive(definitions, pool, exchange), asyncio.Queue[AbstractIncomingMessage]()
        await queue.consume(waiting.put)
        left, began = events, 0.0

        async def work() -> None:
            nonlocal left, began
            while left > 0:
                left -= 1
                message = await waiting.get()
                began = began or time.perf_counter()
                await naive.answer(message)

        async with asyncio.timeout(float(job["within"])), asyncio.TaskGroup() as workers:
            for _ in range(width):
                workers.create_task(work())
        seconds = time.perf_counter() - began
        await naive.finish()
    return {"events": events, "seconds": seconds}


def main() -> None:
    """One job, on the loop that serve uses."""
    job = json.load(sys.stdin)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(run(job)), sys.stdout)


if __name__ == "__main__":
    main()
