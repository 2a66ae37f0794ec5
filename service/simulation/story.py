"""One seeded story, whole: servers, replicas, people and faults are put together, told to the quiet end, and asked.

Everything comes from the seed. The servers in memory live on while replicas die, as servers do.
"""

import asyncio
import json
import random
from collections.abc import Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from service import crash
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.world import MemoryWorld
from service.ports import EventKey
from service.simulation.cast import Cast
from service.simulation.life import BROKER, STORE, WORLD, Life, Link, Moods
from service.simulation.people import People, Sent
from service.simulation.plan import Fault, Plan, drawn
from service.simulation.replica import Replica, shards
from service.simulation.systems import definitions, system
from service.simulation.trace import Trace
from service.simulation.virtual import PROCESS, START, VirtualClock, VirtualLoop
from service.simulation.virtual import run as in_virtual_time
from service.simulation.weather import Weather
from service.simulation.witness import WatchedStore

QUIET = 600.0
"""Virtual seconds after the last fault in which everything must come to rest: longer than every deadline on the way."""
LOOK = 5.0
"""Virtual seconds between two looks whether it has."""
ANSWERS_WITHIN = 30.0
"""Virtual seconds in which every instance must answer after the last fault, and again at the end."""


@dataclass
class Story:
    """What happened: the servers as they stand at the end, and what everybody outside knows.

    `places`: the crash points at which replicas died. `probes` are the questions asked after the last fault and at
    the end, `unanswered` those that had no outcome in time. `rested`: when everything had come to rest, None if it had
    not.
    """

    plan: Plan
    clock: VirtualClock
    store: WatchedStore
    broker: MemoryBroker
    world: MemoryWorld
    cast: Cast
    people: People
    trace: Trace
    replicas: list[Replica] = field(default_factory=list)
    struck: dict[Fault, int] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)
    calm_since: float = 0.0
    rested: float | None = None
    ended_at: datetime = START
    probes: list[Sent] = field(default_factory=list)
    unanswered: list[Sent] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.plan.seed


def told(seed: int, plan: Plan | None = None) -> Story:
    """The story of a seed (or of a plan of one's own), in virtual time."""
    return in_virtual_time(tell(plan or drawn(seed)))


async def tell(plan: Plan) -> Story:
    """Runs the story to its quiet end; on a virtual loop."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise TypeError("a story is told in virtual time")
    clock = VirtualClock()
    trace = Trace(clock)
    with trace.hearing(), crash.listening(_passed):
        trace.say(str(plan))
        story = _set_up(plan, loop, clock, trace)
        async with asyncio.TaskGroup() as tasks:
            await _play(story, loop, tasks)
        _conclude(story)
    return story


def _passed(place: str) -> None:
    process = PROCESS.get()
    if isinstance(process, Life):
        process.passes(place)


def _set_up(plan: Plan, loop: VirtualLoop, clock: VirtualClock, trace: Trace) -> Story:
    chance = _chance(plan, "people")
    store, broker, world = WatchedStore(clock, shards=plan.shards), MemoryBroker(clock), MemoryWorld(clock)
    world.chronicle = store
    world.secrets.values["env:BOOK"] = "postgresql://book"
    cast = Cast(world, broker, loop, _chance(plan, "cast"), trace)
    for name in plan.systems:
        cast.join(system(name))
    cast.watch()
    delays = _chance(plan, "delays")
    broker.delay = lambda key: delays.choice([0.0, 0.0, 0.0, delays.random() * 2])
    return Story(plan, clock, store, broker, world, cast, People(plan, broker, clock, chance), trace)


async def _play(story: Story, loop: VirtualLoop, tasks: asyncio.TaskGroup) -> None:
    plan, known = story.plan, definitions(story.plan.systems)
    gated = [name for name in plan.systems if system(name).gate is not None]
    await story.broker.declare(plan.systems, shards(plan.systems, plan.shards), gated)
    await story.store.keep_configurations({one.config_hash(): one.canonical() for one in known.systems.values()})
    servers = {name: Link() for name in (STORE, BROKER, WORLD)}
    moods, skews = Moods(), _chance(plan, "skews")

    def spawn(late: Coroutine[Any, Any, None]) -> object:
        return loop.create_task(late, context=Context())

    for number in range(plan.replicas):
        chance = _chance(plan, f"replica {number}")
        story.replicas.append(
            Replica(
                f"r{number}", chance, lambda name, chance=chance: Life(name, chance, servers, moods, spawn),  # type: ignore[misc]  # bound now
                (story.store, story.broker, story.world.world()), known, story.trace,
                skew=timedelta(seconds=skews.uniform(-plan.skew, plan.skew)), batch=plan.batch,
            )
        )  # fmt: skip
    weather = Weather(
        plan, _chance(plan, "weather"), story.clock, loop, story.trace, story.broker, story.world, story.cast,
        story.replicas, servers, moods, story.struck, story.places,
    )  # fmt: skip
    running = [tasks.create_task(replica.run()) for replica in story.replicas]
    if plan.chaser:
        running.append(tasks.create_task(story.people.chase()))
    async with asyncio.TaskGroup() as busy:
        busy.create_task(story.people.work())
        busy.create_task(weather.blow())
    story.calm_since = story.clock.monotonic()
    story.trace.say("the last fault is over")
    await _ask(story)
    await _come_to_rest(story)
    await _ask(story)
    for task in running:
        task.cancel()


async def _come_to_rest(story: Story) -> None:
    """Until nothing is left to do, or QUIET has passed: then somebody is stuck, and the findings say who."""
    tables, settled = story.store.tables, -1
    while story.clock.monotonic() - story.calm_since < QUIET:
        await story.clock.sleep(LOOK)
        waiting = any(story.broker.waiting(queue) for queue in story.broker.queues() if "intake" in queue)
        if waiting or tables.signals or tables.timers or tables.outbox:
            settled = -1
        elif settled == len(tables.inbox):
            # Nothing was on its way either since the last look.
            story.rested = story.clock.monotonic()
            return
        else:
            settled = len(tables.inbox)


async def _ask(story: Story) -> None:
    """Everything that is there must answer."""
    instances = sorted({*story.store.tables.instances, *(f"lifecycle/{name}" for name in story.plan.systems)})
    asked, probes = story.clock.monotonic(), await story.people.probe(instances)
    story.probes += probes
    unanswered = probes
    while (unanswered or story.store.tables.outbox) and story.clock.monotonic() - asked < ANSWERS_WITHIN:
        await story.clock.sleep(1.0)
        unanswered = [one for one in unanswered if EventKey(one.source, one.id) not in story.store.tables.inbox]
    story.unanswered += unanswered


def _conclude(story: Story) -> None:
    story.ended_at = story.clock.now()
    for participant in story.world.commands.participants.values():
        participant.look()
    for instance, snapshot in sorted(story.store.tables.instances.items()):
        story.trace.say(f"{instance} {snapshot.state} seq={snapshot.seq} {snapshot.hash}")
    said = [json.loads(entry.body)["id"] for entry in story.broker.log]
    story.trace.say(f"{len(said)} notifications, the last {said[-1] if said else 'none'}")


def _chance(plan: Plan, what: str) -> random.Random:
    """Each has a randomness of its own, so that one's draws do not move another's."""
    return random.Random(f"{what} {plan.seed}")  # noqa: S311  # it has to be the same every time
