"""Stories of one batch at the gate: what passes, what is held, what is refused, and what the batch then writes."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from machines.model import Event, Snapshot, StepStatus
from machines.plan import plan
from machines.registry import MACHINES
from schemas.events import Lane, StepReported, TimerFired
from schemas.system import System
from service.engine.decide import Outcome, decide
from service.engine.definitions import Definitions
from service.engine.gate import OPERATIONS_EXCHANGE, concerned
from service.engine.reading import from_delivery, meant
from service.engine.settle import settle
from service.engine.work import Work
from service.ports import (
    GATE_TIMER,
    Batch,
    Delivery,
    EventKey,
    GateRow,
    HeldRow,
    Loaded,
    OutMessage,
    Prepared,
    StepKey,
    StepRow,
    Token,
)
from tests.unit.test_decide import LIFECYCLE, metrics_system

NOW = datetime(2026, 3, 1, 2, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
GATE = {"holds": 3, "expires": "15m", "from": ["shop"]}


class Door:
    """One batch for one system that stands in `state`, with what its gate holds already."""

    def __init__(self, state: str, row: GateRow | None = None, *steps: StepRow, **system: Any) -> None:
        self.system: System = metrics_system(**{"gate": GATE, **system})
        self.definitions = Definitions(MACHINES, {"metrics": self.system})
        snapshot = Snapshot(
            LIFECYCLE, "metrics", "lifecycle", 1, self.system.config_hash(), 1, 7, state, 4, NOW - MINUTE
        )
        gates = {"metrics": row or GateRow("metrics")} if self.definitions.gated("metrics") else {}
        prepared = Prepared({}, {LIFECYCLE: Loaded(snapshot, steps)}, gates=gates)
        self.work = Work(prepared, self.definitions, epoch=1, now=NOW)

    def bring(self, name: str, user: str | None = "shop", **data: Any) -> str:
        """An operation arrives; its outcome."""
        body = event(name, **data)
        return self.take(body, user)

    def take(self, body: bytes, user: str | None) -> str:
        """A body arrives; its outcome."""
        delivery = Delivery(Lane.METRICS, 1, 1, "q", "metrics.operation.requested", body, user, redelivered=False)
        arrived = from_delivery(delivery, self.definitions, NOW)
        (addressed,) = meant([arrived], self.definitions)
        return settle(self.work, arrived, addressed, {}, {})

    @property
    def batch(self) -> Batch:
        return self.work.batch(0, Token(1), ())

    def sent(self) -> list[str]:
        return [message.message_id for message in self.batch.outbox if message.exchange == OPERATIONS_EXCHANGE]

    def reasons(self) -> str:
        found = [json.loads(row.record).get("reasons", []) for row in self.batch.log if row.kind == "refusal"]
        return "; ".join(reason for reasons in found for reason in reasons)


def event(name: str, **data: Any) -> bytes:
    return (
        b' {"specversion":"1.0","id":"%s","source":"shop","type":"relight.operation.requested","subject":"metrics",'
        b'"data":%s}' % (name.encode(), json.dumps({"operation": "orders.submit", **data}).encode())
    )


def stored(name: str, expires_at: datetime, number: int = 1) -> HeldRow:
    body = event(name).decode().strip().replace("{", '{"heldat":"2026-03-01T02:00:00.000Z",', 1)
    message = OutMessage(OPERATIONS_EXCHANGE, "metrics.orders.submit", name, body)
    return HeldRow("metrics", EventKey("shop", name), "shop", False, message, NOW - MINUTE, expires_at, number)


@pytest.mark.parametrize(
    "state",
    ["operational", "degraded", "preparing_for_restart.awaiting_approval", "preparing_for_restart.notifying"],
)
def test_while_the_system_works_an_operation_passes_byte_for_byte(state: str) -> None:
    door = Door(state)
    assert door.bring("1", payload={"price": 1.10}) == Outcome.ABSORBED
    (message,) = door.batch.outbox
    assert (message.exchange, message.routing_key, message.message_id) == (
        OPERATIONS_EXCHANGE,
        "metrics.orders.submit",
        "1",
    )
    assert message.body == event("1", payload={"price": 1.10}).decode().strip()
    assert (door.batch.gates, door.batch.log, door.batch.timers) == ((), (), ())


@pytest.mark.parametrize(
    "state",
    [
        "unobserved", "preparing_for_restart.preserving", "preparing_for_restart.resuming", "shutting_down",
        "starting_up.initializing", "starting_up.verifying", "starting_up.restoring", "halted",
    ],
)  # fmt: skip
def test_while_it_does_not_an_operation_is_held_with_an_end_and_says_since_when(state: str) -> None:
    door = Door(state)
    assert door.bring("1") == Outcome.ABSORBED
    assert door.batch.outbox == ()
    (change,) = door.batch.gates
    (row,) = change.new
    assert (change.held, row.event, row.held_at, row.expires_at) == (1, EventKey("shop", "1"), NOW, NOW + 15 * MINUTE)
    assert json.loads(row.message.body) == {**json.loads(event("1")), "heldat": "2026-03-01T02:03:00.000Z"}
    assert row.message.body.endswith(event("1").decode().strip()[1:])
    (timer,) = door.batch.timers
    assert (timer.kind, timer.entry, timer.due_at) == (GATE_TIMER, -1, NOW + 15 * MINUTE)


def test_its_own_end_counts_when_it_is_the_earlier_one() -> None:
    door = Door("halted")
    door.bring("1", expires=(NOW + MINUTE).isoformat())
    door.bring("2", expires=(NOW + 60 * MINUTE).isoformat())
    (change,) = door.batch.gates
    assert [row.expires_at - NOW for row in change.new] == [MINUTE, 15 * MINUTE]
    assert door.batch.timers[0].due_at == NOW + MINUTE
    assert door.bring("3", expires=(NOW - MINUTE).isoformat()) == Outcome.REFUSED
    assert "void when it arrived" in door.reasons()


def test_more_than_the_gate_may_hold_is_refused_and_says_when_to_come_again() -> None:
    door = Door("shutting_down", GateRow("metrics", waiting=2, held=2, expiring=NOW + MINUTE))
    assert [door.bring(name) for name in ("1", "2", "3")] == [Outcome.ABSORBED, Outcome.REFUSED, Outcome.REFUSED]
    assert "its gate holds 3 operations" in door.reasons()
    assert "send it again" in door.reasons()
    assert len(door.batch.gates[0].new) == 1


def test_without_a_gate_nothing_is_taken_in_and_the_refusal_says_how_to_turn_it_on() -> None:
    door = Door("operational", gate=None)
    assert door.bring("1") == Outcome.REFUSED
    assert "`gate: {}` in the system's file" in door.reasons()
    assert (door.sent(), door.batch.gates) == ([], ())


@pytest.mark.parametrize(("user", "why"), [("eve", "gate.from names shop"), (None, "no verified user")])
def test_who_is_not_named_passes_nothing(user: str | None, why: str) -> None:
    door = Door("operational")
    assert door.bring("1", user) == Outcome.REFUSED
    assert why in door.reasons()
    assert door.sent() == []


def test_operation_that_claims_to_have_been_held_is_refused() -> None:
    door = Door("operational")
    body = event("1").replace(b'"id"', b'"\\u0068eldat":"2020-01-01T00:00:00Z","id"')
    assert door.take(body, "shop") == Outcome.REFUSED
    assert "heldat" in door.reasons()


def test_operation_never_overtakes_what_still_waits_although_the_system_works() -> None:
    door = Door("operational", GateRow("metrics", waiting=2, held=2, expiring=NOW + MINUTE))
    assert door.bring("3") == Outcome.ABSORBED
    (change,) = door.batch.gates
    assert (change.released, change.new, change.held) == (True, (), 0)
    assert door.sent() == ["3"]


def waiting_step(answer: dict[str, Any] | None = None) -> StepRow:
    system = metrics_system(gate=GATE)
    (planned,) = (
        replace(step, position=0)
        for step in _planned(system, "starting_up.restoring")
        if step.name == "release"
    )  # fmt: skip
    key = StepKey(LIFECYCLE, 4, "release")
    return StepRow(
        key,
        "metrics",
        "local",
        planned,
        StepStatus.WAITING,
        "starting_up.restoring",
        system.config_hash(),
        answer=answer,
    )


def _planned(system: System, state: str) -> Any:
    return plan(MACHINES["lifecycle"], state, system, {})


def reported(step: StepRow) -> StepReported:
    return StepReported(
        instance=LIFECYCLE, entry=4, state=step.state, step="release", attempt=1, outcome="waiting",
        until=NOW + MINUTE, whom="the owner of the shard",
    )  # fmt: skip


def tell(door: Door, name: str, data: Any) -> Outcome:
    return decide(door.work, LIFECYCLE, Event("e", "relight/test", name, "metrics", data, NOW))


def test_step_that_releases_is_answered_with_what_the_same_transaction_lets_go() -> None:
    step = waiting_step()
    late = stored("0", NOW)
    door = Door("starting_up.restoring", GateRow("metrics", 2, 4, NOW + MINUTE, (late,)), step)
    assert door.bring("3") == Outcome.ABSORBED
    assert tell(door, "step.reported", reported(step)) is Outcome.ABSORBED
    (change,) = door.batch.gates
    assert (change.released, change.expired, change.new, change.held) == (True, (late,), (), 0)
    assert door.sent() == ["3"]
    (answered,) = door.batch.step_changes
    assert answered.status is StepStatus.READY
    assert answered.answer == {"held": 5, "released": 3, "expired": 2}
    assert "it was not released" in door.reasons()


def test_expired_one_is_refused_by_its_own_name_and_the_gate_is_looked_at_again() -> None:
    late = stored("1", NOW)
    row = GateRow("metrics", waiting=1, held=2, expiring=NOW + MINUTE, overdue=(late,))
    door = Door("halted", row)
    assert tell(door, "timer.fired", TimerFired(instance=LIFECYCLE, entry=-1, kind=GATE_TIMER)) is Outcome.ABSORBED
    (log,) = door.batch.log
    assert (log.kind, log.event, log.user, log.at) == ("refusal", EventKey("shop", "1"), "shop", NOW)
    (message,) = door.batch.outbox
    assert message.routing_key == "metrics.lifecycle._refused"
    (change,) = door.batch.gates
    assert (change.expired, change.released, change.held) == ((late,), False, 2)
    assert door.batch.timers[0].due_at == NOW + MINUTE


def test_more_expired_ones_than_a_batch_tells_of_are_looked_at_at_once() -> None:
    door = Door("halted", GateRow("metrics", overdue=(stored("1", NOW),), more=True))
    tell(door, "timer.fired", TimerFired(instance=LIFECYCLE, entry=-1, kind=GATE_TIMER))
    assert door.batch.timers[0].due_at == NOW


def test_gate_of_a_file_that_has_lost_it_still_tells_what_expires() -> None:
    definitions = Definitions(MACHINES, {"metrics": metrics_system()})
    timer = Event(
        "t", "relight/timers", "timer.fired", "metrics", TimerFired(instance=LIFECYCLE, entry=-1, kind=GATE_TIMER), NOW
    )
    other = replace(timer, data=TimerFired(instance=LIFECYCLE, entry=3, kind="dwell"))
    assert concerned([timer], definitions) == ("metrics",)
    assert concerned([other], definitions) == ()
    definitions.add_configuration("old", metrics_system(gate=GATE))
    assert concerned([other], definitions) == ("metrics",)


def test_leaving_a_state_ends_its_own_timers_and_not_the_gates() -> None:
    door = Door("shutting_down")
    door.bring("1")
    live = door.work.live(LIFECYCLE, "metrics")
    door.work.timer(live, "deadline", NOW)
    door.work.leave(live, 4)
    assert [timer.kind for timer in door.batch.timers] == [GATE_TIMER]
