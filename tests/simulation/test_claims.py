"""What a worker does while nobody renews its claim: its action ends before another may begin. In virtual time."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from machines.registry import MACHINES
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.store import MemoryStore
from service.adapters.memory.world import MemoryWorld
from service.engine.definitions import Definitions
from service.engine.owner import Owner
from service.engine.runner import Runner
from service.errors import Unavailable
from service.ports import Done
from service.simulation import virtual
from service.simulation.replica import registration
from service.simulation.virtual import SeededIds, VirtualClock
from tests.simulation.story import SYSTEM

LEASE = timedelta(seconds=8)


class Endless:
    """An action that works until it is cancelled, and notes when."""

    name = "component.observe"
    twice_is_safe = True

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.began: list[float] = []
        self.ended: list[float] = []

    def plan(self, *_: Any) -> str:
        return ""

    async def perform(self, _: Any) -> Done:
        self.began.append(self.clock.monotonic())
        try:
            await asyncio.sleep(25)
        finally:
            self.ended.append(self.clock.monotonic())
        return Done({"running": True})

    async def probe(self, _: Any) -> None:
        return None


async def told(renew: Any, seconds: float) -> Endless:
    """One worker on the first look at a system, for so many seconds; `renew(real)` replaces the store's renewal."""
    clock = VirtualClock()
    store, broker = MemoryStore(clock), MemoryBroker(clock)
    definitions = Definitions(MACHINES, {"metrics": SYSTEM})
    await broker.declare(["metrics"], {"metrics": 0})
    await store.keep_configurations({SYSTEM.config_hash(): SYSTEM.canonical()})
    await store.signal([registration("metrics", "registered", definitions)])
    store.renew_claim = renew(store.renew_claim)  # type: ignore[method-assign]  # the database that says nothing
    action = Endless(clock)
    owner = Owner(0, "owner", store, broker, lambda: definitions, clock, lease=LEASE, batch=20)
    runner = Runner(
        store, {"component.observe": action}, MemoryWorld(clock).world(), lambda: definitions, clock, SeededIds(1),
        name="worker", places=("local",), lease=LEASE,
    )  # fmt: skip
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(owner.run()), tasks.create_task(runner.run())]
        await asyncio.sleep(seconds)
        for task in running:
            task.cancel()
    return action


def hangs(_: Any) -> Any:
    async def renew(*_: Any) -> None:
        await asyncio.sleep(3600)

    return renew


def away(_: Any) -> Any:
    async def renew(*_: Any) -> None:
        raise Unavailable("PostgreSQL", "it refuses connections")

    return renew


@pytest.mark.parametrize("renew", [hangs, away])
def test_action_has_ended_before_its_lease_when_the_database_says_nothing(renew: Any) -> None:
    action = virtual.run(told(renew, 60))
    lease = LEASE.total_seconds()
    assert len(action.began) > 2
    for began, ended, again in zip(action.began, action.ended, action.began[1:], strict=False):
        assert lease / 2 < ended - began < lease
        assert again > ended


def test_renewed_claim_lets_the_action_end_by_itself_however_many_leases_it_takes() -> None:
    def answers_at_last(real: Any) -> Any:
        tries = 0

        async def renew(*arguments: Any) -> None:
            nonlocal tries
            tries += 1
            if tries % 3:
                raise Unavailable("PostgreSQL", "it comes and goes")
            await real(*arguments)

        return renew

    action = virtual.run(told(answers_at_last, 26.9))
    assert action.ended[0] - action.began[0] == pytest.approx(25)
