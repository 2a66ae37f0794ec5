"""Durable transitions a second of the real `serve`, from a full queue and with a live producer; absorbed apart."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from benchmarks.counting import Tables
from benchmarks.ground import Ground
from benchmarks.serving import Serve, serving
from benchmarks.sizes import Sizes
from benchmarks.stage import Track, prove_told, publish, publish_paced
from benchmarks.usage import Cpu, cpu, resident

FASTER = 1.1
"""A live producer publishes so much faster than the full queue was taken in: it is never what limits."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """One repetition: rates a second; `cpu` seconds of the full queue; `resident_mb` of serve after all of it."""

    full_queue: float
    live: float
    absorbed: float
    cpu: Cpu
    events: int
    resident_mb: float


async def measure(ground: Ground, track: Track, files: Path, sizes: Sizes) -> Throughput:
    """Fills the queue while serve is stopped, starts serve, and proves afterwards that everything is there.

    Raises BenchError when it is not.
    """
    place = track.place
    async with Tables(place.postgres_url) as tables:
        full = track.wave(sizes.transitions)
        await publish(place, [full])
        serve = Serve(place, files)
        mark = await tables.mark(serve)
        async with serving(serve):
            before = _used(ground, serve)
            from_queue = await tables.until_told(full.source, full.count, mark, serve)
            used = _used(ground, serve).since(before)
            still = track.wave(sizes.absorbed, still=True)
            await publish_paced(track, still, from_queue.rate * 3)
            absorbed = await tables.until_absorbed(still.source, still.count, serve)
            mark = await tables.mark(serve)
            live = track.wave(sizes.live)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(publish_paced(track, live, from_queue.rate * FASTER))
                with_producer = await tables.until_told(live.source, live.count, mark, serve)
            memory = resident(serve.pid)
        for wave, outcome in ((full, "applied"), (live, "applied"), (still, "absorbed")):
            await tables.prove(wave.source, wave.count, outcome)
        await prove_told(track, full, live)
    return Throughput(from_queue.rate, with_producer.rate, absorbed.rate, used, full.count, memory)


def _used(ground: Ground, serve: Serve) -> Cpu:
    return cpu([serve.pid], ground.postgres.pids, ground.rabbit.pids)
