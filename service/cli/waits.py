"""What an instance waits for, in words: for whom, until when, what happens then, and the commands that end the wait.

Pure: a view in, lines out. The time is an argument; nothing is read or printed here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo

from machines.acts import WayOut, answers, needs_a_person, way_of, ways_out, when_silent
from machines.evidence import record
from machines.model import ENDED, Machine, Snapshot, State, StepStatus
from machines.registry import VERSIONS
from schemas.base import Json
from schemas.components import LOCAL
from service.cli.words import clock, day, short, span
from service.ports import InstanceView, StepRow

SAID = 1500
"""Characters of an error that are shown: who is stuck needs all of it, and its end says what to do."""
OVERDUE = timedelta(seconds=15)
"""A due time that passed longer ago, or a step that nobody claimed for longer, means that nobody is at work there."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One line about one wait, what has to be known about it (`facts`, a line each), and what a person may do."""

    text: str
    ways: tuple[WayOut, ...] = field(default=())
    facts: tuple[str, ...] = field(default=())


def waits(view: InstanceView, now: datetime, zone: tzinfo) -> tuple[Wait, ...]:
    """Everything that the instance waits for, single steps first. Empty while it rests and needs nobody."""
    snapshot = view.snapshot
    machine = VERSIONS.get((snapshot.machine, snapshot.machine_version))
    if machine is None:
        return (Wait(f"version {snapshot.machine_version} of {snapshot.machine} is not known to this command"),)
    state = machine.state(snapshot.state)
    return (
        *(Wait(text, way_of(step.key.name, step.status)) for step, text in _steps(view, state, now, zone)),
        *_of_the_state(view, machine, state, now, zone),
    )


def acts(view: InstanceView) -> tuple[WayOut, ...]:
    """Every act that is possible now."""
    machine = VERSIONS.get((view.snapshot.machine, view.snapshot.machine_version))
    steps = {step.key.name: step.status for step in view.steps}
    return ways_out(machine, view.snapshot.state, steps, view.snapshot.data) if machine is not None else ()


def _steps(view: InstanceView, state: State, now: datetime, zone: tzinfo) -> Iterator[tuple[StepRow, str]]:
    """What is being done now and what went wrong; planned and settled steps are only counted."""
    snapshot = view.snapshot
    for step in view.steps:
        name, tries = step.key.name, f"attempt {step.attempt} of {step.planned.attempts}"
        match step.status:
            case StepStatus.RUNNING if step.lease_until is not None and step.lease_until < now - OVERDUE:
                lost = f"its worker {step.worker} was last heard of before {clock(step.lease_until, zone)}"
                yield step, f"{name} waits for another worker: {lost}.{_nobody_at(step)}{_then(snapshot, state, zone)}"
            case StepStatus.RUNNING if step.error:
                doing = f"{name} is being performed by {step.worker} ({tries}) again after: {short(step.error, SAID)}"
                yield step, f"{doing}{_then(snapshot, state, zone)}"
            case StepStatus.RUNNING:
                yield step, f"{name} is being performed by {step.worker} ({tries}){_then(snapshot, state, zone)}"
            case StepStatus.READY if step.ready_at is not None and waits_for_a_worker(step, now):
                since = span(now - step.ready_at)
                text = f"{name} waits for a worker since {since}.{_nobody_at(step)}{_then(snapshot, state, zone)}"
                yield step, text
            case StepStatus.READY:
                again = f" again after: {short(step.error, SAID)}" if step.error else ""
                yield step, f"{name} is about to begin{again} ({tries}, at {step.place}){_then(snapshot, state, zone)}"
            case StepStatus.WAITING:
                until = view.silent_at(name)
                when = f" until {clock(until, zone)}" if until is not None else ""
                whom = step.planned.component or "an answer"
                then = when_silent(step.planned, step.attempt, state)
                yield step, f"{name} waits for {whom}{when}; if it stays silent: {then}"
            case StepStatus.UNKNOWN:
                why = short(step.error or "no reason was given")
                text = f"{name} waits for a person: nobody can tell whether it happened ({why}). Look, then act"
                yield step, f"{text}{_then(snapshot, state, zone)}"
            case StepStatus.FAILED:
                yield step, f"{name} failed: {short(step.error or 'no reason was given', SAID)}"
            case _:
                pass


def waits_for_a_worker(step: StepRow, now: datetime) -> bool:
    """Ready for so long that nobody who is at work can be serving its place."""
    return step.status is StepStatus.READY and step.ready_at is not None and step.ready_at < now - OVERDUE


def _nobody_at(step: StepRow) -> str:
    where = "" if step.place == LOCAL else f"RELIGHT_PLACES={step.place} "
    return f" None serves {step.place}: start `{where}relight serve` there, on the same database and broker"


def _then(snapshot: Snapshot, state: State, zone: tzinfo) -> str:
    """What happens when it lasts too long; a dwell is no such end."""
    if snapshot.deadline_at is None:
        return ""
    return f"; until {clock(snapshot.deadline_at, zone)}, then: {state.then or 'its deadline passes'}"


def _of_the_state(
    view: InstanceView, machine: Machine, state: State, now: datetime, zone: tzinfo
) -> Iterator[Wait]:  # fmt: skip
    snapshot = view.snapshot
    ways = ways_out(machine, state.name, {}, snapshot.data)
    late = [timer for timer in view.timers if timer.due_at < now - OVERDUE]
    if late:
        since = span(now - min(timer.due_at for timer in late))
        yield Wait(f"waits for a `relight serve`: something is due since {since} and nobody decides here")
    if snapshot.dwell_until is not None and snapshot.dwell_until > now:
        open_ = [step.key.name for step in view.steps if step.status not in ENDED]
        steps = f" and {len(open_)} steps" if open_ else ""
        yield Wait(f"waits for its due time{steps} until {clock(snapshot.dwell_until, zone)} at least; then it goes on")
    if state.asks is not None and snapshot.deadline_at is not None:
        asked = state.asks(snapshot.data)
        until = f"if nobody answers: {asked.then} at {clock(snapshot.deadline_at, zone)}"
        how = " or ".join(f"`{command}`" for command in answers(snapshot.instance, asked))
        yield Wait(f"waits for {asked.whom}; {until}. Answer with {how}", ways)
    elif snapshot.deadline_at is not None:
        then = state.then or "its deadline passes"
        yield Wait(f"if nobody acts: {then} at {clock(snapshot.deadline_at, zone)}", ways)
    elif needs_a_person(machine, state.name):
        data = snapshot.data
        abort = record(data, "last_abort") if _gave_up_last(data) else {}
        failure = record(data, "failure") or record(abort, "failure")
        since = f" since {failure.get('state')} by {failure.get('by')}" if failure else ""
        known = () if failure else _known_before(data)
        missing = (f"{name} was left out of the start: {why}" for name, why in record(data, "not_started").items())
        paused = (
            f"{name} was not resumed and may be paused: {why}" for name, why in record(data, "not_resumed").items()
        )
        facts = (*_findings(failure), *known, *missing, *paused, *_waivers(data, now, zone))
        yield Wait(f"waits for a person, for ever: {state.name}{since}", ways, facts)


def given_up(snapshot: Snapshot, zone: tzinfo) -> Wait | None:
    """The last restart, when the system works but something kept it from being restarted, and how to ask anew."""
    last = record(snapshot.data, "last_abort")
    failure = record(last, "failure")
    # With a downtime it was adopted by a person, who knows; what was cancelled by one has no failed steps.
    stopped = last.get("down_since") is not None
    if snapshot.state != "operational" or stopped or not record(failure, "steps") or not _gave_up_last(snapshot.data):
        return None
    at = day(datetime.fromisoformat(str(last["ended_at"])), zone)
    text = f"the last restart was given up at {at}, in {failure.get('state')}; nothing was stopped, it works as before"
    again = f'mended, ask for it again: relight restart {snapshot.system} --reason "WHY"'
    return Wait(text, facts=(*_findings(failure), again))


def _gave_up_last(data: Mapping[str, Json]) -> bool:
    """Whether the newest restart that ended is one that was given up."""
    ended, up = record(data, "last_abort").get("ended_at"), record(data, "last_restart").get("up_at")
    if not isinstance(ended, str):
        return False
    return not isinstance(up, str) or datetime.fromisoformat(ended) > datetime.fromisoformat(up)


def _findings(failure: Mapping[str, Json]) -> Iterator[str]:
    """Why the instance left its way: which steps failed and what they said, or what a person said."""
    for name, error in record(failure, "steps").items():
        yield f"{name}: {short(str(error or 'no reason was given'), SAID)}"
    if isinstance(reason := failure.get("reason"), str):
        yield short(reason, SAID)


def _known_before(data: Mapping[str, Json]) -> Iterator[str]:
    for name, found in record(record(data, "last_restart"), "failed_before").items():
        if isinstance(found, dict):
            yield f"{name}: {short(str(found.get('finding')), SAID)}"


def _waivers(data: Mapping[str, Json], now: datetime, zone: tzinfo) -> Iterator[str]:
    """What nobody looks at any more, by whose word, and until when."""
    for name, waiver in record(data, "waivers").items():
        until = waiver.get("until") if isinstance(waiver, dict) else None
        if isinstance(waiver, dict) and isinstance(until, str):
            end = datetime.fromisoformat(until)
            if end > now:
                left = f"for another {span(end - now)}"
                yield f"{waiver.get('by')} waived {name} ({waiver.get('reason')}) until {day(end, zone)}, {left}"
            else:
                over = f"has ended at {day(end, zone)}: look at it again"
                yield f"the waiver of {name} by {waiver.get('by')} ({waiver.get('reason')}) {over}"
