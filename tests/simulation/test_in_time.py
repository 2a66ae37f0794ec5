"""Who answered in time is not called silent because nobody looked: due times pass behind all that has arrived."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from machines.model import InstanceId, PlannedStep, Snapshot, StepStatus
from machines.registry import MACHINES
from service.adapters.memory.lanes import MemoryLanes
from service.engine import intake, listening
from service.engine.owner import Owner
from service.errors import Transient, Unavailable
from service.ports import Batch, NewSignal, StepKey, StepRow, TimerRow
from tests.simulation.backlog import METRICS, Backlog, crossing
from tests.simulation.desk import LEASE, Desk, measured, told

LIFECYCLE = InstanceId("lifecycle/metrics")
KEY = StepKey(LIFECYCLE, 2, "flush:calculator")


class Waiting:
    """A restart that waits for the calculator's answer until `due`, so many `seconds` from now."""

    def __init__(self, desk: Desk, seconds: float = 2) -> None:
        self._desk = desk
        self.due = desk.clock.now() + timedelta(seconds=seconds)
        version, current = MACHINES["lifecycle"].version, desk.definitions.current_hash("metrics")
        state, later = "preparing_for_restart.notifying", self.due + timedelta(hours=1)
        tables = desk.store.tables
        tables.instances[LIFECYCLE] = Snapshot(
            LIFECYCLE, "metrics", "lifecycle", version, current, 1, 1, state, 2, self.due, deadline_at=later
        )
        planned = PlannedStep(KEY.name, "participant.flush", 1, timedelta(seconds=60), 3, component="calculator")
        tables.steps[KEY] = StepRow(KEY, "metrics", "local", planned, StepStatus.WAITING, state, current, attempt=1)
        tables.timers[LIFECYCLE, f"step:{KEY.name}"] = (0, TimerRow(LIFECYCLE, 2, f"step:{KEY.name}", self.due))

    def answer(self, identity: str, outcome: str = "done", command: str = KEY.command_id) -> None:
        body = self.body(identity, outcome, command)
        self._desk.broker.put("metrics.participant.answered", body.encode(), user="metrics.calculator")

    @staticmethod
    def body(identity: str, outcome: str = "done", command: str = KEY.command_id) -> str:
        event = {
            "specversion": "1.0", "id": identity, "source": "probe", "type": "relight.participant.answered",
            "subject": "metrics",
            "data": {"component": "calculator", "commandid": command, "token": 1, "outcome": outcome},
        }  # fmt: skip
        return json.dumps(event)

    @property
    def answered(self) -> str | None:
        answer = self._desk.store.tables.steps[KEY].answer
        return str(answer["outcome"]) if answer is not None else None


def test_answer_is_not_decided_ahead_of_the_one_before_to_the_same_step() -> None:
    """An answer changes a step and moves nobody; the next one must see the step as it left it."""

    async def story(desk: Desk) -> None:
        backlog, waiting = Backlog(desk), Waiting(desk)
        waiting.answer("first")
        waiting.answer("contrary", "failed")
        await desk.serve(5)
        assert waiting.answered == "done"
        assert not backlog.meanwhile()

    desk = told(story, batch=1)
    assert desk.outcomes("contrary") == {"lifecycle/metrics": "refused"}


def test_answer_that_arrives_when_the_next_batch_was_taken_already_is_in_time() -> None:
    """The commit lasts beyond the due time; the answer came before it, behind a batch that was taken ahead."""

    async def story(desk: Desk) -> None:
        backlog, waiting = Backlog(desk), Waiting(desk)
        committing = backlog.committing

        async def slow(batch: Batch) -> tuple[int, ...]:
            if any(row.key.id == "m1-95" for row in batch.inbox):
                await asyncio.sleep(0.1)
                assert desk.clock.now() < waiting.due
                waiting.answer("answer")
                await asyncio.sleep(3)
            return await committing(batch)

        backlog.committing = slow
        await desk.serve(before=lambda: backlog.put(*crossing(*METRICS)))
        assert "read m2-95,m3-95" in backlog.meanwhile()
        assert waiting.answered == "done"

    desk = told(story, batch=2)
    assert desk.outcomes("answer") == {"lifecycle/metrics": "absorbed"}


def test_answer_that_arrives_while_the_database_is_away_is_in_time() -> None:
    """Nothing is looked at for two seconds; what arrived meanwhile goes before the times that have passed."""

    async def story(desk: Desk) -> None:
        backlog, waiting = Backlog(desk), Waiting(desk)
        committing = backlog.committing

        async def away(batch: Batch) -> tuple[int, ...]:
            if desk.clock.now() < waiting.due + timedelta(seconds=1):
                if not desk.broker.waiting("relight.intake.control.0") and not answered:
                    answered.append("answer")
                    waiting.answer("answer")
                raise Unavailable("PostgreSQL", "it was killed")
            return await committing(batch)

        answered: list[str] = []
        backlog.committing = away
        await desk.serve(before=lambda: backlog.put(*crossing(*METRICS)))
        assert waiting.answered == "done"

    desk = told(story, batch=2)
    assert desk.outcomes("answer") == {"lifecycle/metrics": "absorbed"}


def test_answer_among_many_that_are_tried_alone_is_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redelivered events are settled in portions; due times wait until none of them is left."""
    monkeypatch.setattr(intake, "ALONE", 1)

    async def story(desk: Desk) -> None:
        Backlog(desk)
        waiting = Waiting(desk)
        for number in range(2):
            waiting.answer(f"other{number}", command="of another restart")
        waiting.answer("answer")
        async with desk.broker.lanes(0) as lanes:
            await lanes.wait(1)
            assert len(lanes.take(10)) == 3
        await asyncio.sleep(3)
        monkeypatch.setattr(listening, "LISTEN", 0.0)
        await desk.serve()
        assert waiting.answered == "done"

    desk = told(story, batch=10)
    assert desk.outcomes("answer") == {"lifecycle/metrics": "absorbed"}


def test_answer_is_in_time_while_the_broker_takes_no_word_and_one_commit_had_to_be_tried_again() -> None:
    """What is unsent is in doubt then, and cannot be read again for long. That is no full outbox: people are heard."""

    async def story(desk: Desk) -> None:
        backlog, waiting = Backlog(desk), Waiting(desk, 20)
        committing, desk.broker.confirm_after = backlog.committing, 3600.0
        failed: list[Batch] = []

        async def once(batch: Batch) -> tuple[int, ...]:
            if not failed and any(row.key.id == "m2-95" for row in batch.inbox):
                failed.append(batch)
                raise Transient("could not serialize access")
            return await committing(batch)

        async def others() -> None:
            await asyncio.sleep(2)
            backlog.put(*crossing("m0"))
            await asyncio.sleep(2)
            backlog.put(*crossing("m2"))
            await asyncio.sleep(6)
            waiting.answer("answer")

        backlog.committing = once
        task = asyncio.create_task(others())
        await desk.serve(40)
        await task
        assert failed
        assert waiting.answered == "done"

    told(story, batch=5)


def test_answer_that_waits_for_lanes_that_open_late_is_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came while nobody decided; a new owner declares many queues before it consumes."""
    at_once = MemoryLanes.open

    def late(lanes: MemoryLanes) -> None:
        asyncio.get_running_loop().call_later(3 * listening.LISTEN, at_once, lanes)

    monkeypatch.setattr(MemoryLanes, "open", late)

    async def story(desk: Desk) -> None:
        waiting = Waiting(desk)
        waiting.answer("answer")
        await asyncio.sleep(5)
        await desk.serve(20)
        assert waiting.answered == "done"

    told(story)


def test_due_time_passes_after_a_while_without_a_broker() -> None:
    async def story(desk: Desk) -> None:
        Waiting(desk)
        await asyncio.sleep(5)
        desk.broker.away = True
        # A new owner looks for a loss first, and hands its lease back while nobody reaches RabbitMQ, each time later.
        await desk.serve(60)
        assert desk.store.tables.instances[LIFECYCLE].state == "preparing_for_restart.resuming"

    told(story)


@pytest.mark.parametrize("signals", [4, 5, 8])
def test_report_behind_a_batch_of_signals_is_in_time(signals: int) -> None:
    """Signals are read a batch at a time; a due time passes when none is left behind it."""

    async def story(desk: Desk) -> None:
        backlog, waiting = Backlog(desk), Waiting(desk)
        committing = backlog.committing
        said: list[NewSignal] = []

        async def slow(batch: Batch) -> tuple[int, ...]:
            if not said and batch.inbox:
                said.extend(measured(f"s{number}", metric=METRICS[number]) for number in range(signals))
                said.append(NewSignal("metrics", waiting.body("answer"), "ana", local=True))
                await desk.store.signal(said)
                assert desk.clock.now() < waiting.due
                await asyncio.sleep(3)
            return await committing(batch)

        backlog.committing = slow
        await desk.serve(20, before=lambda: backlog.put(("first", "m0", 95.0)))
        assert waiting.answered == "done"

    told(story, batch=5)


def test_many_due_times_at_a_take_over_are_waited_for_and_not_asked_for_again_and_again() -> None:
    reads = 0

    async def story(desk: Desk) -> None:
        nonlocal reads
        for number in range(5):
            timer = TimerRow(InstanceId(f"alert/metrics/m{number}"), 1, "dwell", desk.clock.now())
            desk.store.tables.timers[timer.instance, timer.kind] = (0, timer)
        pending = desk.store.pending

        async def counted(*asked: Any) -> Any:
            nonlocal reads
            reads += 1
            assert reads < 1000, "it asks without a pause"
            await asyncio.sleep(0.001)
            return await pending(*asked)

        desk.store.pending = counted  # type: ignore[method-assign]
        await desk.serve(5)

    told(story, batch=5)
    assert 0 < reads < 20


def test_due_time_that_cannot_be_written_is_told_like_everything_that_cannot() -> None:
    """A full disk takes nothing: whoever looks at the owner's health must hear it, though no event waits."""

    async def story(desk: Desk) -> None:
        backlog, waiting = Backlog(desk), Waiting(desk)

        async def full(batch: Batch) -> tuple[int, ...]:
            raise Unavailable("PostgreSQL", "no space left on device")

        backlog.committing = full
        owner = Owner(0, "owner", desk.store, desk.broker, lambda: desk.definitions, desk.clock, lease=LEASE, batch=2)
        task = asyncio.create_task(owner.run())
        await asyncio.sleep(1)
        assert owner.waits is None
        await asyncio.sleep(10)
        assert desk.clock.now() > waiting.due
        assert owner.waits is not None
        assert "no space left on device" in owner.waits
        task.cancel()
        await asyncio.wait([task])

    told(story)
