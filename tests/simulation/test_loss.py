"""A database that went back to an older copy of itself is found out at the next take-over, and nothing else is.

In virtual time, on servers in memory: the tables are copied and put back as a backup is.
"""

import asyncio
import copy
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from machines.model import InstanceId
from machines.registry import MACHINES
from service.adapters.memory.broker import Logged, MemoryBroker
from service.adapters.memory.store import MemoryStore
from service.adapters.memory.tables import Tables
from service.engine.definitions import Definitions
from service.engine.owner import Owner
from service.errors import Unavailable
from service.ports import epoch_of
from service.simulation import virtual
from service.simulation.virtual import VirtualClock
from tests.simulation.story import SYSTEM

LEASE = timedelta(seconds=10)
ALERT = InstanceId("alert/metrics/memory")
LIFECYCLE = InstanceId("lifecycle/metrics")


class Desk:
    """One shard, its broker, and a store whose tables can be put back."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store, self.broker = MemoryStore(self.clock), MemoryBroker(self.clock)
        self.number = 0

    def owner(self, name: str = "one", system: Any = SYSTEM) -> Owner:
        definitions = Definitions(MACHINES, {system.system: system})
        return Owner(0, name, self.store, self.broker, lambda: definitions, self.clock, lease=LEASE, batch=20)

    async def serves(self, seconds: float = 5, name: str = "one", system: Any = SYSTEM) -> Owner:
        """Some seconds of an owner's life; it dies without a word, so that its lease is not given back."""
        owner = self.owner(name, system)
        release = self.store.release
        self.store.release = _never  # type: ignore[method-assign,assignment]
        task = asyncio.create_task(owner.run())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self.store.release = release  # type: ignore[method-assign]
        return owner

    def measure(self, value: float) -> str:
        """A measurement that crosses a threshold; its id."""
        self.number += 1
        body = {
            "specversion": "1.0", "id": f"m{self.number}", "source": "probe", "type": "relight.metric.observed",
            "subject": "metrics", "data": {"metric": "memory", "value": value},
        }  # fmt: skip
        self.broker.put("metrics.metric.observed", json.dumps(body).encode())
        return f"m{self.number}"

    async def goes_back(self) -> Tables:
        """Something critical is told, and then the tables are what they were before; a copy of them, to do it again."""
        await self.serves()
        backup = copy.deepcopy(self.store.tables)
        self.measure(95.0)
        await self.serves()
        self.store.tables = copy.deepcopy(backup)
        return backup

    @property
    def epoch(self) -> int:
        return self.store.tables.epoch

    def state(self, instance: InstanceId = LIFECYCLE) -> str | None:
        found = self.store.tables.instances.get(instance)
        return found.state if found else None

    def lost(self) -> dict[str, Any]:
        lost: Any = self.store.tables.instances[LIFECYCLE].data["lost"]
        return dict(lost)


async def _never(_: object) -> None:
    raise Unavailable("the world", "this replica has died")


def tell(story: Callable[[Desk], Awaitable[None]]) -> Desk:
    desk = Desk()

    async def whole() -> None:
        await desk.broker.declare(["metrics"], {"metrics": 0})
        await story(desk)

    virtual.run(whole())
    return desk


def test_rows_that_were_told_and_are_gone_are_a_loss_that_is_named_and_counted() -> None:
    async def story(desk: Desk) -> None:
        desk.measure(95.0)
        await desk.serves()
        backup = copy.deepcopy(desk.store.tables)
        desk.measure(10.0)
        desk.measure(80.0)
        await desk.serves()
        desk.store.tables = backup
        await desk.serves()

    desk = tell(story)
    assert desk.epoch == 2
    assert desk.state() == "halted.database_lost"
    lost = desk.lost()
    assert lost["rows"] == 2
    assert [event["id"] for event in lost["events"]] == ["m2", "m3"]
    assert "alert/metrics/memory" in lost["told"][-1]
    told = [json.loads(one.body) for one in desk.broker.log]
    moved = [one["data"] for one in told if one["type"] == "relight.transition"]
    assert (moved[-1]["to"], moved[-1]["epoch"]) == ("halted.database_lost", 2)
    assert "2 published rows of metrics are missing" in moved[-1]["reason"]
    waits = [one["data"] for one in told if one["type"] == "relight.wait"]
    assert any("adopt" in act for act in waits[-1]["acts"])


def test_loss_is_found_once_however_often_the_shard_is_taken_over_and_a_replayed_event_counts() -> None:
    async def story(desk: Desk) -> None:
        await desk.goes_back()
        for _ in range(3):
            await desk.serves()
        desk.number = 0
        desk.measure(95.0)
        await desk.serves()

    desk = tell(story)
    assert desk.epoch == 2
    assert desk.state(ALERT) == "critical"
    assert desk.store.tables.instances[ALERT].epoch == 2
    lifecycle = [row for (instance, _), row in desk.store.tables.log.items() if instance == LIFECYCLE]
    assert [row.state_to for row in lifecycle] == ["halted.database_lost"]


def test_second_restore_from_the_same_backup_begins_an_epoch_above_all_that_was_told() -> None:
    async def story(desk: Desk) -> None:
        backup = await desk.goes_back()
        for _ in range(3):
            desk.store.tables = copy.deepcopy(backup)
            await desk.serves()

    desk = tell(story)
    assert desk.epoch == 4
    assert desk.store.tables.instances[LIFECYCLE].entry == 3, "entries that were lost are not counted again"


def test_empty_database_where_the_stream_knows_the_system_is_a_loss_and_of_another_system_is_none() -> None:
    other = SYSTEM.model_copy(update={"system": "trading"})

    async def story(desk: Desk) -> None:
        desk.measure(95.0)
        await desk.serves()
        desk.store.tables = Tables()
        await desk.broker.declare(["trading"], {"trading": 0})
        await desk.serves(name="new", system=other)
        assert desk.epoch == 1
        desk.store.tables = Tables()
        await desk.serves(name="newer")

    desk = tell(story)
    assert desk.epoch == 2
    assert desk.state() == "halted.database_lost"


@pytest.mark.parametrize("kills", [1, 4])
def test_deaths_with_unsent_notifications_and_a_trimmed_stream_are_no_loss(kills: int) -> None:
    async def story(desk: Desk) -> None:
        for number in range(kills):
            desk.measure(95.0 if number % 2 else 10.0)
            desk.measure(10.0 if number % 2 else 95.0)
            desk.broker.cut_publish_after = 1
            await desk.serves(0.3, name=f"r{number}")
            await desk.clock.sleep(LEASE.total_seconds() + 1)
        desk.broker.log.clear()
        await desk.serves(name="last")

    desk = tell(story)
    assert desk.epoch == 1
    assert desk.state() is None
    assert {epoch_of(lease.token) for lease in desk.store.tables.leases.values()} == {1}


def test_broker_that_is_away_holds_up_no_take_over_for_ever_and_is_looked_at_when_it_is_back() -> None:
    async def story(desk: Desk) -> None:
        await desk.goes_back()
        await desk.clock.sleep(LEASE.total_seconds())
        desk.broker.away = True
        owner = desk.owner("two")
        task = asyncio.create_task(owner.run())
        await asyncio.sleep(LEASE.total_seconds() - 2)
        assert owner.owns
        assert owner.unlooked is not None
        assert "RabbitMQ" in owner.unlooked
        assert not desk.store.tables.is_cleared("metrics", desk.clock.now())
        await asyncio.sleep(10)
        assert desk.store.tables.is_cleared("metrics", desk.clock.now()), "it goes on, and says that it does not know"
        assert owner.unlooked is not None
        desk.broker.away = False
        await asyncio.sleep(10)
        assert owner.owns
        assert owner.unlooked is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    desk = tell(story)
    assert desk.epoch == 2
    assert desk.state() == "halted.database_lost"


def test_what_an_owner_wrote_without_having_looked_hides_no_loss_from_the_next_one() -> None:
    async def story(desk: Desk) -> None:
        await desk.goes_back()
        await desk.clock.sleep(LEASE.total_seconds())
        desk.broker.away = True
        await desk.serves(15, name="blind")
        await desk.clock.sleep(LEASE.total_seconds())
        desk.broker.away = False
        await desk.serves(name="seeing")

    assert tell(story).epoch == 2


def test_no_notification_of_a_stranger_makes_an_owner_stumble() -> None:
    junk = [
        b"",
        b"[]",
        b"{}",
        b'{"type":"relight.transition"}',
        b'{"type":"relight.transition","data":{"system":"metrics","seq":1}}',
    ]

    async def story(desk: Desk) -> None:
        for body in junk:
            for key in ("metrics.lifecycle.operational", "relight.status.log", "x"):
                desk.broker.log.append(Logged(desk.clock.now(), key, body))
        await desk.serves()
        assert desk.store.tables.is_cleared("metrics", desk.clock.now())

    assert tell(story).epoch == 1
