"""What a worker makes of actions that return or do the unexpected, and of a database that refuses in passing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from machines.model import InstanceId
from machines.registry import MACHINES
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.store import MemoryStore
from service.adapters.memory.world import MemoryWorld
from service.engine.definitions import Definitions
from service.engine.owner import Owner
from service.engine.runner import Runner
from service.errors import Permanent, Transient, Unavailable
from service.ports import Done
from service.simulation import virtual
from service.simulation.replica import registration
from service.simulation.virtual import SeededIds, VirtualClock
from tests.simulation.story import SYSTEM

LEASE = timedelta(seconds=8)
LIFECYCLE = InstanceId("lifecycle/metrics")
OBSERVING = 290
"""Seconds; the deadline of the first look is ten later, and would end it anyway."""

Doing = Callable[[], Awaitable[Any]]


class Scripted:
    """An action that does what a test says."""

    name = "component.observe"

    def __init__(self, perform: Doing, probe: Doing | None = None) -> None:
        self.performing, self.probing, self.twice_is_safe = perform, probe, probe is None

    def plan(self, *_: Any) -> str:
        return ""

    async def perform(self, _: Any) -> Any:
        return await self.performing()

    async def probe(self, _: Any) -> Any:
        return await self.probing() if self.probing is not None else None


async def told(action: Scripted, *faults: str, knows: Any = SYSTEM, seconds: float = OBSERVING) -> MemoryStore:
    """One worker on the first look at a system; the store refuses each call named in `faults` once, in passing."""
    clock = VirtualClock()
    store, broker = MemoryStore(clock), MemoryBroker(clock)
    definitions = Definitions(MACHINES, {"metrics": SYSTEM})
    await broker.declare(["metrics"], {"metrics": 0})
    await store.keep_configurations({SYSTEM.config_hash(): SYSTEM.canonical()})
    await store.signal([registration("metrics", "registered", definitions)])
    for call in faults:
        store.fail_next(call, Transient("its tables were altered"))
    owner = Owner(0, "owner", store, broker, lambda: definitions, clock, lease=LEASE, batch=20)
    theirs = Definitions(MACHINES, {"metrics": knows})
    runner = Runner(
        store, {"component.observe": action}, MemoryWorld(clock).world(), lambda: theirs, clock, SeededIds(1),
        name="worker", places=("local",), lease=LEASE,
    )  # fmt: skip
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(owner.run()), tasks.create_task(runner.run())]
        await asyncio.sleep(seconds)
        for task in running:
            assert not task.done()
            task.cancel()
    return store


def observed(store: MemoryStore) -> set[str]:
    """How the steps of the first look ended."""
    return {str(row.status) for row in store.tables.steps.values() if row.state == "unobserved"}


@pytest.mark.parametrize(
    "result",
    [{"n": 2**70}, {"said": "a\0b"}, {"said": "\ud800"}, {"said": "x" * 300_000}, {"when": float("nan")}],
    ids=["too large a number", "NUL", "half a letter", "too long", "no number"],
)
def test_result_that_nobody_could_be_told_fails_its_step_at_once(result: dict[str, Any]) -> None:
    async def perform() -> Done:
        return Done({"running": True, **result})

    store = virtual.run(told(Scripted(perform)))
    assert "failed" in observed(store)
    assert store.tables.instances[LIFECYCLE].state == "degraded"
    assert not store.tables.dead


@pytest.mark.parametrize("words", ["\ud800 is no letter", "x" * 300_000])
def test_words_of_an_error_never_keep_a_step_from_ending(words: str) -> None:
    async def perform() -> Done:
        raise Permanent(words)

    store = virtual.run(told(Scripted(perform)))
    assert "failed" in observed(store)
    assert store.tables.instances[LIFECYCLE].state == "degraded"


@pytest.mark.parametrize("call", ["claim", "context", "renew_claim", "finish"])
def test_a_database_that_refuses_in_passing_costs_no_step(call: str) -> None:
    async def perform() -> Done:
        await asyncio.sleep(5)
        return Done({"running": True})

    store = virtual.run(told(Scripted(perform), call))
    assert observed(store) == {"done"}
    assert {row.attempt for row in store.tables.steps.values() if row.state == "unobserved"} == {1}


def test_broker_of_relights_own_that_is_away_costs_no_attempt_however_long_it_takes() -> None:
    tries = 0

    async def perform() -> Done:
        nonlocal tries
        tries += 1
        if tries <= 50:
            raise Unavailable("RabbitMQ", "the command was not confirmed")
        return Done({"running": True})

    store = virtual.run(told(Scripted(perform)))
    assert observed(store) == {"done"}
    assert {row.attempt for row in store.tables.steps.values() if row.state == "unobserved"} == {1}


def test_wait_for_a_broker_that_stays_away_ends_with_the_deadline_of_the_state() -> None:
    async def perform() -> Done:
        raise Unavailable("RabbitMQ", "the command was not confirmed")

    store = virtual.run(told(Scripted(perform), seconds=310))
    assert store.tables.instances[LIFECYCLE].state == "degraded"
    assert observed(store) == {"cancelled"}


def test_step_of_a_configuration_that_the_worker_was_not_started_with_is_performed_all_the_same() -> None:
    async def perform() -> Done:
        return Done({"running": True})

    changed = SYSTEM.model_copy(update={"zone": "Europe/Berlin"})
    store = virtual.run(told(Scripted(perform), knows=changed))
    assert observed(store) == {"done"}


def test_look_whether_it_happened_has_an_end_too() -> None:
    async def never() -> Done:
        await asyncio.sleep(3600)
        return Done()

    store = virtual.run(told(Scripted(never, never), seconds=200))
    assert "unknown" in observed(store)
