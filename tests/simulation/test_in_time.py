"""Who answered in time is not called silent because nobody looked: due times pass behind all that has arrived."""

import asyncio
import json
from datetime import timedelta

import pytest

from machines.model import InstanceId, PlannedStep, Snapshot, StepStatus
from machines.registry import MACHINES
from service.engine import intake
from service.engine.owner import Owner
from service.errors import Unavailable
from service.ports import Batch, StepKey, StepRow, TimerRow
from tests.simulation.backlog import METRICS, Backlog, crossing
from tests.simulation.desk import LEASE, Desk, told

LIFECYCLE = InstanceId("lifecycle/metrics")
KEY = StepKey(LIFECYCLE, 2, "flush:calculator")


class Waiting:
    """A restart that waits for the calculator's answer until `due`, two seconds from now."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.due = desk.clock.now() + timedelta(seconds=2)
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
        body = {
            "specversion": "1.0", "id": identity, "source": "probe", "type": "relight.participant.answered",
            "subject": "metrics",
            "data": {"component": "calculator", "commandid": command, "token": 1, "outcome": outcome},
        }  # fmt: skip
        self._desk.broker.put("metrics.participant.answered", json.dumps(body).encode(), user="metrics.calculator")

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
        monkeypatch.setattr(intake, "LISTEN", 0.0)
        await desk.serve()
        assert waiting.answered == "done"

    desk = told(story, batch=10)
    assert desk.outcomes("answer") == {"lifecycle/metrics": "absorbed"}


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
