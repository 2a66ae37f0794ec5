"""What one event does to one instance: the machine's verdict, turned into log, steps, timers and notices. No I/O.

The machine decides (`machines/chart.py`); this file only carries out its verdict on the working set, and knows what
the engine's own events mean: a step's report, a timer, an answer, a person's act.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from machines.acts import answers, needs_a_person, when_silent
from machines.evidence import record
from machines.model import (
    ENDED,
    SETTLED,
    Absorbed,
    Event,
    Facts,
    InstanceId,
    Move,
    On,
    Reason,
    Refusal,
    Snapshot,
    StepStatus,
)
from machines.plan import plan, repeats, waits
from schemas.base import Json
from schemas.components import OnSilence
from schemas.events import (
    Act,
    ChecklistSigned,
    DatabaseLost,
    MetricObserved,
    OperatorActed,
    ParticipantAnswered,
    StepReported,
    TimerFired,
)
from service.engine import chains, gate, notices
from service.engine.noting import note
from service.engine.records import merged
from service.engine.rounds import AGAIN, plan_next
from service.engine.signing import sign
from service.engine.waiver_ends import ENDS, end, set_ends
from service.engine.waiving import first_status, no_waiver, none_such, waiver_of, with_waiver
from service.engine.work import Live, Work
from service.ports import GATE_TIMER, SILENT, StepChange, StepRow

OPEN = frozenset(StepStatus) - ENDED
"""Steps that somebody may still work on."""


class Outcome(StrEnum):
    """What became of an event at an instance."""

    APPLIED = "applied"
    ABSORBED = "absorbed"
    REFUSED = "refused"
    DEAD = "dead"


def decide(work: Work, instance: InstanceId, event: Event) -> Outcome:
    """Applies `event` to `instance` within the batch; what it did is in the working set afterwards."""
    live = work.live(instance, event.system)
    event = chains.inherited(event, live.snapshot)
    carried_out = CARRIED_OUT.get(type(event.data))
    if carried_out is None:
        return trigger(work, live, event, event.name)
    return carried_out(work, live, event, event.data)


def refuse(work: Work, instance: InstanceId, event: Event, reasons: tuple[Reason, ...]) -> Outcome:
    """Logs and publishes that the event moved nothing, and why."""
    live = work.live(instance, event.system)
    after = work.append(live, "refusal", event, {"reasons": list(reasons)})
    work.say(notices.refusal(after, reasons, event))
    return Outcome.REFUSED


def trigger(work: Work, live: Live, event: Event, name: str) -> Outcome:
    """Asks the machine what `name` does here, and carries its verdict out."""
    runs = {i: state for i, state in work.live_runs.get(event.system, {}).items() if i != live.snapshot.instance}
    facts = Facts(work.now, event, live.snapshot, live.system, live.facts(), runs)
    match live.chart.decide(name, facts):
        case Move(stay=True) as move:
            note(work, live, event, move.reason, move.changes)
            return Outcome.APPLIED
        case Move() as move:
            _move(work, live, event, move)
            return Outcome.APPLIED
        case Refusal(reasons=reasons):
            return refuse(work, live.snapshot.instance, event, reasons)
        case Absorbed():
            return Outcome.ABSORBED


def _move(work: Work, live: Live, event: Event, move: Move) -> None:
    before = live.snapshot
    changes = {**move.changes, **chains.kept(event, before)}
    machine = live.chart.machine
    config_hash = before.config_hash
    if live.resting or before.entry == 0:
        config_hash = work.definitions.current_hash(before.system)
    state = machine.state(move.target)
    data = merged(before.data, changes)
    dwell_until, deadline_at = waits(state, live.system, data, work.now)
    entered = {
        "machine_version": machine.version,
        "config_hash": config_hash,
        "state": str(state.name),
        "entry": max(before.entry, _lost_entry(event)) + 1,
        "entered_at": work.now,
        "dwell_until": dwell_until,
        "deadline_at": deadline_at,
        "data": data,
    }
    work.leave(live, before.entry)
    after = work.append(live, "transition", event, {"reason": move.reason, "changes": changes}, entered)
    work.say(notices.transition(before, after, state.status, move.reason, event))
    _enter(work, live, after)
    if state.passes:
        _release(work, live)


def _lost_entry(event: Event) -> int:
    """Lost state entries are not counted again: participants remember the commands that were named by them."""
    return event.data.entry if type(event.data) is DatabaseLost else 0


def _enter(work: Work, live: Live, after: Snapshot) -> None:
    machine = live.chart.machine
    state = machine.state(after.state)
    # Most of what is entered is an alert's rest, which has no steps.
    left = _plan(work, live, after) if state.steps else None
    if after.dwell_until is not None:
        work.timer(live, "dwell", after.dwell_until)
        if left is not None:
            then, ways = "goes on, once its steps are done", live.commands()
            work.say(notices.wait(after, None, "the due time", after.dwell_until, then, work.now, ways))
    elif not left and not state.resting and not state.final and state.asks is None:
        work.timer(live, "completed", work.now)
    if after.deadline_at is not None:
        work.timer(live, "deadline", after.deadline_at)
    for step, every in repeats(state, live.system) if state.steps else ():
        work.timer(live, f"{AGAIN}{step.name}", work.now + every)
    set_ends(work, live)
    if state.asks is not None:
        asked = state.asks(after.data)
        ways = (*answers(after.instance, asked), *live.commands())
        work.say(notices.wait(after, None, asked.whom, after.deadline_at, asked.then, work.now, ways))
    if needs_a_person(machine, after.state):
        ways = live.commands()
        who = f"a person: {state.name} lasts until somebody acts. One of: {'; '.join(ways)}"
        work.say(notices.wait(after, None, who, None, f"it stays {state.name}", work.now, ways))


def _plan(work: Work, live: Live, after: Snapshot) -> int | None:
    """Adds the steps of the state that was entered. How many are not waived; None when it has none for this system."""
    planned = plan(live.chart.machine, after.state, live.system, after.data)
    waived = {step.name: why for step in planned if (why := waiver_of(after, step.name, work.now)) is not None}
    open_ = [step.position for step in planned if step.name not in waived]
    first = min(open_, default=0)
    work.add(live, (live.row(one, first_status(one, first, waived), work.now) for one in planned))
    for name, why in waived.items():
        _say_step(work, live, live.steps[name], "waived", why)
    return len(open_) if planned else None


def _release(work: Work, live: Live) -> Mapping[str, Json]:
    """The gate lets go what it holds; what has expired meanwhile is refused. How many of which."""
    _refuse_overdue(work, live)
    return gate.release(work, live)


def _refuse_overdue(work: Work, live: Live) -> None:
    for late, why in gate.overdue(work, live):
        refuse(work, live.snapshot.instance, late, (why,))


def _progress(work: Work, live: Live, event: Event) -> Outcome:
    """What the steps of the current entry, as they now stand, mean for the instance."""
    rows = live.steps.values()
    if any(row.status is StepStatus.FAILED and not row.planned.optional for row in rows):
        return trigger(work, live, event, On.STEP_FAILED)
    left = [row for row in rows if not _settled(row)]
    if not left:
        if live.snapshot.dwell_until is not None and live.snapshot.dwell_until > work.now:
            return Outcome.ABSORBED
        ends = not live.resting and live.chart.machine.state(live.snapshot.state).asks is None
        return trigger(work, live, event, On.COMPLETED) if ends else Outcome.ABSORBED
    position = min(row.planned.position for row in left)
    for row in left:
        if row.planned.position == position and row.status is StepStatus.PLANNED:
            ready = StepChange(row.key, StepStatus.READY, frozenset({StepStatus.PLANNED}), ready_at=work.now)
            work.change(live, ready)
    return Outcome.ABSORBED


def _settled(row: StepRow) -> bool:
    return row.status in SETTLED or (row.planned.optional and row.status is StepStatus.FAILED)


def _step_reported(work: Work, live: Live, event: Event, report: StepReported) -> Outcome:
    at, outcome = work.now, report.outcome
    work.say(
        notices.step(
            live.snapshot, report.state, report.entry, report.step, report.attempt, outcome, at,
            report.result, report.error, report.seconds,
        )
    )  # fmt: skip
    if report.entry != live.snapshot.entry:
        return Outcome.ABSORBED
    row = live.steps.get(report.step)
    if row is None:
        return Outcome.ABSORBED
    state = live.chart.machine.state(live.snapshot.state)
    if outcome == "waiting" and row.status is StepStatus.WAITING and row.planned.action == gate.ACTION:
        released = _release(work, live)
        waiting = frozenset({StepStatus.WAITING})
        work.change(live, StepChange(row.key, StepStatus.READY, waiting, work.now, released))
        return Outcome.ABSORBED
    if outcome == "waiting" and row.status is StepStatus.WAITING:
        then = when_silent(row.planned, row.attempt, state)
        whom = report.whom or "a participant"
        work.say(notices.wait(live.snapshot, report.step, whom, report.until, then, at, live.commands(row)))
    if outcome == "unknown" and row.status is StepStatus.UNKNOWN:
        then = state.then or "nothing"
        ways = live.commands(row)
        who = f"a person: nobody can tell whether it happened. Look, then one of: {'; '.join(ways)}"
        work.say(notices.wait(live.snapshot, report.step, who, live.snapshot.deadline_at, then, at, ways))
    if outcome == "done":
        _stay_if_asked(work, live, event)
    return _progress(work, live, event)


def _measured(work: Work, live: Live, event: Event, metric: MetricObserved) -> Outcome:
    work.observe(live.snapshot.instance, metric.at or event.at, metric.value)
    return trigger(work, live, event, event.name)


def _signed(work: Work, live: Live, event: Event, signed: ChecklistSigned) -> Outcome:
    why = sign(work, live, event, signed)
    return Outcome.APPLIED if why is None else refuse(work, live.snapshot.instance, event, (why,))


def _stay_if_asked(work: Work, live: Live, event: Event) -> None:
    """A step's success may move a due time of the state it belongs to: logged, and the state's other steps go on."""
    if On.STEP_DONE not in live.chart.possible(live.snapshot.state):
        return
    facts = Facts(work.now, event, live.snapshot, live.system, live.facts())
    match live.chart.decide(On.STEP_DONE, facts):
        case Move(stay=True) as move:
            note(work, live, event, move.reason, move.changes)
        case Move():
            raise ValueError(f"{live.snapshot.machine}: a transition on {On.STEP_DONE} must stay")
        case _:
            pass


def _timer_fired(work: Work, live: Live, event: Event, timer: TimerFired) -> Outcome:
    if timer.kind == GATE_TIMER:
        _refuse_overdue(work, live)
        gate.look_again(work, live)
        return Outcome.ABSORBED
    if timer.entry != live.snapshot.entry:
        return Outcome.ABSORBED
    match timer.kind:
        case "deadline":
            return trigger(work, live, event, On.DEADLINE_PASSED)
        case "dwell" | "completed":
            return _progress(work, live, event)
        case over if over.startswith(ENDS):
            told = end(work, live, event, over.removeprefix(ENDS), live.commands())
            return Outcome.APPLIED if told else Outcome.ABSORBED
        case again if again.startswith(AGAIN):
            plan_next(work, live, again.removeprefix(AGAIN))
            return Outcome.ABSORBED
        case _:
            row = live.steps.get(timer.kind.removeprefix("step:"))
            if row is None or row.status is not StepStatus.WAITING:
                return Outcome.ABSORBED
            return _silent(work, live, event, row)


def _silent(work: Work, live: Live, event: Event, row: StepRow) -> Outcome:
    error = f"{row.planned.component} did not answer in time"
    waiting = frozenset({StepStatus.WAITING})
    if row.planned.component is None:
        # A check: no file says what its silence means. Its action says whom it asked, and asks again if it may.
        work.change(live, StepChange(row.key, StepStatus.READY, waiting, work.now, SILENT))
        return Outcome.ABSORBED
    match row.planned.on_silence:
        case OnSilence.KILL:
            work.change(live, StepChange(row.key, StepStatus.READY, waiting, work.now, SILENT))
            return Outcome.ABSORBED
        case OnSilence.PROCEED:
            status = StepStatus.PROCEEDED
        case OnSilence.ABORT if row.planned.asks_again and row.attempt < row.planned.attempts:
            work.change(live, StepChange(row.key, StepStatus.READY, waiting, work.now, error=error))
            _say_step(work, live, row, "retrying", error)
            return Outcome.ABSORBED
        case OnSilence.ABORT:
            status = StepStatus.FAILED
    work.change(live, StepChange(row.key, status, waiting, error=error))
    _say_step(work, live, row, str(status), error)
    return _progress(work, live, event)


def _answered(work: Work, live: Live, event: Event, answer: ParticipantAnswered) -> Outcome:
    instance = live.snapshot.instance
    row = next((row for row in live.steps.values() if row.key.command_id == answer.commandid), None)
    if row is None or row.status not in (StepStatus.WAITING, StepStatus.RUNNING):
        why = f"no step of {live.snapshot.state} waits for an answer to {answer.commandid}: too late, or not asked"
        return refuse(work, instance, event, (Reason(why),))
    # A check names no component: its action knows whom it asked, and judges the answer.
    if row.planned.component not in (None, answer.component):
        why = f"the command {answer.commandid} went to {row.planned.component}, not to {answer.component}"
        return refuse(work, instance, event, (Reason(why),))
    # A running step was answered before the runner could record that it waits: it finds the answer and goes on.
    work.change(
        live,
        StepChange(
            row.key,
            StepStatus.READY if row.status is StepStatus.WAITING else None,
            frozenset({StepStatus.WAITING, StepStatus.RUNNING}),
            work.now,
            answer.model_dump(mode="json"),
        ),
    )
    return Outcome.ABSORBED


def _acted(work: Work, live: Live, event: Event, act: OperatorActed) -> Outcome:
    if act.act in (Act.RETRY, Act.WAIVE) and act.step is not None:
        return _step_acted(work, live, event, act)
    return trigger(work, live, event, f"operator.{act.act}")


def _step_acted(work: Work, live: Live, event: Event, act: OperatorActed) -> Outcome:
    instance = live.snapshot.instance
    row = live.steps.get(act.step or "")
    if row is None and act.act is Act.WAIVE:
        return _waived_ahead(work, live, event, act)
    if row is None:
        names = ", ".join(live.steps) or "none"
        why = f"{live.snapshot.state} has no step {act.step!r}; its steps are: {names}"
        return refuse(work, instance, event, (Reason(why),))
    if act.act is Act.RETRY:
        if row.status not in (StepStatus.FAILED, StepStatus.UNKNOWN):
            return refuse(
                work,
                instance,
                event,
                (Reason(f"{act.step} is {row.status}; only a failed one is retried"),),
            )
        note(work, live, event, f"{act.step} is retried: {act.reason}", {})
        status = frozenset({StepStatus.FAILED, StepStatus.UNKNOWN})
        work.change(live, StepChange(row.key, StepStatus.READY, status, work.now, attempt=0))
        return Outcome.APPLIED
    if row.status in SETTLED | {StepStatus.CANCELLED}:
        return refuse(work, instance, event, (Reason(f"{act.step} is {row.status}; there is nothing to waive"),))
    if (why_not := no_waiver(act, work.now)) is not None:
        return refuse(work, instance, event, (why_not,))
    changes = with_waiver(live.snapshot, event, act, live.snapshot.state)
    note(work, live, event, f"{act.step} is waived: {act.reason}", changes)
    set_ends(work, live)
    work.change(live, StepChange(row.key, StepStatus.WAIVED, OPEN | {StepStatus.FAILED}))
    _say_step(work, live, row, "waived", act.reason)
    _progress(work, live, event)
    return Outcome.APPLIED


def _waived_ahead(work: Work, live: Live, event: Event, act: OperatorActed) -> Outcome:
    """A waiver of a step that led to this rest: the retry that a person asks for next goes on without it."""
    snapshot = live.snapshot
    why_not = none_such(live.chart.machine, snapshot, live.steps, act) or no_waiver(act, work.now)
    if why_not is not None:
        return refuse(work, snapshot.instance, event, (why_not,))
    changes = with_waiver(snapshot, event, act, record(snapshot.data, "failure").get("state"))
    note(work, live, event, f"{act.step} is waived from the next retry on: {act.reason}", changes)
    set_ends(work, live)
    return Outcome.APPLIED


def _say_step(work: Work, live: Live, row: StepRow, outcome: str, error: str | None) -> None:
    snapshot, at = live.snapshot, work.now
    work.say(notices.step(snapshot, row.state, row.key.entry, row.key.name, row.attempt, outcome, at, {}, error))


CARRIED_OUT: dict[type, Callable[[Work, Live, Event, Any], Outcome]] = {
    StepReported: _step_reported,
    TimerFired: _timer_fired,
    ParticipantAnswered: _answered,
    OperatorActed: _acted,
    ChecklistSigned: _signed,
    MetricObserved: _measured,
}
"""By the type of the data what an event means to the engine; all others only raise the trigger of their name. A table,
because each isinstance that fails on a pydantic model costs more than all of this."""
