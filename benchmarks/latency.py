"""From the publish to the notification, at a pace; and the points of the plot, one load after another."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.alone import WITHIN, job
from benchmarks.amqp import Broker
from benchmarks.child import ask, begin, end, finish
from benchmarks.counting import Tables
from benchmarks.errors import BenchError
from benchmarks.figures import percentile
from benchmarks.naive import QUEUE
from benchmarks.serving import Serve, serving
from benchmarks.stage import LOADING, Track

IDLE_RATE = 20.0
"""Events a second: hardly anything to do, so that each stands alone."""

SETTLE = 2.0
"""Seconds of events before those that are timed."""

CONSUMING_WITHIN = 30.0
"""Seconds until the naive way must consume."""


@dataclass(frozen=True, slots=True)
class Latency:
    """One load: `offered` and `reached` events a second; latencies in milliseconds."""

    offered: float
    reached: float
    latencies: tuple[float, ...]

    @property
    def p50(self) -> float:
        return percentile(self.latencies, 0.50)

    @property
    def p99(self) -> float:
        return percentile(self.latencies, 0.99)


async def at(track: Track, rate: float, seconds: float) -> Latency:
    """Publishes at this rate to whoever consumes, and takes the times. Raises BenchError for a missing notification."""
    wave = track.wave(max(1, int(rate * (SETTLE + seconds))))
    given = {
        "amqp_url": track.place.amqp_url, "waves": [wave.as_json()], "rate": rate, "settle": SETTLE, "listen": True
    }  # fmt: skip
    found = await ask("load", given, LOADING)
    if found["missing"]:
        raise BenchError(f"{found['missing']} of {wave.count} events at {rate:.0f}/s had no notification in time")
    return Latency(rate, wave.count / found["told_in"], tuple(1000 * one for one in found["latencies"]))


@contextlib.asynccontextmanager
async def served(track: Track, files: Path) -> AsyncIterator[None]:
    """The block has a `serve` that answers: a new owner first compares its database with what was published lately.

    What it leaves unsent the next one would publish again, and be measured with: it ends when nothing is.
    """
    async with serving(Serve(track.place, files)), Tables(track.place.postgres_url) as tables:
        await at(track, IDLE_RATE, 0.0)
        yield
        await tables.until_nothing_is_unsent()


async def of_naive(track: Track, files: Path, rate: float, seconds: float) -> Latency:
    """The same with the naive way, one event at a time, which ends with the last event."""
    child = await begin("naive")
    events = max(1, int(rate * (SETTLE + seconds)))
    answering = asyncio.create_task(finish("naive", child, dict(job(track, files, events, 1)), WITHIN))
    try:
        for _ in range(int(CONSUMING_WITHIN / 0.1)):
            if answering.done() or await asyncio.to_thread(_consumed, track.place.amqp_url):
                break
            await asyncio.sleep(0.1)
        found = await at(track, rate, seconds)
        await answering
    finally:
        await end(child)
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
    return found


def _consumed(amqp_url: str) -> bool:
    broker = Broker(amqp_url)
    try:
        return broker.consumers(QUEUE) > 0
    finally:
        broker.close()
