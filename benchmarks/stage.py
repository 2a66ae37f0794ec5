"""The stage of the measurements: systems' files, a warm database in which every instance exists, and copies of it."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.amqp import Broker
from benchmarks.child import ask
from benchmarks.counting import Tables
from benchmarks.errors import BenchError
from benchmarks.ground import Ground, Place
from benchmarks.load import EVENTS
from benchmarks.serving import Serve, serving
from benchmarks.sizes import Sizes
from benchmarks.systems import ending_act, write
from benchmarks.waves import Instances, Wave
from service.adapters.postgres import migrate
from service.adapters.rabbitmq import RabbitBroker
from service.adapters.systems import load_systems
from service.clock import SystemClock
from service.embedded.rabbitmq import USER

LOADING = 300.0
"""Seconds that a load generator may take beyond its pace."""

SETTLING = 120.0
"""Seconds until all systems are registered and at rest."""


@dataclass
class Track:
    """One place and the instances in it: which event comes next, and under which source."""

    place: Place
    instances: Instances
    next: int = 0
    told: int = 0
    """How far the status log of the place was read: everything before was looked at."""
    filled: int = 0
    """Log rows that the instances had before the first event."""
    _waves: int = field(default=0)

    def wave(self, count: int, *, still: bool = False) -> Wave:
        """The next `count` events. They are owed from now on: whoever takes a wave publishes all of it."""
        self._waves += 1
        wave = Wave(self.instances, f"bench/{self.place.name}/{self._waves}", self.next, count, still)
        self.next = wave.after
        return wave

    def copied(self, place: Place) -> "Track":
        """The same instances in a copy of the database."""
        return replace(self, place=place, told=0)


async def publish(place: Place, waves: Sequence[Wave]) -> None:
    """Fills the queues, confirmed, by a process of its own that has ended when this returns."""
    job = {"amqp_url": place.amqp_url, "waves": [wave.as_json() for wave in waves], "rate": None}
    await ask("load", job, LOADING)


async def warm(ground: Ground, sizes: Sizes) -> tuple[Track, Path]:
    """A place in which every instance was moved once by the real `serve`, and the systems' files."""
    place = await ground.place("warm")
    instances = Instances(sizes.systems, sizes.alerts)
    files = await asyncio.to_thread(write, ground.folder, instances, USER)
    await migrate(place.postgres_url)
    track = Track(place, instances)
    await settle(track, files)
    return track, files


async def settle(track: Track, files: Path, more: Mapping[str, str] | None = None) -> None:
    """All systems registered and at rest, all instances begun; serve is stopped afterwards."""
    place, instances = track.place, track.instances
    serve = Serve(place, files, more=more)
    async with Tables(place.postgres_url) as tables, serving(serve):
        await at_rest(track, tables, serve)
        mark, wave = await tables.mark(serve), track.wave(instances.count)
        await publish(place, [wave])
        await tables.until_told(wave.source, wave.count, mark, serve)
        await tables.prove(wave.source, wave.count)
        await prove_told(track, wave)
    async with Tables(place.postgres_url) as tables:
        await tables.execute("VACUUM (ANALYZE)")


async def at_rest(track: Track, tables: Tables, serve: Serve) -> None:
    """Waits until all systems are registered, ends the first look at each, and lets what that led to be told."""
    systems = track.instances.systems
    await _until(tables, serve, "state = 'unobserved' AND entry > 0", systems)
    await asyncio.to_thread(_end_first_looks, track.place.amqp_url, systems)
    await _until(tables, serve, "state = 'degraded'", systems)
    await tables.until_nothing_is_unsent()


async def _until(tables: Tables, serve: Serve, condition: str, systems: int) -> None:
    query = f"SELECT count(*) FROM relight.instances WHERE machine = 'lifecycle' AND {condition}"
    for _ in range(int(SETTLING / 0.1)):
        if await tables.value(query) >= systems:
            return
        serve.alive()
        await asyncio.sleep(0.1)
    raise BenchError(f"not all {systems} systems came to {condition}; serve says:\n{serve.last_words()}")


def _end_first_looks(amqp_url: str, systems: int) -> None:
    broker = Broker(amqp_url)
    try:
        acts = (ending_act(f"s{number}") for number in range(systems))
        broker.publish_all(
            broker.pack(EVENTS, f"{act['subject']}.operator.acted", act["id"], json.dumps(act).encode()) for act in acts
        )
    finally:
        broker.close()


async def copy(ground: Ground, warm: Track, name: str, files: Path | None = None) -> Track:
    """A place that begins as `warm` now stands (nobody may be at work there); with `files` its queues are declared."""
    place = await ground.place(name, like=warm.place.name)
    if files is not None:
        systems = list(await asyncio.to_thread(load_systems, [files]))
        async with RabbitBroker(place.amqp_url, clock=SystemClock()) as broker:
            await broker.declare(systems, dict.fromkeys(systems, 0))
    return warm.copied(place)


async def prove_told(track: Track, *waves: Wave) -> None:
    """Raises BenchError unless the status log holds exactly one notification for each event of these waves."""
    found = await asyncio.to_thread(_told, track)
    for wave in waves:
        told, owed = found[wave.source], {key for _, key, _ in wave.events()}
        missing, often = owed - told.keys(), {key: times for key, times in told.items() if times > 1}
        if missing or often or len(told) > len(owed):
            raise BenchError(
                f"the status log of {track.place.name} holds other notifications of {wave.source} than it should: "
                f"{len(missing)} of {len(owed)} are missing, {len(often)} stand there more than once, and "
                f"{len(told.keys() - owed)} are of no event"
            )


def _told(track: Track) -> defaultdict[str, Counter[str]]:
    """By source and event: how many transitions the status log tells of, from where it was read before to its end."""
    broker, found = Broker(track.place.amqp_url), defaultdict[str, Counter[str]](Counter)
    try:
        for body in broker.read("relight.status.log", track.told):
            track.told += 1
            event = json.loads(body)
            if event["type"] == "relight.transition":
                cause = event["data"]["event"]
                found[cause["source"]][cause["id"]] += 1
    finally:
        broker.close()
    return found


async def publish_paced(track: Track, wave: Wave, rate: float) -> None:
    """Publishes at `rate` a second, by a process of its own."""
    job = {
        "amqp_url": track.place.amqp_url, "waves": [wave.as_json()], "rate": rate, "settle": 0, "listen": False
    }  # fmt: skip
    await ask("load", job, LOADING)
