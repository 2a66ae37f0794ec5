"""Leaving a state entry: what it has stored is cancelled, and nothing is asked of the store where it stored nothing."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from machines.model import Event, InstanceId, PlannedStep, Snapshot, StepStatus
from machines.registry import MACHINES
from schemas.base import Closed, Json
from schemas.events import MetricObserved, TimerFired
from schemas.system import System
from service.adapters.memory.store import MemoryStore
from service.engine.decide import _enter, decide
from service.engine.definitions import Definitions
from service.engine.reading import addresses
from service.engine.work import Live, Work
from service.ports import Batch, Loaded, Ownership, Prepared, StepKey, StepRow, TimerRow, Token
from tests.unit.test_decide import metrics_system

NOW = datetime(2026, 3, 1, 1, 45, tzinfo=UTC)
LOAD = InstanceId("alert/metrics/load")
LASTING = InstanceId("alert/metrics/memory")

SYSTEM = metrics_system(
    alerts=[
        {"metric": "load", "warning": 70, "critical": 90, "hysteresis": 5},
        {"metric": "memory", "warning": 70, "critical": 90, "hysteresis": 5, "for": "20s"},
    ]
)


class Still:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Door:
    """Decides batches of measurements on what a memory store holds, and commits them there."""

    def __init__(self) -> None:
        self.clock = Still()
        self.store = MemoryStore(self.clock)
        self.definitions = Definitions(MACHINES, {"metrics": SYSTEM})
        self.count = 0

    async def open(self) -> "Door":
        owned = await self.store.acquire(0, "test", timedelta(days=1))
        assert owned is not None
        self.owned: Ownership = owned
        return self

    async def measured(self, *values: tuple[str, float]) -> Batch:
        self.clock.at += timedelta(seconds=7)
        now = self.clock.at
        _, due = await self.store.pending(0, now, 100)
        events = [self._event(MetricObserved(metric=metric, value=value)) for metric, value in values]
        for timer in due:
            fired = TimerFired(instance=timer.instance, entry=timer.entry, kind=timer.kind)
            events.append(self._event(fired, "timer.fired"))
        meant = [(event, instance) for event in events for instance in addresses(event, self.definitions)]
        prepared = await self.store.prepare(0, [], [instance for _, instance in meant], ["metrics"])
        work = Work(prepared, self.definitions, epoch=1, now=now)
        for event, instance in meant:
            decide(work, instance, event)
        for timer in due:
            work.timer_done(timer)
        batch = work.batch(0, self.owned.token, ())
        await self.store.commit(batch)
        return batch

    def _event(self, data: Closed, name: str = "metric.observed") -> Event:
        self.count += 1
        return Event(f"e{self.count}", "test", name, "metrics", data, self.clock.at, user="ana")

    @property
    def rows(self) -> tuple[dict[StepKey, StepRow], set[TimerRow], dict[InstanceId, Snapshot]]:
        tables = self.store.tables
        return tables.steps, {timer for _, timer in tables.timers.values()}, tables.instances


async def test_alert_that_rested_without_steps_or_due_times_asks_nothing_of_the_store_when_it_moves() -> None:
    door = await Door().open()
    for value in (95.0, 10.0, 80.0):
        batch = await door.measured(("load", value))
        assert (len(batch.log), batch.leave) == (1, ())


async def test_alert_that_rose_takes_its_due_time_away_again() -> None:
    door = await Door().open()
    await door.measured(("memory", 95.0))
    assert [timer.kind for timer in door.rows[1]] == ["dwell"]
    batch = await door.measured(("memory", 10.0))
    assert batch.leave == ((LASTING, 1),)
    assert door.rows[1] == set()


def left_over(name: str, status: StepStatus) -> StepRow:
    planned = PlannedStep(name, "notice.tell", 0, timedelta(seconds=5), 1)
    return StepRow(StepKey(LOAD, 1, name), "metrics", "local", planned, status, "critical", "", ready_at=NOW)


@pytest.mark.parametrize("status", [StepStatus.READY, StepStatus.RUNNING, StepStatus.WAITING, StepStatus.UNKNOWN])
async def test_step_that_only_another_version_of_the_table_knew_is_cancelled_all_the_same(status: StepStatus) -> None:
    door = await Door().open()
    await door.measured(("load", 95.0))
    row = left_over("tell", status)
    timer = TimerRow(LOAD, 1, "step:tell", NOW + timedelta(hours=1))
    door.store.tables.steps[row.key] = row
    door.store.tables.timers[LOAD, timer.kind] = (0, timer)
    batch = await door.measured(("load", 10.0))
    assert batch.leave == ((LOAD, 1),)
    assert door.rows[0][row.key].status is StepStatus.CANCELLED
    assert door.rows[1] == set()


@pytest.mark.parametrize("seed", range(20))
async def test_stored_steps_and_due_times_are_those_of_an_owner_that_always_asks(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    careful, sparing = await Door().open(), await Door().open()
    chance, spared = random.Random(seed), 0
    for _ in range(60):
        metrics: Sequence[str] = [chance.choice(["load", "memory"]) for _ in range(chance.randint(1, 4))]
        values = [(metric, chance.choice([10.0, 68.0, 75.0, 88.0, 95.0])) for metric in metrics]
        batch = await sparing.measured(*values)
        with monkeypatch.context() as patched:
            patched.setattr(Live, "may_have_rows", True)
            spared += len((await careful.measured(*values)).leave) - len(batch.leave)
        assert sparing.rows == careful.rows
    assert spared > 0


def cases() -> list[tuple[str, str, dict[str, Json]]]:
    waived: dict[str, Json] = {
        "waivers": {"tell": {"by": "ana", "reason": "known", "until": (NOW + timedelta(days=1)).isoformat()}}
    }
    return [
        (machine.name, str(state.name), data)
        for machine in MACHINES.values()
        for state in machine.states
        for data in (dict[str, Json](), waived)
    ]


def entered(machine: str, state: str, data: dict[str, Json], system: System) -> tuple[Batch, bool]:
    """What an entry of this state writes beside the snapshot, and whether leaving it would ask for it."""
    definitions = Definitions(MACHINES, {"metrics": system})
    instance = InstanceId(f"{machine}/metrics" + "/load" * (machine == "alert"))
    version, current = MACHINES[machine].version, definitions.current_hash("metrics")
    snapshot = Snapshot(instance, "metrics", machine, version, current, 1, 3, state, 2, NOW, data=data)
    work = Work(Prepared({}, {instance: Loaded(snapshot)}), definitions, epoch=1, now=NOW)
    live = work.live(instance, "metrics")
    _enter(work, live, snapshot)
    batch = work.batch(0, Token(1), ())
    live.steps = {}  # as if nothing but the table said so
    return batch, live.may_have_rows


@pytest.mark.parametrize(("machine", "state", "data"), cases())
def test_every_state_that_stores_steps_or_due_times_on_entry_is_left_by_asking_the_store(
    machine: str, state: str, data: dict[str, Json]
) -> None:
    batch, asks = entered(machine, state, data, SYSTEM)
    if batch.steps_new or batch.timers:
        assert asks, f"{state} stores {len(batch.steps_new)} steps and {len(batch.timers)} due times"


def test_some_states_of_the_tables_store_nothing() -> None:
    spared = {(machine, state) for machine, state, data in cases() if not entered(machine, state, data, SYSTEM)[1]}
    assert {("alert", "normal"), ("alert", "warning"), ("alert", "critical")} <= spared
