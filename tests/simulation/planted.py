"""Bugs as an engineer might write them, each planted into the real engine or its doubles by one small function.

None of them is in the code. A function takes the test's `monkeypatch` and changes one thing; which finding the outside
checker must make of it stands in `PLANTED`. What makes such a bug show is in `conditions.py`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from machines.model import Event, Move, On, Reason, Snapshot, StepStatus
from schemas.events import TimerFired
from service.adapters.memory.gates import Gates
from service.adapters.memory.tables import Tables
from service.adapters.memory.worker import WorkerSide
from service.engine import decide, gate, records, settle
from service.engine import work as work_module
from service.engine.decide import Outcome
from service.engine.intake import Intake
from service.engine.outbox import Outbox
from service.engine.performing import Performer
from service.engine.work import Live, Work
from service.ports import (
    Batch,
    Delivery,
    EventKey,
    GateChange,
    OutboxRow,
    OutMessage,
    SnapshotWrite,
    StepRow,
)  # fmt: skip
from tests.faults.checker import Fault

Plant = Callable[[pytest.MonkeyPatch], None]


# --- intake and the transaction


def ack_before_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is told that an event is settled before it is: a death in between loses it."""
    real = Intake._take_in

    async def take_in(self: Intake, deliveries: Sequence[Delivery], *more: Any, **others: Any) -> None:
        if deliveries:
            await self._lanes.ack(deliveries)
        await real(self, deliveries, *more, **others)

    monkeypatch.setattr(Intake, "_take_in", take_in)


def publish_outside_of_the_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a batch says goes out before the batch is committed: what is decided again after a death is told
    in other words under the same id."""
    real = Intake._write

    async def write(self: Intake, work: Work, *more: Any, **others: Any) -> None:
        await self._outbox._publisher.publish(work.batch(0, self._ownership.token, ()).outbox)
        await real(self, work, *more, **others)

    monkeypatch.setattr(Intake, "_write", write)


def inbox_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody remembers that an event was taken in: delivered again it has its effect again."""
    monkeypatch.setattr(Work, "settle_event", lambda *_: None)


def outcome_of_one_instance_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that means two instances is remembered with what the first of them made of it."""
    real = Work.settle_event

    def settle_event(self: Work, key: EventKey, body_hash: bytes, outcomes: dict[str, str]) -> None:
        real(self, key, body_hash, dict(list(outcomes.items())[:1]))

    monkeypatch.setattr(Work, "settle_event", settle_event)


def wrong_outcome_in_the_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is remembered as if the event had been absorbed."""
    real = Work.settle_event

    def settle_event(self: Work, key: EventKey, body_hash: bytes, outcomes: dict[str, str]) -> None:
        real(self, key, body_hash, {i: "absorbed" if o == "refused" else o for i, o in outcomes.items()})

    monkeypatch.setattr(Work, "settle_event", settle_event)


def refusal_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is refused is told nothing, and no log says so."""

    def refuse(*_: Any) -> Outcome:
        return Outcome.REFUSED

    monkeypatch.setattr(decide, "refuse", refuse)
    monkeypatch.setattr(settle, "refuse", refuse)


# --- the log and the snapshot


def _log_row(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Snapshot, Snapshot], tuple[Snapshot, Snapshot]]) -> None:
    """The next row is made of what `spoil` makes of the snapshots before and after it, in the fifth row of each log."""
    real = records.log_row

    def log_row(kind: str, before: Snapshot, after: Snapshot, event: Event, extra: Any) -> Any:
        return real(kind, *(spoil(before, after) if after.seq == 5 else (before, after)), event, extra)

    monkeypatch.setattr(work_module, "log_row", log_row)


def gap_in_seq(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is left out, as a sequence of the database does after a rollback."""
    _log_row(monkeypatch, lambda before, after: (before, replace(after, seq=6)))


def row_that_begins_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is written from the state that was read before the batch, and not from the one before it."""
    _log_row(monkeypatch, lambda before, after: (replace(before, state="critical.falling"), after))


def hash_without_the_row_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is hashed by itself: nothing chains it to the one before."""
    real = records.chain
    monkeypatch.setattr(records, "chain", lambda _, record: real("", record))


def snapshot_not_updated_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored snapshot lacks what the newest rows changed in its data."""
    real = Work.batch

    def batch(self: Work, *arguments: Any) -> Batch:
        made = real(self, *arguments)
        stale = tuple(SnapshotWrite(replace(w.snapshot, data={}), w.expected_seq) for w in made.snapshots)
        return replace(made, snapshots=stale)

    monkeypatch.setattr(Work, "batch", batch)


def _shortcut(monkeypatch: pytest.MonkeyPatch, instead: Mapping[str, str]) -> None:
    """Who would enter the first enters the second at once."""
    real = decide._move

    def move(work: Work, live: Live, event: Event, verdict: Move) -> None:
        real(work, live, event, replace(verdict, target=instead.get(verdict.target, verdict.target)))

    monkeypatch.setattr(decide, "_move", move)


def edge_that_no_table_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine goes on to a state that the machine's table does not lead to from there."""
    _shortcut(monkeypatch, {"starting_up.restoring": "operational"})


# --- leases and tokens


def lease_token_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit no longer looks whether its owner still holds the shard."""
    monkeypatch.setattr(Tables, "hold", lambda *_: None)


def step_token_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may record whatever it knows of a step, whoever has claimed it since."""
    monkeypatch.setattr(WorkerSide, "_mine", lambda self, row: self.tables.steps[row.key])


def claim_that_is_not_exclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers are handed the same step: the claim of the first is not looked at."""
    real = WorkerSide._is_free

    def is_free(self: WorkerSide, row: StepRow, now: datetime) -> bool:
        return real(self, row, now) or row.status is StepStatus.RUNNING

    monkeypatch.setattr(WorkerSide, "_is_free", is_free)


# --- the outbox


def outbox_row_deleted_before_its_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows count as sent as soon as they are written: a death before the broker has them loses what they say."""
    real = Outbox.offer

    def offer(self: Outbox, ids: Sequence[int], messages: Sequence[OutMessage]) -> None:
        real(self, ids, messages)
        self._sent.extend(ids)

    monkeypatch.setattr(Outbox, "offer", offer)


def outbox_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in the outbox is sent newest first."""
    real = Outbox._window

    def window(self: Outbox) -> tuple[list[OutboxRow], bool]:
        self._rows = deque(sorted(self._rows, key=lambda row: -row.id))
        return real(self)

    monkeypatch.setattr(Outbox, "_window", window)


# --- timers and steps


def timer_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The due time of a state's dwell is in its snapshot, and nobody is woken for it."""
    real = Work.timer

    def timer(self: Work, live: Live, kind: str, *rest: Any) -> None:
        if kind != "dwell":
            real(self, live, kind, *rest)

    monkeypatch.setattr(Work, "timer", timer)


def timer_that_fires_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A due time is decided twice in one batch, whatever its state has become in between."""
    real, real_fired = Intake._inside, decide._timer_fired

    async def inside(self: Intake, *given: Any) -> Any:
        signals, timers = await real(self, *given)
        return signals, [twice for one in timers for twice in (one, one)]

    def fired(work: Work, live: Live, event: Event, timer: Any) -> Outcome:
        dwelt = timer.kind == "dwell" and live.snapshot.machine == "alert"
        return decide.trigger(work, live, event, On.COMPLETED) if dwelt else real_fired(work, live, event, timer)

    monkeypatch.setattr(Intake, "_inside", inside)
    monkeypatch.setitem(decide.CARRIED_OUT, TimerFired, fired)


def step_performed_again_without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a worker's death its step is simply performed again: nobody asks whether the effect happened."""
    real = Performer._once

    async def once(self: Performer, row: StepRow, *rest: Any) -> Any:
        return await real(self, replace(row, error=None), *rest)

    monkeypatch.setattr(Performer, "_once", once)


def steps_that_outlive_their_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving a state cancels nothing of what it had planned."""
    monkeypatch.setattr(Tables, "_leave", lambda *_: False)


# --- the lifecycle


def verification_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the start operations are released at once: nothing is checked."""
    # The machine's own last guard would still lead to degraded, so it has to be missing too.
    _shortcut(monkeypatch, {"starting_up.verifying": "starting_up.restoring", "degraded": "operational"})


def shutdown_without_a_verified_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The components are stopped when the lead time is over: nothing is flushed, sealed or read back."""
    _shortcut(monkeypatch, {"preparing_for_restart.preserving": "shutting_down"})


# --- the gate


def _gate_change(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any, Gates], Any]) -> None:
    real = Gates.change

    def change(self: Gates, one: GateChange, now: datetime) -> tuple[OutMessage, ...]:
        messages: tuple[OutMessage, ...] = spoil(real(self, one, now), self)
        return messages

    monkeypatch.setattr(Gates, "change", change)


def operations_released_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gate held leaves it newest first."""
    _gate_change(monkeypatch, lambda messages, _: tuple(reversed(messages)))


def operations_released_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of what a release let go stays among the held ones, and goes again whenever the gate is written."""
    gone: dict[Gates, tuple[OutMessage, ...]] = {}

    def keep(messages: tuple[OutMessage, ...], gates: Gates) -> tuple[OutMessage, ...]:
        again = gone.get(gates, ())
        gone[gates] = again or messages[:1]
        return (*again, *messages)

    _gate_change(monkeypatch, keep)


def held_operation_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest of what the gate held is deleted with its release and never sent."""
    _gate_change(monkeypatch, lambda messages, _: messages[:-1])


def expired_operation_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation whose time in the gate is over goes without a word."""
    real = gate.overdue

    def overdue(work: Work, live: Live) -> Iterator[tuple[Event, Reason]]:
        list(real(work, live))
        return iter(())

    monkeypatch.setattr(gate, "overdue", overdue)


PLANTED: dict[Plant, frozenset[Fault]] = {
    ack_before_commit: frozenset({Fault.LOST_EVENT}),
    # An owner that takes over holds what was told and never written for a loss, and says so; the operation left twice.
    publish_outside_of_the_transaction: frozenset(
        {Fault.ALTERED_NOTIFICATION, Fault.INVENTED_NOTIFICATION, Fault.DOUBLED_OPERATION}
    ),
    inbox_not_written: frozenset({Fault.DOUBLED_LOG_ROW}),
    outcome_of_one_instance_only: frozenset({Fault.WRONG_OUTCOME}),
    wrong_outcome_in_the_inbox: frozenset({Fault.LOG_ROW_WITHOUT_OUTCOME}),
    refusal_dropped: frozenset({Fault.OUTCOME_WITHOUT_LOG_ROW}),
    gap_in_seq: frozenset({Fault.GAP_IN_SEQ}),
    row_that_begins_elsewhere: frozenset({Fault.BROKEN_EDGE}),
    hash_without_the_row_before: frozenset({Fault.BROKEN_HASH}),
    snapshot_not_updated_with_the_log: frozenset({Fault.WRONG_FOLD}),
    edge_that_no_table_has: frozenset({Fault.UNKNOWN_EDGE}),
    lease_token_not_checked: frozenset({Fault.OLD_TOKEN}),
    step_token_not_checked: frozenset({Fault.OLD_TOKEN}),
    claim_that_is_not_exclusive: frozenset({Fault.DOUBLED_EFFECT}),
    outbox_row_deleted_before_its_confirm: frozenset({Fault.MISSING_NOTIFICATION}),
    outbox_in_another_order: frozenset({Fault.SWAPPED_NOTIFICATIONS}),
    timer_that_is_lost: frozenset({Fault.STUCK}),
    timer_that_fires_twice: frozenset({Fault.DOUBLED_LOG_ROW}),
    step_performed_again_without_a_look: frozenset({Fault.DOUBLED_EFFECT}),
    steps_that_outlive_their_state: frozenset({Fault.ABANDONED_STEP}),
    verification_skipped: frozenset({Fault.UNVERIFIED_OPERATIONAL}),
    shutdown_without_a_verified_snapshot: frozenset({Fault.UNVERIFIED_SHUTDOWN}),
    operations_released_out_of_order: frozenset({Fault.SWAPPED_OPERATIONS}),
    operations_released_again: frozenset({Fault.DOUBLED_OPERATION}),
    held_operation_forgotten: frozenset({Fault.LOST_OPERATION}),
    expired_operation_dropped: frozenset({Fault.OUTCOME_WITHOUT_LOG_ROW}),
}
"""Each bug, and the findings of which one must be made; others may come with them."""
