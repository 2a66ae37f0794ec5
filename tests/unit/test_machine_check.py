"""The exhaustive checks find nothing wrong with the real machines, and name each kind of fault that is planted."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest

from machines import check as checking
from machines.alert import ALERT
from machines.check import Report, check, check_all, fingerprint_findings, main
from machines.fingerprint import accept, committed, fingerprint, label
from machines.lifecycle import LIFECYCLE
from machines.lifecycle_states import At
from machines.model import Facts, Machine, On, Reason, State, Step, Transition
from machines.registry import MACHINES
from machines.samples import SYSTEMS
from machines.structure import structure_findings
from machines.violations import Violation
from schemas.base import Json

Edit = Callable[[Machine], Machine]


def checked(machine: Machine) -> Report:
    """All checks, the fingerprint taken for accepted."""
    return check(machine, {label(machine): fingerprint(machine)})


def with_state(name: str, /, **changes: object) -> Edit:
    def edit(machine: Machine) -> Machine:
        states = tuple(replace(s, **changes) if s.name == name else s for s in machine.states)  # type: ignore[arg-type]
        return replace(machine, states=states)

    return edit


def with_step(state: str, step: str, /, **changes: object) -> Edit:
    def edit(machine: Machine) -> Machine:
        steps = tuple(
            replace(s, **changes) if s.name == step else s  # type: ignore[arg-type]
            for s in machine.state(state).steps
        )
        return with_state(state, steps=steps)(machine)

    return edit


def with_transition(source: str, trigger: str, target: str, /, **changes: object) -> Edit:
    def edit(machine: Machine) -> Machine:
        edited = tuple(
            replace(t, **changes)  # type: ignore[arg-type]
            if source in t.sources and t.trigger == trigger and t.target == target
            else t
            for t in machine.transitions
        )
        assert edited != machine.transitions
        return replace(machine, transitions=edited)

    return edit


def without(source: str, trigger: str) -> Edit:
    def edit(machine: Machine) -> Machine:
        kept = []
        for t in machine.transitions:
            if source in t.sources and t.trigger == trigger:
                rest = tuple(s for s in t.sources if s != source)
                kept += [replace(t, source=rest)] if rest else []
            else:
                kept.append(t)
        assert len(kept) < len(machine.transitions) or kept != list(machine.transitions)
        return replace(machine, transitions=tuple(kept))

    return edit


def plus(*transitions: Transition, first: bool = False) -> Edit:
    def edit(machine: Machine) -> Machine:
        old = machine.transitions
        return replace(machine, transitions=(*transitions, *old) if first else (*old, *transitions))

    return edit


def plus_state(state: State) -> Edit:
    return lambda machine: replace(machine, states=(*machine.states, state))


def never(facts: Facts) -> Reason | None:
    return Reason("never")


def raising(facts: Facts) -> Reason | None:
    raise KeyError("restart")


def verified(facts: Facts) -> Reason | None:
    """Has the right name and looks at nothing."""
    return None


def snapshot_verified(facts: Facts) -> Reason | None:
    return None


def once_only(facts: Facts) -> Reason | None:
    return Reason("was up already") if "last_restart" in facts.snapshot.data else None


def at_the_first_attempt(facts: Facts) -> Reason | None:
    again = [step.planned.name for step in facts.steps if step.attempt > 1]
    return Reason(f"tried again: {again}") if again else None


CALLS: list[int] = []


def moody(facts: Facts) -> Mapping[str, Json]:
    CALLS.append(1)
    return {"mood": len(CALLS)}


FAULTS: dict[str, tuple[str, str, Edit]] = {
    "a state nobody leads to": ("unreachable_state", "maintenance", plus_state(State("maintenance", resting=True))),
    "a transition behind one that is always open": (
        "unreachable_transition",
        "starting_up.initializing on completed",
        plus(Transition(At.INITIALIZING, On.COMPLETED, At.DEGRADED)),
    ),
    "a transition whose guard never opens": (
        "unreachable_transition",
        "halted on operator.retry",
        with_transition(At.HALTED, "operator.retry", At.INITIALIZING, guards=(never,)),
    ),
    "a state that waits without a deadline": (
        "no_deadline",
        "shutting_down",
        with_state(At.SHUTTING_DOWN, deadline=None),
    ),
    "a deadline that leads nowhere": ("dead_end", "shutting_down", without(At.SHUTTING_DOWN, On.DEADLINE_PASSED)),
    "a completed state that only a guard lets go": (
        "dead_end",
        "shutting_down",
        with_transition(At.SHUTTING_DOWN, On.COMPLETED, At.INITIALIZING, guards=(verified,)),
    ),
    "a wait that says nothing": ("unsaid_wait", "shutting_down", with_state(At.SHUTTING_DOWN, then="")),
    "a failing step that leads nowhere": (
        "unhandled_failure",
        "starting_up.initializing",
        without(At.INITIALIZING, On.STEP_FAILED),
    ),
    "a circle that turns by itself": (
        "unbounded_cycle",
        "shutting_down, starting_up.initializing",
        with_transition(At.INITIALIZING, On.STEP_FAILED, At.HALTED, target=At.SHUTTING_DOWN),
    ),
    "operational without the guard": (
        "unguarded_entry",
        "preparing_for_restart.resuming on completed",
        with_transition(At.RESUMING, On.COMPLETED, At.OPERATIONAL, guards=()),
    ),
    "operational by a guard that does not look": (
        "unproven_entry",
        "preparing_for_restart.resuming on completed",
        with_transition(At.RESUMING, On.COMPLETED, At.OPERATIONAL, guards=(verified,)),
    ),
    "shutting down without the guard": (
        "unguarded_entry",
        "preparing_for_restart.preserving on completed",
        with_transition(At.PRESERVING, On.COMPLETED, At.SHUTTING_DOWN, guards=()),
    ),
    "shutting down by a guard that does not look": (
        "unproven_entry",
        "preparing_for_restart.preserving on completed",
        with_transition(At.PRESERVING, On.COMPLETED, At.SHUTTING_DOWN, guards=(snapshot_verified,)),
    ),
    "a word that is not the design's": (
        "unknown_word",
        "hibernating",
        lambda m: plus(
            Transition(At.HALTED, "operator.waive", "hibernating"),
            Transition("hibernating", "operator.adopt", At.HALTED),
        )(plus_state(State("hibernating", resting=True))(m)),
    ),
    "an event that does not exist": (
        "unknown_word",
        "restart.dreamt",
        plus(Transition(At.HALTED, "restart.dreamt", At.DEGRADED)),
    ),
    "a step that is no verb": (
        "unknown_word",
        "shutting_down step Stop-it",
        with_step(At.SHUTTING_DOWN, "stop", name="Stop-it"),
    ),
    "a step that is never tried": (
        "no_attempts",
        "shutting_down step stop",
        with_step(At.SHUTTING_DOWN, "stop", attempts=0),
    ),
    "a limit that no file has": (
        "unknown_limit",
        "shutting_down step stop",
        with_step(At.SHUTTING_DOWN, "stop", limit="luck"),
    ),
    "a rest that is at work": (
        "restless_rest",
        "degraded",
        with_state(At.DEGRADED, steps=(Step("look", "component.observe"),)),
    ),
    "a question that a step may answer": (
        "unsure_question",
        At.AWAITING_APPROVAL,
        with_step(At.AWAITING_APPROVAL, "ask", optional=False),
    ),
    "a question that time alone ends": (
        "unsure_question",
        At.AWAITING_APPROVAL,
        with_state(At.AWAITING_APPROVAL, dwell=timedelta(minutes=1)),
    ),
    "an end that is not the end": ("left_final_state", "degraded", with_state(At.DEGRADED, resting=False, final=True)),
    "two states of one name": ("duplicate_name", "degraded", plus_state(State(At.DEGRADED, resting=True))),
    "two steps of one name": (
        "duplicate_name",
        "shutting_down step stop",
        with_step(At.SHUTTING_DOWN, "confirm_stopped", name="stop"),
    ),
    "a transition to nowhere": ("unknown_state", "nirvana", plus(Transition(At.HALTED, "operator.adopt", "nirvana"))),
    "a guard with a fault": (
        "guard_raised",
        "halted on operator.adopt",
        with_transition(At.HALTED, "operator.adopt", At.UNOBSERVED, guards=(raising,)),
    ),
    "a guard that looks at what is remembered for people alone": (
        "history_read",
        "halted on operator.adopt",
        with_transition(At.HALTED, "operator.adopt", At.UNOBSERVED, guards=(once_only,)),
    ),
    "a table that answers otherwise each time": (
        "not_pure",
        "halted on operator.retry",
        with_transition(At.HALTED, "operator.retry", At.INITIALIZING, changes=moody),
    ),
    "a restarted Relight that throws a run off its way": (
        "crash_differs",
        "preparing_for_restart.preserving",
        plus(Transition(At.PRESERVING, "system.registered", At.RESUMING)),
    ),
    "a guard that counts the attempts of an interrupted step": (
        "crash_differs",
        "starting_up.initializing",
        lambda m: plus(
            Transition(At.INITIALIZING, On.COMPLETED, At.VERIFYING, (at_the_first_attempt,)), first=True
        )(with_transition(At.INITIALIZING, On.COMPLETED, At.VERIFYING, target=At.HALTED)(m)),
    ),
}  # fmt: skip


SMALLEST = SYSTEMS[-1:]
"""The abstract system with the fewest configurations: enough for most plants, in a tenth of the time of all."""


@cache
def unedited() -> frozenset[Violation]:
    """What a walk over the smallest system alone says of the machine as it is: much of it is never come to there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("machines.explore.SYSTEMS", SMALLEST)
        return frozenset(checked(LIFECYCLE).violations)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machines.explore.SYSTEMS", SMALLEST)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_named_with_its_place(fault: str) -> None:
    kind, where, edit = FAULTS[fault]
    machine = edit(LIFECYCLE)
    # What the table shows by itself needs no walk; for everything else the walk is what finds it.
    found = [violation for violation in structure_findings(machine) if violation.kind == kind]
    if not any(where in violation.where for violation in found):
        violations = set(checked(machine).violations) - unedited()
        found = [violation for violation in violations if violation.kind == kind]
        assert any(where in violation.where for violation in found), sorted(map(str, violations))
    assert all(violation.what for violation in found)


@pytest.mark.usefixtures("small")
def test_state_that_only_a_person_can_end_cannot_rest() -> None:
    """Without a deadline an unknown step waits for ever; the walk finds it too, and the report has both findings."""
    report = checked(with_state(At.SHUTTING_DOWN, deadline=None)(LIFECYCLE))
    assert not report.passed
    assert ("no_deadline", "shutting_down") in {(v.kind, v.where) for v in report.violations}
    assert ("cannot_rest", "shutting_down") in {(v.kind, v.where) for v in report.violations}


@pytest.mark.usefixtures("small")
def test_budget_makes_a_circle_an_allowed_one() -> None:
    again = Transition(At.INITIALIZING, On.STEP_FAILED, At.INITIALIZING, reason="once more", budget=2)
    machine = plus(again, first=True)(LIFECYCLE)
    assert set(checked(machine).violations) <= unedited()
    endless = plus(replace(again, budget=None), first=True)(LIFECYCLE)
    assert "unbounded_cycle" in {violation.kind for violation in checked(endless).violations}


def test_real_machines_have_no_violation_and_were_really_explored() -> None:
    reports = check_all()
    assert {report.machine for report in reports} >= set(MACHINES)
    assert [str(violation) for report in reports for violation in report.violations] == []
    explored = {report.machine: report for report in reports}
    assert explored["lifecycle"].states == 15
    assert explored["lifecycle"].configurations > 5_000
    assert explored["alert"].configurations > 100


def test_changed_table_or_guard_with_an_unchanged_version_is_a_violation() -> None:
    accepted = committed()
    later = with_state(At.UNOBSERVED, deadline=timedelta(minutes=6))(LIFECYCLE)
    renamed = with_transition(At.RESUMING, On.COMPLETED, At.OPERATIONAL, guards=(verified,))(LIFECYCLE)
    for changed in (later, renamed):
        assert [v.kind for v in fingerprint_findings(changed, accepted)] == ["changed_without_version"]
        raised = replace(changed, version=2)
        assert [v.kind for v in fingerprint_findings(raised, accepted)] == ["unknown_version"]
    assert not list(fingerprint_findings(LIFECYCLE, accepted))


def test_fingerprint_sees_a_changed_helper_behind_an_unchanged_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(ALERT)

    def _level(facts: Facts) -> str:
        return "normal"

    _level.__module__ = "machines.alert"
    monkeypatch.setattr("machines.alert._level", _level)
    assert fingerprint(ALERT) != before


def test_fingerprint_sees_a_changed_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(LIFECYCLE)
    monkeypatch.setattr("machines.lifecycle_states.GRACE", timedelta(minutes=2))
    assert fingerprint(LIFECYCLE) != before


def test_accepting_writes_new_versions_and_refuses_changed_old_ones(tmp_path: Path) -> None:
    file = tmp_path / "fingerprints.json"
    assert accept([LIFECYCLE], file) == ()
    first = committed(file)
    changed = with_state(At.UNOBSERVED, deadline=timedelta(minutes=6))(LIFECYCLE)
    assert accept([changed], file) == ("lifecycle 1",)
    assert committed(file) == first
    assert accept([LIFECYCLE, replace(changed, version=2)], file) == ()
    assert set(committed(file)) == {"lifecycle 1", "lifecycle 2"}
    assert accept([changed], file, unreleased=True) == ()
    assert committed(file)["lifecycle 1"] == fingerprint(changed)


def test_command_prints_a_line_for_each_machine_and_fails_on_a_violation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "VERSIONS", {("alert", 1): ALERT})
    assert main([]) == 0
    assert "alert" in capsys.readouterr().out
    faulty = with_state("normal", resting=False)(ALERT)
    monkeypatch.setattr(checking, "VERSIONS", {("alert", 1): faulty})
    assert main([]) == 1
    assert "no_deadline in normal" in capsys.readouterr().out
    assert main(["--acept"]) == 2
