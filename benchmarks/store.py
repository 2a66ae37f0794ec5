"""The store alone, and the same batches laid ready for pgbench: a process of its own, on the loop that serve uses.

Both databases stand at the same snapshots, so that one decision serves both.
"""

import asyncio
import json
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from benchmarks.batches import SIZE, batches
from benchmarks.errors import BenchError
from benchmarks.waves import Wave
from machines.model import InstanceId, Snapshot
from machines.registry import MACHINES
from service.adapters.postgres import PostgresStore
from service.adapters.postgres.batch import parameters
from service.adapters.systems import load_systems
from service.engine.definitions import Definitions
from service.ports import Batch, Ownership

LEASE = timedelta(minutes=10)
"""Longer than a measurement: nobody renews it."""

SIGNATURE = """
    SELECT p.proargnames::text[] AS names, ARRAY(
        SELECT format_type(t, NULL) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(t, place) ORDER BY place
    ) AS types
    FROM pg_proc p WHERE p.oid = 'relight.commit'::regproc
"""

STAGED = "public.staged"
"""The table of ready batches: one row a batch, one column a parameter of `relight.commit`."""


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Prepares the wave's batches, lays them ready for pgbench, and commits them by the store, one after another."""
    wave = Wave.from_json(job["wave"])
    definitions = Definitions(MACHINES, load_systems([Path(job["systems"])]))
    store = await PostgresStore.connect(job["store_url"])
    pgbench = await PostgresStore.connect(job["pgbench_url"])
    try:
        ours, theirs = await _lease(store), await _lease(pgbench)
        snapshots = await _snapshots(store, wave)
        ready = list(batches(wave, definitions, snapshots, job["user"], ours.token))
        await _stage(job["pgbench_url"], [replace(batch, token=theirs.token) for batch in ready])
        seconds = await _commit(store, ready)
        await store.release(ours)
    finally:
        await store.close()
        await pgbench.close()
    return {"events": wave.count, "batches": len(ready), "seconds": seconds}


async def _lease(store: PostgresStore) -> Ownership:
    found = await store.acquire(0, "bench", LEASE)
    if found is None:
        raise BenchError("the shard of a copied database has an owner; nobody should be at work there")
    return found


async def _snapshots(store: PostgresStore, wave: Wave) -> dict[InstanceId, Snapshot]:
    names = {f"alert/{system}/{metric}" for system, metric in map(wave.instances.where, range(wave.instances.count))}
    prepared = await store.prepare(0, [], [InstanceId(name) for name in sorted(names)], [])
    return {name: one.snapshot for name, one in prepared.instances.items() if one.snapshot is not None}


async def _commit(store: PostgresStore, ready: list[Batch]) -> float:
    """As the engine does: the rows that the batch before wrote to the outbox are deleted with this one."""
    sent: tuple[int, ...] = ()
    began = time.perf_counter()
    for batch in ready:
        sent = await store.commit(replace(batch, sent=sent))
    return time.perf_counter() - began


async def _stage(url: str, ready: list[Batch]) -> None:
    connection = await asyncpg.connect(url, timeout=10, command_timeout=120)
    try:
        found = await connection.fetchrow(SIGNATURE)
        columns = ", ".join(f"{n} {t}" for n, t in zip(found["names"], found["types"], strict=True))
        await connection.execute(f"DROP TABLE IF EXISTS {STAGED}")
        await connection.execute(f"CREATE TABLE {STAGED} (number int PRIMARY KEY, {columns})")
        marks = ", ".join(f"${number}" for number in range(1, len(found["names"]) + 2))
        rows = [(number, *parameters(batch)) for number, batch in enumerate(ready)]
        await connection.executemany(f"INSERT INTO {STAGED} VALUES ({marks})", rows)
        await connection.execute(f"ANALYZE {STAGED}")
    finally:
        await connection.close(timeout=10)


def main() -> None:
    """One job."""
    job = json.load(sys.stdin)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump({**runner.run(run(job)), "size": SIZE}, sys.stdout)


if __name__ == "__main__":
    main()
