"""A pause is a lease: renewed for as long as preserving takes; what lapsed all the same is resumed, not stopped."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from machines.model import InstanceId, StepStatus
from machines.registry import MACHINES
from schemas.system import System
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.participants import MemoryParticipant
from service.adapters.memory.store import MemoryStore
from service.adapters.memory.world import MemoryWorld
from service.engine.definitions import Definitions
from service.engine.owner import Owner
from service.engine.runner import Runner
from service.ports import OpenTransaction
from service.simulation import virtual
from service.simulation.replica import registration
from service.simulation.virtual import SeededIds, VirtualClock
from service.steps.registry import ACTIONS
from tests.simulation.story import answers

LEASE = timedelta(seconds=4)
PAUSE = 60.0
"""Seconds that a pause lasts when nobody renews it."""
REMEMBERED = InstanceId("lifecycle/metrics")

SYSTEM = System.model_validate(
    {
        "system": "metrics",
        "storage": {"state": "file:///memory/state"},
        "databases": {"trading": {"url": "env:TRADING"}},
        "components": {
            "calculator": {"process": ["calculator"], "participant": "amqp", "on_silence": "proceed"},
            "reporter": {"process": ["reporter"], "participant": {"pause": {"signal": "USR1"}}},
        },
        "verify": [{"roundtrip": "calculator", "within": "20s"}],
        "restart": {"notice": {"lead": "1s"}, "pause_lease": "60s", "limits": {"drain": "30m"}},
        "allow": {"restart": ["ana"]},
    }
)
DEFINITIONS = Definitions(MACHINES, {"metrics": SYSTEM})
BLOCKER = OpenTransaction(4312, "report_ro", "metrics.calculator", "active", 9.0, "select 1", writes=True)


@dataclass
class House:
    """One operational system whose drain is blocked from the beginning."""

    clock: VirtualClock
    store: MemoryStore
    broker: MemoryBroker
    world: MemoryWorld
    participant: MemoryParticipant
    engine: list[asyncio.Task[None]]
    said: int = 0

    def say(self, what: str, **data: Any) -> None:
        self.said += 1
        body = {"id": f"e{self.said}", "source": "ana", "type": f"relight.{what}", "subject": "metrics", "data": data}
        self.broker.put(f"metrics.{what}", json.dumps({"specversion": "1.0", **body}).encode(), user="ana")

    def state(self) -> str | None:
        found = self.store.tables.instances.get(REMEMBERED)
        return found.state if found is not None else None

    async def until(self, *states: str) -> None:
        """Until the instance came to one of them, since this is asked. Raises TimeoutError."""
        seen = len(self.way)
        async with asyncio.timeout(3600):
            while not set(self.way[seen:]) & set(states):  # virtual time: looking costs nothing
                await asyncio.sleep(0.05)

    async def draining(self) -> None:
        """A restart that everybody was paused for, and that waits for the transaction."""
        await self.until("operational")
        self.say("restart.requested", reason="the story wants it")
        async with asyncio.timeout(3600):
            while not self.participant.paused:
                await asyncio.sleep(0.05)

    def renewals(self, component: str) -> list[StepStatus]:
        rows = [row for row in self.store.tables.steps.values() if row.key.name.startswith(f"renew:{component}:")]
        return [row.status for row in sorted(rows, key=lambda row: int(str(row.planned.arguments["round"])))]

    @property
    def way(self) -> list[str]:
        return [row.state_to for row in self.store.tables.log.values() if row.instance == REMEMBERED]

    @property
    def failure(self) -> str:
        records = [json.loads(row.record)["changes"] for row in self.store.tables.log.values() if row.kind != "refusal"]
        (failure,) = [changes["failure"] for changes in records if changes.get("failure")]
        return json.dumps(failure)

    def serve(self) -> None:
        """An owner and a worker."""
        owner = Owner(0, "owner", self.store, self.broker, lambda: DEFINITIONS, self.clock, lease=LEASE, batch=20)
        runner = Runner(
            self.store, ACTIONS, self.world.world(), lambda: DEFINITIONS, self.clock, SeededIds(len(self.engine)),
            name="worker", places=("local",), lease=LEASE,
        )  # fmt: skip
        self.engine += [asyncio.create_task(owner.run()), asyncio.create_task(runner.run())]

    async def die(self) -> None:
        for task in self.engine:
            task.cancel()
        await asyncio.gather(*self.engine, return_exceptions=True)


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    clock = VirtualClock()
    world = MemoryWorld(clock)
    world.secrets.values["env:TRADING"] = "postgresql://127.0.0.1/trading"
    store, broker = MemoryStore(clock), MemoryBroker(clock)
    world.chronicle = store
    one = House(clock, store, broker, world, world.participant("metrics", "calculator"), [])
    await broker.declare(["metrics"], {"metrics": 0})
    world.commands.deliver = answers(broker)
    world.databases.open_transactions = (BLOCKER,)
    await store.keep_configurations({SYSTEM.config_hash(): SYSTEM.canonical()})
    await store.signal([registration("metrics", "registered", DEFINITIONS)])
    one.serve()
    yield one
    await one.die()


def test_pause_is_renewed_through_a_drain_that_is_longer_than_its_lease() -> None:
    async def tell() -> None:
        async with house() as one:
            await one.draining()
            await asyncio.sleep(PAUSE * 5)
            assert one.participant.paused
            one.world.databases.open_transactions = ()
            await one.until("operational", "degraded", "halted")
            assert one.state() == "operational"
            assert "preparing_for_restart.resuming" not in one.way
            assert "lapsed" not in one.participant.done
            # A third of the lease apart, each told by the way that the file names.
            assert 14 <= one.renewals("calculator").count(StepStatus.DONE) <= 17
            assert set(one.renewals("reporter")) == {StepStatus.DONE}
            told = [signal for name, signal in one.world.processes.told if name == "metrics.reporter"]
            assert told.count("USR1") == 1 + len(one.renewals("reporter"))
            assert not [timer for timer in one.store.tables.timers.values() if "again" in str(timer)]

    virtual.run(tell())


def test_participant_that_cannot_be_reached_for_its_renewal_is_resumed_and_never_stopped() -> None:
    async def tell() -> None:
        async with house() as one:
            await one.draining()
            one.participant.deaf.add("renew")
            await one.until("operational")
            assert "shutting_down" not in one.way
            assert "renew:calculator:1" in one.failure
            # Found out before the participant ended the pause by itself, whatever its file says of silence.
            assert one.participant.done[-2:] == ["resume", "report"]
            assert "lapsed" not in one.participant.done

    virtual.run(tell())


def test_participant_that_says_its_pause_has_ended_calls_the_restart_off() -> None:
    async def tell() -> None:
        async with house() as one:
            await one.draining()
            one.participant.paused = False  # as a process does that somebody started anew
            await one.until("operational")
            assert "the pause has ended by itself" in one.failure
            assert "shutting_down" not in one.way

    virtual.run(tell())


def test_relight_that_was_away_for_longer_than_the_lease_does_not_stop_who_works_again() -> None:
    async def tell() -> None:
        async with house() as one:
            await one.draining()
            await one.die()
            await asyncio.sleep(PAUSE * 2)
            one.world.databases.open_transactions = ()
            one.participant.work()
            assert one.participant.done[-1] == "lapsed"
            one.serve()
            await one.until("operational")
            assert "preparing_for_restart.resuming" in one.way
            assert "shutting_down" not in one.way
            assert "stop" not in " ".join(row.planned.action for row in one.store.tables.steps.values())

    virtual.run(tell())
