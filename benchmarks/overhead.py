"""The engine's own part of a restart: the real lifecycle, service and servers, and its steps, which do nothing.

From the log row in which the restart begins to the one in which the system is operational again: the transitions, the
steps claimed, performed, recorded and reported back, one after another as the table has them.
"""

import asyncio
import json
from dataclasses import dataclass

from benchmarks import empty
from benchmarks.counting import Tables
from benchmarks.errors import BenchError
from benchmarks.ground import Ground
from benchmarks.serving import Serve, serving
from service.adapters.postgres import migrate
from service.adapters.rabbitmq import publish_event
from service.embedded.rabbitmq import USER

INSTANCE = f"lifecycle/{empty.SYSTEM}"

WITHIN = 60.0
"""Seconds for one restart."""

TOOK = """
    SELECT extract(epoch FROM max(at) - min(at))::float8 FROM relight.log WHERE instance = $1 AND seq > $2
"""
STEPS = "SELECT count(*) FROM relight.steps WHERE instance = $1 AND entry > $2 AND status = 'done'"


@dataclass(frozen=True, slots=True)
class Overhead:
    """`seconds` of each restart; `steps` of one."""

    seconds: tuple[float, ...]
    steps: int


async def measure(ground: Ground, restarts: int) -> Overhead:
    """Restarts one after another, the first not counted. Raises BenchError when one does not end operational."""
    place = await ground.place("empty")
    await migrate(place.postgres_url)
    file = place.folder / "system.yaml"
    file.write_text(json.dumps(empty.describe(USER, place.folder)))
    serve, took, steps = Serve(place, file), [], 0
    async with Tables(place.postgres_url) as tables, serving(serve, before=("-m", "benchmarks.empty")):
        await _operational(tables, serve, 0)
        for number in range(restarts + 1):
            seq = await tables.value("SELECT seq FROM relight.instances WHERE instance = $1", INSTANCE)
            entry = await tables.value("SELECT entry FROM relight.instances WHERE instance = $1", INSTANCE)
            event = {
                "specversion": "1.0", "id": f"restart-{number}", "source": "bench/overhead",
                "type": "relight.restart.requested", "subject": empty.SYSTEM, "data": {"reason": "empty"},
            }  # fmt: skip
            key = f"{empty.SYSTEM}.restart.requested"
            await publish_event(place.amqp_url, key, json.dumps(event).encode(), str(event["id"]))
            await _operational(tables, serve, seq)
            steps = int(await tables.value(STEPS, INSTANCE, entry))
            took.append(float(await tables.value(TOOK, INSTANCE, seq)))
    await ground.drop(place)
    return Overhead(tuple(took[1:]), steps)


async def _operational(tables: Tables, serve: Serve, seq: int) -> None:
    for _ in range(int(WITHIN / 0.02)):
        query = "SELECT state FROM relight.instances WHERE instance = $1 AND seq > $2"
        state = await tables.value(query, INSTANCE, seq)
        if state == "operational":
            return
        if state in ("halted", "degraded"):
            raise BenchError(f"the empty restart ended {state}: its evidence does not satisfy the lifecycle any more")
        serve.alive()
        await asyncio.sleep(0.02)
    raise BenchError(f"a restart with empty steps did not end within {WITHIN:.0f} s; it is {state}")
