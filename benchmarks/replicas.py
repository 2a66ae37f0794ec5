"""Two replicas of `serve` with two shards, under a live producer: what a second process adds on this machine."""

import asyncio
import os
import signal
from pathlib import Path

from benchmarks.counting import Tables
from benchmarks.errors import BenchError
from benchmarks.ground import Ground
from benchmarks.serving import Serve, serving
from benchmarks.sizes import Sizes
from benchmarks.stage import Track, prove_told, publish, settle
from benchmarks.waves import Instances
from service.adapters.postgres import migrate

SHARDS = 2
TWO_SHARDS = {"RELIGHT_SHARDS": str(SHARDS)}

OWNERS = "SELECT count(DISTINCT owner) FROM relight.shards WHERE until > clock_timestamp()"
HELD = "SELECT count(*) FROM relight.shards WHERE until > clock_timestamp()"
GIVE_UP_ONE = "UPDATE relight.shards SET until = clock_timestamp() WHERE shard = 1"


async def prepare(ground: Ground, files: Path, sizes: Sizes) -> Track:
    """A place of two shards in which every instance was moved once."""
    place = await ground.place("two")
    await migrate(place.postgres_url)
    track = Track(place, Instances(sizes.systems, sizes.alerts))
    await settle(track, files, TWO_SHARDS)
    return track


async def measure(track: Track, files: Path, sizes: Sizes) -> float:
    """Transitions a second of both together, from a producer that publishes as fast as the broker confirms."""
    place = track.place
    first, second = (Serve(place, files, replica=number, more=TWO_SHARDS) for number in range(SHARDS))
    async with Tables(place.postgres_url) as tables, serving(first):
        await _until(tables, HELD, SHARDS)
        await second.start(ready=False)
        try:
            await _share(tables, first)
            mark, wave = await tables.mark(first, second), track.wave(sizes.live)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(publish(place, [wave]))
                counted = await tables.until_told(wave.source, wave.count, mark, first, second)
            if await tables.value(OWNERS) != SHARDS:
                raise BenchError("one replica came to own both shards while they were measured")
        finally:
            await second.stop()
        await tables.prove(wave.source, wave.count)
    await prove_told(track, wave)
    return counted.rate


async def _share(tables: Tables, first: Serve) -> None:
    """Whoever starts first owns every shard for as long as it lives; here it loses one while it cannot look."""
    for _ in range(60):
        if await tables.value(OWNERS) == SHARDS:
            return
        if await tables.value(HELD) < SHARDS:
            await asyncio.sleep(0.3)
            continue
        os.kill(first.pid, signal.SIGSTOP)
        try:
            await tables.execute(GIVE_UP_ONE)
            await asyncio.sleep(1.5)
        finally:
            os.kill(first.pid, signal.SIGCONT)
    raise BenchError("the second replica did not take a shard")


async def _until(tables: Tables, query: str, wanted: int) -> None:
    for _ in range(300):
        if await tables.value(query) == wanted:
            return
        await asyncio.sleep(0.1)
    raise BenchError(f"the shards found no owners: {query}")
