"""An action whose effect comes late, when its state has been left already: nothing is undone before it has ended."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from machines.registry import MACHINES
from schemas.system import System
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.participants import MemoryParticipant
from service.adapters.memory.store import MemoryStore
from service.adapters.memory.world import MemoryWorld
from service.engine.definitions import Definitions
from service.engine.owner import Owner
from service.engine.runner import Runner
from service.ports import Action, Done
from service.simulation import virtual
from service.simulation.replica import registration
from service.simulation.virtual import SeededIds, VirtualClock
from service.steps.registry import ACTIONS
from tests.simulation.story import Life, answers

LEASE = timedelta(seconds=40)
"""Its renewal, every ten seconds, is far too late to be what tells a worker."""

SYSTEM = System.model_validate(
    {
        "system": "metrics",
        "storage": {"state": "file:///memory/state"},
        "components": {"calculator": {"process": ["calculator"], "participant": "amqp"}},
        "verify": [{"roundtrip": "calculator", "within": "20s"}],
        "restart": {"notice": {"lead": "1s"}, "answer_within": "3m", "pause_lease": "20m"},
        "allow": {"restart": ["ana"]},
    }
)


class LatePause:
    """A pause that has its effect only when it is ended: the last deed of a program, a signal sent at the end."""

    name = "participant.pause"
    twice_is_safe = True

    def __init__(self, participant: MemoryParticipant, ending: float) -> None:
        self.participant, self.ending = participant, ending
        self.began, self.ended = asyncio.Event(), 0.0

    def plan(self, *_: Any) -> str:
        return ""

    async def perform(self, _: Any) -> Done:
        self.began.set()
        try:
            await asyncio.sleep(150)
        finally:
            await asyncio.sleep(self.ending)
            self.participant.paused = True
            self.ended = self.participant.clock.monotonic()
        return Done()

    async def probe(self, _: Any) -> None:
        return None


class Noting:
    """An action as it is, with the moment it first began for a restart that was given up."""

    def __init__(self, action: Action, clock: VirtualClock) -> None:
        self.action, self.clock = action, clock
        self.name, self.twice_is_safe = action.name, action.twice_is_safe
        self.plan, self.probe = action.plan, action.probe
        self.began = 0.0

    async def perform(self, context: Any) -> Any:
        if context.row.state == "preparing_for_restart.resuming":
            self.began = self.began or self.clock.monotonic()
        return await self.action.perform(context)


@dataclass
class House:
    """One operational system, two workers, and the moments that count."""

    clock: VirtualClock
    store: MemoryStore
    broker: MemoryBroker
    participant: MemoryParticipant
    pause: LatePause
    resume: Noting
    workers: dict[str, tuple[Life, asyncio.Task[None]]] = field(default_factory=dict)
    said: int = 0

    def say(self, what: str, **data: Any) -> None:
        self.said += 1
        body = {"id": f"e{self.said}", "source": "ana", "type": f"relight.{what}", "subject": "metrics", "data": data}
        self.broker.put(f"metrics.{what}", json.dumps({"specversion": "1.0", **body}).encode(), user="ana")

    def state(self) -> str | None:
        found = [one.state for one in self.store.tables.instances.values() if one.machine == "lifecycle"]
        return found[0] if found else None

    async def until(self, state: str, within: float = 600) -> None:
        """Waits for it. Raises TimeoutError."""
        async with asyncio.timeout(within):
            while self.state() != state:  # virtual time: looking costs nothing
                await asyncio.sleep(0.01)

    async def cancelled_while_pausing(self) -> float:
        """The moment at which the cancel was published, with the pause at work."""
        await self.until("operational")
        self.say("restart.requested", reason="the story wants it")
        async with asyncio.timeout(600):
            await self.pause.began.wait()
        await asyncio.sleep(2)
        self.say("restart.cancelled", reason="or not")
        return self.clock.monotonic()


@asynccontextmanager
async def house(*, ending: float = 0.3, width: int = 8, hears: bool = True) -> AsyncIterator[House]:
    """`ending`: seconds the pause takes to end once it is cancelled; without `hears` nobody is ever woken."""
    clock = VirtualClock()
    store, broker, world = MemoryStore(clock), MemoryBroker(clock), MemoryWorld(clock)
    participant = world.participant("metrics", "calculator")
    pause, resume = LatePause(participant, ending), Noting(ACTIONS["participant.resume"], clock)
    one = House(clock, store, broker, participant, pause, resume)
    definitions = Definitions(MACHINES, {"metrics": SYSTEM})
    await broker.declare(["metrics"], {"metrics": 0})
    world.commands.deliver = answers(broker)
    await store.keep_configurations({SYSTEM.config_hash(): SYSTEM.canonical()})
    await store.signal([registration("metrics", "registered", definitions)])
    if not hears:
        store.wait_for_step = clock.sleep  # type: ignore[method-assign, assignment]  # nobody listens any more
    owner = Owner(0, "owner", store, broker, lambda: definitions, clock, lease=LEASE, batch=20)
    actions = {**ACTIONS, pause.name: pause, resume.name: resume}
    async with asyncio.TaskGroup() as tasks:
        deciding = tasks.create_task(owner.run())
        for number, name in enumerate(("w1", "w2")):
            life = Life(random.Random(number))
            runner = Runner(
                life.around(store), actions, world.world(), lambda: definitions, clock, SeededIds(number),
                name=name, places=("local",), lease=LEASE, width=width,
            )  # fmt: skip
            one.workers[name] = (life, tasks.create_task(runner.run()))
        yield one
        for task in (deciding, *(task for _, task in one.workers.values())):
            task.cancel()


@pytest.mark.parametrize(
    "circumstances", [{}, {"width": 1}, {"hears": False}, {"ending": 3.0}], ids=["woken", "full", "deaf", "slow"]
)
def test_cancelled_restart_resumes_only_after_the_pause_under_way_has_ended(circumstances: dict[str, Any]) -> None:
    async def tell() -> None:
        async with house(**circumstances) as one:
            cancelled = await one.cancelled_while_pausing()
            await one.until("operational")
            assert 0 < one.pause.ended <= one.resume.began
            assert not one.participant.paused
            # At once, and not when the claim is renewed.
            assert one.resume.began - cancelled < circumstances.get("ending", 0.3) + 2

    virtual.run(tell())


def test_pause_of_a_worker_that_died_holds_the_resume_back_until_its_lease_has_ended() -> None:
    async def tell() -> None:
        async with house(ending=15) as one:
            await one.until("operational")
            one.say("restart.requested", reason="the story wants it")
            async with asyncio.timeout(600):
                await one.pause.began.wait()
            [row] = [row for row in one.store.tables.steps.values() if row.planned.action == one.pause.name]
            life, task = one.workers[str(row.worker)]
            life.dead = True
            task.cancel()
            one.say("restart.cancelled", reason="or not")
            await one.until("preparing_for_restart.resuming")
            [row] = [row for row in one.store.tables.steps.values() if row.planned.action == one.pause.name]
            assert row.lease_until is not None
            over = (row.lease_until - one.clock.now()).total_seconds() + one.clock.monotonic()
            await one.until("operational")
            assert 0 < one.pause.ended < over <= one.resume.began < over + 2
            assert not one.participant.paused
            with contextlib.suppress(asyncio.CancelledError):
                await task

    virtual.run(tell())
