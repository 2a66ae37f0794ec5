"""What one event may cost: the guilty one ends as a dead letter, its neighbours and the database's moods never pay."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from machines.model import Event, InstanceId, StepStatus
from machines.registry import MACHINES
from service.adapters.memory.world import MemoryWorld
from service.engine.definitions import Definitions
from service.engine.intake import ATTEMPTS
from service.engine.runner import Runner
from service.errors import LostLease, Poison, RelightError, Retry, Transient, Unavailable
from service.ports import Batch, EventKey, StepRow
from service.simulation.replica import registration
from service.simulation.virtual import SeededIds
from tests.simulation.desk import LEASE, Desk, measured, told
from tests.simulation.story import SYSTEM


def failing_at(identity: str) -> Definitions:
    """Definitions whose alerts fail at saying whom this event means."""
    alert = MACHINES["alert"]

    def address(event: Event) -> InstanceId | None:
        if event.id == identity:
            raise KeyError("no such part")
        return alert.address(event)

    return Definitions({**MACHINES, "alert": replace(alert, address=address)}, {"metrics": SYSTEM})


def test_event_at_which_a_machine_fails_to_say_whom_it_means_is_buried_alone() -> None:
    async def story(desk: Desk) -> None:
        desk.definitions = failing_at("guilty")
        for identity in ("before", "guilty", "behind"):
            desk.put(identity)
        await desk.serve()

    desk = told(story)
    assert [letter.event_id for letter in desk.store.tables.dead] == ["guilty"]
    assert desk.outcomes("guilty") == {"-": "dead"}
    assert [list(desk.outcomes(name)) for name in ("before", "behind")] == [["alert/metrics/memory"]] * 2


def fatal(desk: Desk, guilty: int) -> list[tuple[int, ...]]:
    """Whoever commits the outcome of this signal has its end there, as by a kill; the batches that it happened to."""
    real, kills = desk.store.commit, []

    async def commit(batch: Batch) -> tuple[int, ...]:
        if guilty in batch.signals_done and not batch.dead:
            kills.append(batch.signals_done)
            raise LostLease("killed")
        return await real(batch)

    desk.store.commit = commit  # type: ignore[method-assign]  # the death of a process, seen from outside
    return kills


def test_signal_that_kills_every_owner_is_buried_and_its_neighbours_are_applied() -> None:
    async def story(desk: Desk) -> None:
        await desk.store.signal([measured(name) for name in ("before", "guilty", "after")])
        pending, _ = await desk.store.pending(0, desk.clock.now(), 10)
        kills = fatal(desk, pending[1].id)
        await desk.serve(before=lambda: desk.put("event", 50.0))
        assert kills == [(pending[1].id,)] * 3, "each try was one of its own"

    desk = told(story)
    (letter,) = desk.store.tables.dead
    assert (letter.queue, letter.event_id, letter.user, letter.attempts) == ("signals", "guilty", "ana", 3)
    assert letter.reasons == ("tried alone 3 times without an end",)
    assert desk.outcomes("guilty") == {"-": "dead"}
    assert [list(desk.outcomes(name)) for name in ("before", "after", "event")] == [["alert/metrics/memory"]] * 3
    assert not desk.store.tables.signals


def test_signal_that_kills_the_owner_of_a_batch_costs_one_kill_more() -> None:
    async def story(desk: Desk) -> None:
        def put() -> None:
            task = asyncio.get_running_loop().create_task(desk.store.signal([measured("guilty"), measured("after")]))
            tasks.append(task)

        tasks: list[asyncio.Task[None]] = []
        kills = fatal(desk, 1)
        await desk.serve(before=put)
        assert kills == [(1, 2), (1,), (1,), (1,)]

    desk = told(story)
    assert [letter.event_id for letter in desk.store.tables.dead] == ["guilty"]
    assert list(desk.outcomes("after")) == ["alert/metrics/memory"]


def test_only_what_waited_at_the_take_over_is_tried_alone_and_an_outage_is_no_attempt() -> None:
    async def story(desk: Desk) -> None:
        await desk.store.signal([measured("waited")])
        for _ in range(10):
            desk.store.fail_next("commit", Unavailable("PostgreSQL", "restarting"))
        later: list[asyncio.Task[None]] = []
        put = desk.store.signal([measured("later")])
        await desk.serve(before=lambda: later.append(asyncio.get_running_loop().create_task(put)))

    desk = told(story)
    assert list(desk.store.tables.attempts.items()) == [(EventKey("relight.signals", "1"), 1)]
    assert [list(desk.outcomes(name)) for name in ("waited", "later")] == [["alert/metrics/memory"]] * 2
    assert not desk.store.tables.dead


@pytest.mark.parametrize("error", [Transient("deadlock"), Unavailable("PostgreSQL", "restarting")])
def test_redelivered_event_does_not_pay_for_a_database_that_comes_and_goes(error: RelightError) -> None:
    async def story(desk: Desk) -> None:
        def put() -> None:
            for _ in range(10):
                desk.store.fail_next("commit", error)
            desk.put("one")
            desk.broker.cut()

        # The cut comes after the delivery: it is redelivered, and so tried alone.
        desk.put("zero", 1.0)
        desk.store.fail_next("prepare", Unavailable("PostgreSQL", "away"))
        await desk.serve(before=put)

    desk = told(story)
    assert desk.outcomes("one") == {"alert/metrics/memory": "applied"}
    assert not desk.store.tables.dead


@pytest.mark.parametrize("lost", [False, True], ids=["the commit behind it fails", "the answer of its burial is lost"])
def test_event_that_was_buried_is_not_buried_again_when_its_portion_is_tried_again(lost: bool) -> None:
    async def story(desk: Desk) -> None:
        for identity in ("killer", "neighbour"):
            desk.put(identity)
        async with desk.broker.lanes(0) as lanes:
            await lanes.wait(1)
            assert len(lanes.take(9)) == 2
        desk.store.tables.attempts[EventKey("probe", "killer")] = ATTEMPTS
        real, failed = desk.store.commit, list[str]()

        async def commit(batch: Batch) -> tuple[int, ...]:
            about = "killer" if lost else "neighbour"
            fails = not failed and any(row.key.id == about for row in batch.inbox)
            ids = await real(batch) if lost or not fails else ()
            if fails:
                failed.append(about)
                raise Unavailable("PostgreSQL", "its session was ended")
            return ids

        desk.store.commit = commit  # type: ignore[method-assign]
        await desk.serve()
        assert failed

    desk = told(story)
    assert [letter.event_id for letter in desk.store.tables.dead] == ["killer"]
    assert list(desk.outcomes("neighbour")) == ["alert/metrics/memory"]


def test_event_that_the_database_cannot_even_be_asked_about_is_buried_and_the_next_is_applied() -> None:
    async def story(desk: Desk) -> None:
        for _ in range(9):
            desk.store.fail_next("prepare", Poison("invalid byte sequence"))
        desk.put("guilty")
        await desk.serve(before=lambda: desk.put("next"))

    desk = told(story)
    assert len(desk.store.tables.dead) == 1
    assert desk.outcomes("next") == {"alert/metrics/memory": "applied"}


def test_event_that_cannot_be_buried_as_it_is_is_buried_by_its_hash() -> None:
    async def story(desk: Desk) -> None:
        for _ in range(5):
            desk.store.fail_next("commit", Poison("no column takes this"))
        desk.put("guilty")
        await desk.serve(before=lambda: desk.put("next"))

    desk = told(story)
    assert [letter.event_id for letter in desk.store.tables.dead] == [None]
    assert desk.outcomes("next") == {"alert/metrics/memory": "applied"}


@pytest.mark.parametrize(
    "changes",
    [{"id": "a\0b"}, {"source": "a\0b"}, {"data": {"metric": "memory", "value": 1.0, "note": "a\0b"}},
     {"subject": "metrics\0"}, {"id": "x" * 5000}],
)  # fmt: skip
def test_names_that_no_table_keeps_are_refused_at_the_border(changes: dict[str, Any]) -> None:
    async def story(desk: Desk) -> None:
        desk.put("bad", **changes)
        desk.put("good")
        await desk.serve()

    desk = told(story)
    (letter,) = desk.store.tables.dead
    assert letter.attempts == 1
    assert "\0" not in f"{letter.source}{letter.event_id}{letter.reasons}"
    assert len(letter.event_id or "") <= 300
    assert desk.outcomes("good") == {"alert/metrics/memory": "applied"}


def test_routing_key_that_no_table_keeps_is_kept_readable() -> None:
    async def story(desk: Desk) -> None:
        desk.put("bad", key="metrics.metric.obs\0erved")
        desk.put("good")
        await desk.serve()

    desk = told(story)
    (letter,) = desk.store.tables.dead
    assert letter.routing_key == "metrics.metric.obs�erved"
    assert desk.outcomes("good") == {"alert/metrics/memory": "applied"}


def test_words_of_a_failed_step_that_no_table_keeps_do_not_end_the_worker() -> None:
    class Broken:
        name = "component.observe"
        twice_is_safe = True

        def plan(self, *_: Any) -> str:
            return ""

        async def perform(self, _: Any) -> Any:
            raise Retry("its log ends: \0\0\0")

        async def probe(self, _: Any) -> None:
            return None

    async def story(desk: Desk) -> None:
        async def finish(row: StepRow, status: StepStatus, *more: Any) -> None:
            if "\0" in (more[1] or ""):
                raise Poison("invalid byte sequence")
            await real(row, status, *more)

        real = desk.store.finish
        desk.store.finish = finish  # type: ignore[method-assign, assignment]  # what a real database says to a NUL
        await desk.store.keep_configurations({SYSTEM.config_hash(): SYSTEM.canonical()})
        await desk.store.signal([registration("metrics", "registered", desk.definitions)])
        runner = Runner(
            desk.store, {"component.observe": Broken()}, MemoryWorld(desk.clock).world(), lambda: desk.definitions,
            desk.clock, SeededIds(1), name="worker", places=("local",), lease=LEASE,
        )  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(runner.run())
            await desk.serve(120)
            assert not task.done()
            task.cancel()

    desk = told(story)
    failed = [row for row in desk.store.tables.steps.values() if row.status is StepStatus.FAILED]
    assert failed
    assert "its log ends" in (failed[0].error or "")
    assert desk.store.tables.instances[failed[0].key.instance].state == "degraded"
