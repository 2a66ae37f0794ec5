"""The same throughput with few instances and with very many, each with a log behind it, a checkpoint included.

The tables are filled by SQL, not by the engine: rows of the real widths under the real keys, whose log texts are copies
and whose chains nobody could verify. What is measured is what the service adds to them.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from benchmarks.counting import Tables
from benchmarks.ground import Ground
from benchmarks.serving import Serve, serving
from benchmarks.sizes import Sizes
from benchmarks.stage import Track, at_rest, prove_told, publish
from benchmarks.systems import write
from benchmarks.waves import Instances
from service.adapters.postgres import migrate
from service.embedded.rabbitmq import USER

SYSTEMS = 100
"""Fewer when there are fewer instances than ten a system."""

AT_ONCE = 1_000_000
"""Log rows that one statement fills in."""

RECORD_BYTES = 780
"""What the record of a measurement's transition has, without blanks."""

WIDE = ("-m", "benchmarks.wide")

FILL_INSTANCES = """
    INSERT INTO relight.instances (instance, system, machine, machine_version, config_hash, epoch, seq, state, entry,
        entered_at, data, hash, token)
    SELECT 'alert/s' || s || '/m' || m, 's' || s, 'alert', 1, c.hash, 1, {rows}, 'normal', {rows}, now(),
        '{{"metric":"m' || m || '","value":20.0,"level":"normal","since":"2026-01-01T00:00:00+00:00",'
        || '"measured_at":"2026-01-01T00:00:00+00:00"}}', repeat(md5(s::text || m::text), 2), 1
    FROM generate_series(0, {systems} - 1) s CROSS JOIN generate_series(0, {alerts} - 1) m
    JOIN relight.configurations c ON c.system = 's' || s
"""

FILL_LOG = """
    INSERT INTO relight.log (instance, epoch, seq, kind, at, state_from, state_to, source, event_id, event_type, "user",
        machine_version, config_hash, record, previous, hash)
    SELECT i.instance, 1, {seq}, 'transition', now(), 'warning', 'normal', 'bench/filled',
        md5(i.instance || '{seq}'), 'relight.metric.observed', 'relight', 1, i.config_hash,
        rpad(md5(i.instance), {bytes}, md5(i.instance || '{seq}')), i.hash, i.hash
    FROM relight.instances i WHERE i.machine = 'alert' AND i.system = ANY ($1)
"""


async def prepare(
    ground: Ground, name: str, count: int, log_rows: int, say: Callable[[str], None]
) -> tuple[Track, Path]:
    """A place with `count` instances and about `log_rows` rows in its log, all of them normal."""
    place = await ground.place(name)
    systems = min(SYSTEMS, max(1, count // 10))
    instances = Instances(systems, count // systems, scattered=True)
    files = await asyncio.to_thread(write, place.folder, Instances(systems, 1), USER)
    await migrate(place.postgres_url)
    rows = max(1, log_rows // instances.count)
    track = Track(place, instances, filled=rows * instances.count)
    serve = Serve(place, files)
    async with Tables(place.postgres_url) as tables:
        async with serving(serve, before=WIDE):
            await at_rest(track, tables, serve)
        await tables.execute(FILL_INSTANCES.format(rows=rows, systems=systems, alerts=instances.alerts))
        every = [f"s{number}" for number in range(systems)]
        part = max(1, AT_ONCE // instances.alerts)
        for seq in range(1, rows + 1):
            for first in range(0, systems, part):
                statement = FILL_LOG.format(seq=seq, bytes=RECORD_BYTES)
                await tables.value(statement, every[first : first + part])
            say(f"filling {name}: {seq * instances.count:,} of {rows * instances.count:,} log rows")
        await tables.execute("VACUUM (ANALYZE)")
    return track, files


async def measure(track: Track, files: Path, sizes: Sizes) -> float:
    """Transitions a second from a full queue; PostgreSQL writes a checkpoint before and another in the middle."""
    place = track.place
    wave = track.wave(sizes.growth_events)
    await publish(place, [wave])
    serve = Serve(place, files)
    async with Tables(place.postgres_url) as tables, Tables(place.postgres_url) as other:
        await tables.execute("CHECKPOINT")
        mark = await tables.mark(serve)
        async with serving(serve, before=WIDE), asyncio.TaskGroup() as tasks:
            midway = tasks.create_task(_checkpoint_midway(other, mark.written + wave.count // 2))
            counted = await tables.until_told(wave.source, wave.count, mark, serve)
            midway.cancel()
        await tables.prove(wave.source, wave.count, log=False)
        await tables.prove_moved(track.filled + wave.after)
    await prove_told(track, wave)
    return counted.rate


async def _checkpoint_midway(tables: Tables, written: int) -> None:
    while await tables.written() < written:
        await asyncio.sleep(0.02)
    await tables.execute("CHECKPOINT")
