"""One seeded story: replicas of the real engine decide, crash and follow each other while the world misbehaves.

Everything comes from the seed: when a replica dies, which message is doubled, late or out of order, how long each call
takes. The adapters in memory live on, as servers do.
"""

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from machines.registry import MACHINES
from schemas.system import System
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.store import MemoryStore
from service.adapters.memory.world import MemoryWorld
from service.engine.definitions import Definitions
from service.engine.owner import Owner
from service.engine.runner import Runner
from service.errors import Unavailable
from service.simulation.replica import registration
from service.simulation.virtual import SeededIds, VirtualClock
from service.steps.registry import ACTIONS

LEASE = timedelta(seconds=4)
QUIET = 900.0
"""Virtual seconds after the last fault in which everything must come to rest: longer than every deadline on the way."""

SYSTEM = System.model_validate(
    {
        "system": "metrics",
        "storage": {"state": "file:///memory/state"},
        "components": {
            "calculator": {"process": ["calculator"], "participant": "amqp"},
            "reporter": {"process": ["reporter"], "needs": ["calculator"], "participant": "amqp"},
        },
        "verify": [{"roundtrip": "calculator", "within": "20s"}],
        "restart": {"notice": {"lead": "5s"}},
        "allow": {"restart": ["ana"]},
        "gate": {"holds": 3, "expires": "3s", "from": ["shop"]},
        "alerts": [
            {"metric": "memory", "warning": 70, "critical": 90, "hysteresis": 5},
            {"metric": "latency", "warning": 500, "critical": 2000, "for": "30s"},
        ],
    }
)


class Life:
    """A replica's connection to everything outside: slow at random, and gone for good once the replica has died."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.dead = False

    async def passes(self) -> None:
        await asyncio.sleep(self._chance.random() * 0.02)
        if self.dead:
            raise Unavailable("the world", "this replica has died")

    def around(self, inner: Any) -> Any:
        """`inner` as seen through this life: each call may be cut before its effect, or after it, with no answer."""
        return _Seen(inner, self)


class _Seen:
    def __init__(self, inner: Any, life: Life) -> None:
        self._inner = inner
        self._life = life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in ("lanes", "publisher"):
            return self._opened(found)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*arguments: Any, **named: Any) -> Any:
            await self._life.passes()
            answer = await found(*arguments, **named)
            await self._life.passes()
            return answer

        return call

    def _opened(self, open_: Callable[..., Any]) -> Callable[..., Any]:
        @asynccontextmanager
        async def opened(*arguments: Any) -> Any:
            async with open_(*arguments) as inner:
                yield self._life.around(inner)

        return opened


@dataclass
class Story:
    """What happened: the servers as they stand at the end, and what the publishers know."""

    seed: int
    clock: VirtualClock
    store: MemoryStore
    broker: MemoryBroker
    world: MemoryWorld
    published: list[str] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    """Those of the published that are for the gate."""
    crashes: int = 0
    lives: int = 0
    """Replicas in their last life, which nothing ends."""

    @property
    def log_text(self) -> str:
        """Every log row, in the order of instances and seq: two runs of one seed have the same."""
        return "\n".join(row.record for _, row in sorted(self.store.tables.log.items()))


async def tell(seed: int, *, crashes: int = 6, restarts: int = 2, metrics: int = 120) -> Story:
    """Runs the story of `seed` to its quiet end."""
    chance = random.Random(seed)
    clock = VirtualClock()
    store = MemoryStore(clock)
    broker = MemoryBroker(clock)
    world = MemoryWorld(clock)
    world.chronicle = store
    story = Story(seed, clock, store, broker, world)
    for component in SYSTEM.components:
        world.participant("metrics", component)
    await broker.declare(["metrics"], {"metrics": 0}, ["metrics"])
    world.commands.deliver = answers(broker, lambda: chance.choice([1, 1, 2]))
    await store.keep_configurations({SYSTEM.config_hash(): SYSTEM.canonical()})
    await store.signal([registration("metrics", "registered", _definitions())])
    broker.delay = lambda key: chance.choice([0.0, 0.0, 0.0, chance.random() * 3])
    async with asyncio.TaskGroup() as tasks:
        replicas = [tasks.create_task(_replica(story, chance, f"r{n}", crashes)) for n in range(2)]
        await _publish(story, chance, restarts, metrics)
        await _come_to_rest(story)
        for replica in replicas:
            replica.cancel()
    return story


async def _come_to_rest(story: Story) -> None:
    """Until nothing is left to do, or QUIET has passed: then somebody is stuck, and the findings say who."""
    tables, began = story.store.tables, story.clock.monotonic()
    while story.clock.monotonic() - began < QUIET:
        await story.clock.sleep(20)
        waiting = any(story.broker.waiting(queue) for queue in story.broker.queues() if "intake" in queue)
        if story.lives == 2 and not (waiting or tables.signals or tables.timers or tables.outbox):
            break


async def _replica(story: Story, chance: random.Random, name: str, crashes: int) -> None:
    """Lives, dies at a random moment, and is started again; the last life lasts."""
    for number in range(crashes // 2 + 1):
        life = Life(chance)
        engine = asyncio.create_task(_engine(story, life, SeededIds(chance.getrandbits(32)), f"{name}.{number}"))
        lasts = chance.random() * 25 if number < crashes // 2 else None
        story.lives += lasts is None
        try:
            await asyncio.wait({engine}, timeout=lasts)
            if engine.done():
                engine.result()
            story.crashes += 1
        finally:
            life.dead = True
            engine.cancel()
            await asyncio.gather(engine, return_exceptions=True)
        await asyncio.sleep(chance.random() * 3)


async def _engine(story: Story, life: Life, ids: SeededIds, name: str) -> None:
    definitions = _definitions()
    store = life.around(story.store)
    owner = Owner(
        0, name, store, life.around(story.broker), lambda: definitions, story.clock, lease=LEASE, batch=20
    )  # fmt: skip
    runner = Runner(
        store, ACTIONS, story.world.world(), lambda: definitions, story.clock, ids,
        name=name, places=("local",), lease=LEASE,
    )  # fmt: skip
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(owner.run())
        tasks.create_task(runner.run())


def _definitions() -> Definitions:
    return Definitions(MACHINES, {"metrics": SYSTEM})


async def _publish(story: Story, chance: random.Random, restarts: int, metrics: int) -> None:
    """Measurements all along, restarts and cancels in between; messages are doubled and shuffled as they wait."""
    moments = sorted(chance.sample(range(metrics), restarts))
    for number in range(metrics):
        metric, span = chance.choice([("memory", 100.0), ("latency", 2500.0), ("unwatched", 1.0)])
        _put(story, "metric.observed", {"metric": metric, "value": chance.random() * span}, "probe")
        if chance.random() < 0.3:
            story.operations.append(f"p{len(story.published)}")
            data = {"operation": "orders.submit", "payload": number}
            _put(story, "operation.requested", data, chance.choice(["shop"] * 9 + ["eve"]))
        if number in moments:
            _put(story, "restart.requested", {"reason": "the story wants it"}, chance.choice(["ana", "ana", "eve"]))
        if chance.random() < 0.02:
            _put(story, "restart.cancelled", {"reason": "or not"}, "ana")
        queue = chance.choice(["relight.intake.metrics.0", "relight.intake.control.0"])
        if chance.random() < 0.1:
            story.broker.duplicate(queue)
        if chance.random() < 0.1:
            story.broker.shuffle(queue, chance.shuffle)
        if chance.random() < 0.03:
            story.broker.cut()
        await story.clock.sleep(chance.random())


def _put(story: Story, name: str, data: dict[str, Any], user: str) -> None:
    identity = f"p{len(story.published)}"
    story.published.append(identity)
    body = {
        "specversion": "1.0",
        "id": identity,
        "source": "publisher",
        "type": f"relight.{name}",
        "subject": "metrics",
        "data": data,
    }
    story.broker.put(f"metrics.{name}", json.dumps(body).encode(), user=user)


def answers(
    broker: MemoryBroker, times: Callable[[], int] = lambda: 1
) -> Callable[[str, str, dict[str, Any]], Awaitable[None]]:
    """How a participant's answer travels: through the broker, so many times."""
    count = itertools.count()

    async def deliver(system: str, component: str, data: dict[str, Any]) -> None:
        body = {
            "specversion": "1.0",
            "id": f"a{next(count)}",
            "source": f"participant/{component}",
            "type": "relight.participant.answered",
            "subject": system,
            "data": data,
        }
        raw = json.dumps(body).encode()
        for _ in range(times()):
            broker.put(f"{system}.participant.answered", raw, user=f"{system}.{component}")

    return deliver
