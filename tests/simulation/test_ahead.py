"""A backlog is decided while the batch before is committed, and nothing comes out otherwise than one after another."""

import asyncio
import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from machines.model import Event, InstanceId
from machines.registry import MACHINES
from service.adapters.memory.lanes import MemoryLanes
from service.engine import deciding
from service.engine.definitions import Definitions
from service.engine.intake import ATTEMPTS
from service.engine.owner import Owner
from service.engine.reading import Arrived
from service.engine.records import fold
from service.engine.work import Work
from service.errors import Poison, Unavailable
from service.ports import Batch, Ownership, TimerRow
from tests.simulation.backlog import METRICS, WIDE, Backlog, crossing
from tests.simulation.desk import LEASE, Desk, measured, told


def sequence(desk: Desk, metric: str) -> list[str]:
    """The events of a metric's log in order; its chain holds, and its fold is the snapshot."""
    instance = InstanceId(f"alert/metrics/{metric}")
    rows = [desk.store.tables.log[key] for key in sorted(desk.store.tables.log) if key[0] == instance]
    assert fold(rows) == desk.store.tables.instances[instance]
    return [row.event.id for row in rows]


def test_next_batch_is_decided_while_the_one_before_is_committed() -> None:
    backlogs = []

    async def story(desk: Desk) -> None:
        backlogs.append(Backlog(desk, *crossing(*METRICS)))
        await desk.serve()

    desk = told(story, batch=2)
    assert backlogs[0].meanwhile() == [f"read m{n}-95,m{n + 1}-95" for n in (2, 4, 6)]
    assert [sequence(desk, metric) for metric in METRICS] == [[f"{metric}-95"] for metric in METRICS]


def test_rest_that_is_smaller_than_a_batch_waits_for_its_turn() -> None:
    backlogs = []

    async def story(desk: Desk) -> None:
        backlogs.append(Backlog(desk, *crossing(*METRICS[:5])))
        await desk.serve()

    desk = told(story, batch=3)
    assert not backlogs[0].meanwhile()
    assert [sequence(desk, metric) for metric in METRICS[:5]] == [[f"{metric}-95"] for metric in METRICS[:5]]


def test_batch_that_means_what_is_being_committed_waits_for_its_turn() -> None:
    backlogs = []

    async def story(desk: Desk) -> None:
        ups_and_downs = [(f"{number}", "m0", 95.0 if number % 2 == 0 else 10.0) for number in range(8)]
        backlogs.append(Backlog(desk, *ups_and_downs))
        await desk.serve()

    desk = told(story, batch=2)
    assert not backlogs[0].meanwhile()
    assert sequence(desk, "m0") == [f"{number}" for number in range(8)]


@pytest.mark.parametrize("applied", [False, True], ids=["before it was applied", "its answer was lost"])
def test_what_was_decided_ahead_of_a_commit_that_failed_is_decided_again_in_its_turn(applied: bool) -> None:
    async def story(desk: Desk) -> None:
        backlog = Backlog(desk, *crossing(*METRICS), *crossing(*METRICS, of=10.0))
        failed: list[str] = []

        async def fails_twice(batch: Batch) -> tuple[int, ...]:
            if len(failed) < 2 and any(row.key.id == "m2-95" for row in batch.inbox):
                failed.append("m2-95")
                if applied:
                    await desk_commit(batch)
                raise Unavailable("PostgreSQL", "it was killed")
            return await desk_commit(batch)

        desk_commit, backlog.committing = backlog.committing, fails_twice
        await desk.serve()
        assert failed

    desk = told(story, batch=2)
    assert [sequence(desk, metric) for metric in METRICS] == [[f"{metric}-95", f"{metric}-10"] for metric in METRICS]
    assert len(desk.broker.log) == 2 * len(METRICS)


@pytest.mark.parametrize("guilty", ["m1-95", "m2-95", "m5-95"])
def test_event_whose_fault_it_is_is_buried_alone_wherever_it_was_decided(guilty: str) -> None:
    lives = []

    async def story(desk: Desk) -> None:
        acquire = desk.store.acquire

        async def counted(shard: int, owner: str, lease: timedelta) -> Ownership | None:
            lives.append(owner)
            return await acquire(shard, owner, lease)

        desk.store.acquire = counted  # type: ignore[method-assign]
        Backlog(desk, *crossing(*METRICS))
        alert = MACHINES["alert"]

        def address(event: Event) -> InstanceId | None:
            if event.id == guilty:
                raise KeyError("no such part")
            return alert.address(event)

        machines = {**MACHINES, "alert": replace(alert, address=address)}
        desk.definitions = Definitions(machines, {"metrics": WIDE})
        await desk.serve()

    desk = told(story, batch=2)
    assert [letter.event_id for letter in desk.store.tables.dead] == [guilty]
    assert len(lives) == 1, "its owner went on"
    others = [metric for metric in METRICS if not guilty.startswith(metric)]
    assert [sequence(desk, metric) for metric in others] == [[f"{metric}-95"] for metric in others]


def test_batch_that_the_store_refuses_is_taken_apart_and_the_next_one_keeps_its_turn() -> None:
    backlogs = []

    async def story(desk: Desk) -> None:
        backlog = Backlog(desk, *crossing("m0", "m1"), *crossing("m2", "m0", of=10.0))
        backlogs.append(backlog)
        committing = backlog.committing

        async def refuses(batch: Batch) -> tuple[int, ...]:
            if any(row.key.id == "m1-95" for row in batch.inbox) and not batch.dead:
                raise Poison("a value cannot be stored")
            return await committing(batch)

        backlog.committing = refuses
        await desk.serve()

    desk = told(story, batch=2)
    assert [letter.event_id for letter in desk.store.tables.dead] == ["m1-95"]
    assert sequence(desk, "m0") == ["m0-95", "m0-10"]
    assert desk.outcomes("m2-10") == {"alert/metrics/m2": "absorbed"}


def test_decision_made_ahead_ends_with_any_other_commit_before_its_turn() -> None:
    """The commit goes through, what follows it fails; the retry takes a signal in, which means what was decided."""

    async def story(desk: Desk) -> None:
        backlog = Backlog(desk, *crossing("m0", "m1"), *crossing("m3", of=10.0), *crossing("m4"))
        next_timer, failed = desk.store.next_timer, list[str]()

        async def fails_once(shard: int) -> datetime | None:
            if not failed and desk.outcomes("m1-95"):
                failed.append("next_timer")
                await desk.store.signal([measured("signal", metric="m3")])
                raise Unavailable("PostgreSQL", "its session was ended")
            return await next_timer(shard)

        desk.store.next_timer = fails_once  # type: ignore[method-assign]
        await desk.serve()
        assert failed
        assert backlog.meanwhile() == ["read m3-10,m4-95"]

    desk = told(story, batch=2)
    assert sequence(desk, "m3") == ["signal", "m3-10"]
    assert desk.outcomes("m3-10") == {"alert/metrics/m3": "applied"}


def test_signal_that_came_during_the_commit_is_taken_in_before_what_was_decided_ahead() -> None:
    async def story(desk: Desk) -> None:
        backlog = Backlog(desk, *crossing("m0", "m1"), *crossing("m3", of=10.0), *crossing("m4"))
        committing = backlog.committing

        async def signalled(batch: Batch) -> tuple[int, ...]:
            if any(row.key.id == "m1-95" for row in batch.inbox):
                await desk.store.signal([measured("signal", metric="m3")])
            return await committing(batch)

        backlog.committing = signalled
        await desk.serve()
        assert backlog.meanwhile() == ["read m3-10,m4-95"]

    desk = told(story, batch=2)
    assert sequence(desk, "m3") == ["signal", "m3-10"]
    # What arrived is decided anew at a later time than the signal's: no row of a log is older than the one before.
    rows = [desk.store.tables.log[key] for key in sorted(desk.store.tables.log) if key[0] == "alert/metrics/m3"]
    assert rows[0].at <= rows[1].at


def test_due_time_that_came_during_the_commit_is_settled_in_the_next_turn() -> None:
    passed: list[tuple[str, ...]] = []

    async def story(desk: Desk) -> None:
        backlog = Backlog(desk, *crossing("m7"))
        committing, due = backlog.committing, desk.clock.now() + timedelta(seconds=2)
        timer = TimerRow(InstanceId("alert/metrics/m7"), 1, "dwell", due)
        desk.store.tables.timers[timer.instance, timer.kind] = (0, timer)

        async def slow(batch: Batch) -> tuple[int, ...]:
            if any(row.key.id == "m1-95" for row in batch.inbox):
                await asyncio.sleep(2)
            if batch.timers_fired:
                passed.append(tuple(row.key.id for row in batch.inbox))
            return await committing(batch)

        backlog.committing = slow
        await desk.serve(before=lambda: backlog.put(*crossing(*METRICS[:6])))
        assert backlog.meanwhile() == ["read m2-95,m3-95"]

    told(story, batch=2)
    assert passed == [("m2-95", "m3-95", "m4-95", "m5-95")], "behind all that had arrived"


def test_measurement_that_kills_its_owner_is_not_decided_ahead_when_it_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decided beside a batch of fresh events it would never be tried alone, and would kill every owner after."""
    deaths, owners, real = [], list[asyncio.Task[None]](), deciding.settle

    class Died(BaseException):
        pass

    def settle(work: Work, arrived: Arrived, *rest: Any) -> str:
        if arrived.key.id == "deadly":
            deaths.append(arrived.key.id)
            owners[-1].cancel()
            raise Died
        return real(work, arrived, *rest)

    monkeypatch.setattr(deciding, "settle", settle)

    async def story(desk: Desk) -> None:
        Backlog(desk, ("deadly", "m0", 95.0), ("harmless", "m1", 95.0))
        for life in range(10):
            for number in range(2):
                body = {
                    "specversion": "1.0", "id": f"fresh{life}.{number}", "source": "probe", "subject": "metrics",
                    "type": "relight.restart.cancelled", "data": {"reason": "never mind"},
                }  # fmt: skip
                desk.broker.put("metrics.restart.cancelled", json.dumps(body).encode(), user="ana")
            owner = Owner(
                0, "owner", desk.store, desk.broker, lambda: desk.definitions, desk.clock, lease=LEASE, batch=2
            )
            owners.append(asyncio.create_task(owner.run()))
            await asyncio.wait(owners[-1:], timeout=10)
            owners[-1].cancel()
            await asyncio.wait(owners[-1:])

    desk = told(story, batch=2)
    assert [letter.event_id for letter in desk.store.tables.dead] == ["deadly"]
    assert len(deaths) <= 1 + ATTEMPTS
    assert desk.outcomes("harmless") == {"alert/metrics/m1": "applied"}


def test_lanes_that_give_less_than_they_counted_leave_nothing_acknowledged_and_unsettled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No lanes of ours do; but a decision about nothing, kept for what comes next, would acknowledge it unsettled."""
    monkeypatch.setattr(MemoryLanes, "waiting", lambda _: 1000)

    async def story(desk: Desk) -> None:
        backlog = Backlog(desk, *crossing("m0", "m1"))
        committing = backlog.committing

        async def brings_more(batch: Batch) -> tuple[int, ...]:
            if any(row.key.id == "m1-95" for row in batch.inbox):
                desk.put("m2-95", data={"metric": "m2", "value": 95.0})
            return await committing(batch)

        backlog.committing = brings_more
        await desk.serve()

    desk = told(story, batch=2)
    assert desk.outcomes("m2-95") == {"alert/metrics/m2": "applied"}
