"""The checks that need nothing but the table: words, ways out, handled failures, budgets, guarded entries."""

import re
from collections.abc import Iterator, Mapping

from machines.model import Machine, On, State
from machines.plan import limit
from machines.samples import SYSTEMS
from machines.violations import Violation
from schemas.events import EVENTS, Act

_WORDS = (
    "unobserved operational preparing_for_restart awaiting_approval notifying awaiting_quiet preserving resuming "
    "database_lost shutting_down starting_up initializing "
    "verifying restoring degraded halted recovering maintenance normal warning critical rising diagnosing resolved "
    "escalated recovered failed due waiting running completed late skipped blacked_out missed"
)
WORDS = frozenset(_WORDS.split())
"""The names that states may be made of: the words of the design's section on machines, adjectives and gerunds."""

GUARDED: Mapping[tuple[str, str], frozenset[str]] = {
    ("lifecycle", "operational"): frozenset({"verified", "was_verified"}),
    ("lifecycle", "shutting_down"): frozenset({"snapshot_verified", "stopping_was_left_off"}),
}
"""(machine, state) to the guards of which one must stand at every way in."""

TRIGGERS = frozenset(EVENTS) | {f"operator.{act}" for act in Act} | frozenset(On)
_STEP_NAME = re.compile(r"[a-z]+(_[a-z]+)*")
_ACTION = re.compile(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*")


def structure_findings(machine: Machine) -> Iterator[Violation]:
    """Every violation that the table shows by itself. After a fatal one the rest may be missing."""
    known = [state.name for state in machine.states]
    for name in sorted({name for name in known if known.count(name) > 1}):
        yield Violation("duplicate_name", name, "two states have this name: rename one")
    for transition in machine.transitions:
        for name in (*transition.sources, transition.target):
            if name not in known:
                yield Violation("unknown_state", f"{name} on {transition.trigger}", "the machine has no such state")
    if machine.initial not in known:
        yield Violation("unknown_state", machine.initial, "the initial state is none of the machine's states")
    yield from _words(machine)
    for state in machine.states:
        yield from _steps(state)
        yield from _ways_out(machine, state)
    yield from _entries(machine)
    yield from _cycles(machine)


def _words(machine: Machine) -> Iterator[Violation]:
    for state in machine.states:
        strange = [word for word in state.name.split(".") if word not in WORDS]
        if strange:
            yield Violation("unknown_word", state.name, f"{', '.join(strange)} is no word of the design for a state")
    for transition in machine.transitions:
        if transition.trigger not in TRIGGERS:
            what = "no event, operator's act or signal has this name"
            yield Violation("unknown_word", transition.trigger, what)


def _steps(state: State) -> Iterator[Violation]:
    names = [step.name for step in state.steps]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Violation("duplicate_name", f"{state.name} step {name}", "two steps have this name: rename one")
    for step in state.steps:
        where = f"{state.name} step {step.name}"
        if not _STEP_NAME.fullmatch(step.name) or not _ACTION.fullmatch(step.action):
            yield Violation("unknown_word", where, f"a step is a verb and an action reads noun.verb, not {step.action}")
        if step.attempts < 1:
            yield Violation("no_attempts", where, "a step has at least one attempt")
        for span in (step.limit, step.every):
            if span is None:
                continue
            try:
                limit(SYSTEMS[0], span)
            except ValueError as error:
                yield Violation("unknown_limit", where, str(error))


def _ways_out(machine: Machine, state: State) -> Iterator[Violation]:
    if state.final:
        if any(state.name in transition.sources for transition in machine.transitions):
            yield Violation("left_final_state", state.name, "a final state is the end: no transition may leave it")
        return
    if state.resting:
        if any(not step.optional for step in state.steps) or state.dwell is not None or state.deadline is not None:
            what = "a resting state has no waits, and no steps but optional ones: split it in two"
            yield Violation("restless_rest", state.name, what)
        return
    if state.asks is not None and (
        any(not step.optional for step in state.steps) or state.dwell is not None or state.deadline is None
    ):
        what = "a state that asks people ends by their word or by its deadline, never by a dwell or a step"
        yield Violation("unsure_question", state.name, what)
    if state.deadline is None and (state.steps or state.dwell is None):
        what = "nothing waits without a deadline: give it one, or call it resting or final"
        yield Violation("no_deadline", state.name, what)
    if state.deadline is not None and not _always(machine, state, On.DEADLINE_PASSED):
        yield Violation("dead_end", state.name, f"no unguarded transition on {On.DEADLINE_PASSED} leads out")
    if (state.deadline is not None or state.dwell is not None) and not state.then:
        yield Violation("unsaid_wait", state.name, "`then` must say for people what happens if nobody acts")
    completes = state.asks is None and (state.steps or state.dwell is not None)
    if completes and not _always(machine, state, On.COMPLETED):
        yield Violation("dead_end", state.name, f"no unguarded transition on {On.COMPLETED} leads out")
    if any(not step.optional for step in state.steps) and not _always(machine, state, On.STEP_FAILED):
        what = f"no unguarded transition on {On.STEP_FAILED}: say which safe state a failure leads to"
        yield Violation("unhandled_failure", state.name, what)


def _always(machine: Machine, state: State, trigger: str) -> bool:
    """Whether some transition on `trigger` leaves the state for another one, whatever the guards say and always."""
    return any(
        state.name in transition.sources
        and transition.trigger == trigger
        and not transition.guards
        and transition.budget is None
        and transition.target != state.name
        for transition in machine.transitions
    )


def _entries(machine: Machine) -> Iterator[Violation]:
    for transition in machine.transitions:
        wanted = GUARDED.get((machine.name, transition.target))
        if wanted is None or set(transition.sources) == {transition.target}:
            continue
        if not wanted & {guard.__name__ for guard in transition.guards}:
            where = f"{'|'.join(transition.sources)} on {transition.trigger}"
            what = f"{transition.target} may only be entered with the guard {' or '.join(sorted(wanted))}"
            yield Violation("unguarded_entry", where, what)


def _cycles(machine: Machine) -> Iterator[Violation]:
    """Circles that turn by themselves: engine-raised triggers, no budget, no rest on the way."""
    safe = {state.name for state in machine.states if state.resting or state.final}
    ways: dict[str, set[str]] = {state.name: set() for state in machine.states}
    for transition in machine.transitions:
        if transition.trigger in frozenset(On) and transition.budget is None and transition.target not in safe:
            for source in transition.sources:
                if source in ways and source not in safe:
                    ways[source].add(transition.target)
    # What has no way on within the circle cannot be part of one; take it away until nothing changes.
    while ended := [name for name, targets in ways.items() if not targets & ways.keys()]:
        for name in ended:
            del ways[name]
    if ways:
        circle = ", ".join(sorted(ways))
        yield Violation("unbounded_cycle", circle, "these lead to each other by themselves for ever: give one a budget")
