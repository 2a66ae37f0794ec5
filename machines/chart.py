"""Deciding: one trigger, one set of facts, one verdict. The only file that imports `transitions`; no machine here.

The library holds the table as one flat, shared, synchronous machine without models; each decision uses a throwaway
position, so that nothing is remembered between two decisions and an event that moves nothing leaves nothing behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import transitions

from machines.evidence import failed_steps
from machines.model import Absorbed, Facts, Machine, Move, On, Reason, Refusal, Transition, Verdict
from schemas.base import Json

BUDGETS = "budgets"
"""The key of the snapshot's data under which spent budgets are counted, by `Transition` key."""

_RAISED_BY_ENGINE = frozenset(On)


class Chart:
    """A machine ready to decide. Build it once: building costs milliseconds, deciding microseconds."""

    def __init__(self, machine: Machine) -> None:
        """Raises ValueError when a transition names a state that the machine does not have."""
        # Plain texts throughout: the library takes an Enum's name for a state's, and our states are StrEnums.
        names = {str(state.name) for state in machine.states}
        table: list[dict[str, object]] = []
        self._resting = {str(state.name) for state in machine.states if state.resting}
        self._possible: dict[str, list[str]] = {name: [] for name in names}
        for transition in machine.transitions:
            for name in (*transition.sources, transition.target):
                if name not in names:
                    raise ValueError(f"machine {machine.name}: {transition.trigger} names the unknown state {name!r}")
            for source in map(str, transition.sources):
                # None: the library moves nothing. The gate says where the transition leads, and a position that is
                # thrown away need not be moved.
                table.append({"trigger": str(transition.trigger), "source": source, "dest": None, "leads": transition})
                if transition.trigger not in self._possible[source]:
                    self._possible[source].append(str(transition.trigger))
        self.machine = machine
        self._decider = _Table(
            model=None, states=sorted(names), initial=str(machine.initial), transitions=table, auto_transitions=False
        )

    def possible(self, state: str) -> tuple[str, ...]:
        """The triggers that the table has for `state`, in its order, whatever their guards will say."""
        return tuple(self._possible[state])

    def decide(self, trigger: str, facts: Facts) -> Verdict:
        """The first transition of the table whose guards all answer None; else why nothing moves.

        Pure: neither `facts` nor the chart changes. An exception of a guard or a change is the machine's fault and
        is raised as it is. Raises KeyError when the snapshot stands in a state that this machine does not have.
        """
        state = str(facts.snapshot.state)
        if trigger not in self._possible[state]:
            return Absorbed() if trigger in self.machine.absorbs else Refusal((self._not_here(trigger, facts),))
        position = _Position(state, facts, curt=trigger in self.machine.absorbs)
        self._decider.events[trigger].trigger(position)
        if position.taken is None:
            return Absorbed() if position.curt else Refusal(tuple(dict.fromkeys(position.reasons)))
        return self._move(trigger, position.taken, facts, position.reasons)

    def _move(self, trigger: str, taken: Transition, facts: Facts, passed_over: list[Reason]) -> Move:
        changes: dict[str, Json] = dict(taken.changes(facts)) if taken.changes is not None else {}
        if taken.target in self._resting:
            if BUDGETS in facts.snapshot.data:
                changes[BUDGETS] = None
        elif taken.budget is not None:
            changes[BUDGETS] = {**_budgets(facts.snapshot.data), budget_key(taken): _spent(taken, facts) + 1}
        return Move(str(taken.target), changes, _why(trigger, taken, facts, passed_over), taken.stay)

    def _not_here(self, trigger: str, facts: Facts) -> Reason:
        if self.machine.explain is not None and (reason := self.machine.explain(trigger, facts)) is not None:
            return reason
        state = facts.snapshot.state
        possible = ", ".join(name for name in self._possible[state] if name not in _RAISED_BY_ENGINE)
        return Reason(
            f"{facts.snapshot.instance} is {state}; {trigger} moves nothing there"
            + (f" (possible now: {possible})" if possible else " (nothing but its own steps moves it now)")
        )


@dataclass(slots=True)
class _Position:
    """What the library has instead of a model: where it stands, and what the gates said on the way.

    `curt`: nobody will be told the reasons, so one is enough.
    """

    state: str
    facts: Facts
    curt: bool
    taken: Transition | None = None
    reasons: list[Reason] = field(default_factory=list)


class _Gate(transitions.Transition):
    """The library's transition whose only condition is all guards of ours; it notes the reasons, or that it opened.

    The library's own would call lists of callbacks on the way and log each, though there are none: 3 µs an event.
    """

    def __init__(self, *args: Any, leads: Transition, **others: Any) -> None:
        super().__init__(*args, **others)
        self._leads = leads

    def execute(self, event_data: transitions.EventData) -> bool:
        position = cast("_Position", event_data.model)
        transition, facts = self._leads, position.facts
        reasons: list[Reason] = []
        for guard in transition.guards:
            if (reason := guard(facts)) is not None:
                reasons.append(reason)
                if position.curt:
                    break
        if not reasons and transition.budget is not None and _spent(transition, facts) >= transition.budget:
            reasons = [Reason(f"{transition.trigger} was already taken {transition.budget} times since the last rest")]
        if reasons:
            position.reasons.extend(reasons)
            return False
        position.taken = transition
        return True


class _Table(transitions.Machine):
    transition_cls = _Gate


def budget_key(transition: Transition) -> str:
    """Names a transition's budget in the data: it must not change when other transitions come or go."""
    return f"{'|'.join(transition.sources)} {transition.trigger} {transition.target}"


def _budgets(data: Mapping[str, Json]) -> dict[str, Json]:
    budgets = data.get(BUDGETS)
    return dict(budgets) if isinstance(budgets, dict) else {}


def _spent(transition: Transition, facts: Facts) -> int:
    spent = _budgets(facts.snapshot.data).get(budget_key(transition))
    return spent if isinstance(spent, int) else 0


def _why(trigger: str, taken: Transition, facts: Facts, passed_over: list[Reason]) -> str:
    """The table's words, and what a person would ask next: which step, whose wish, what stood in the better way."""
    words = taken.reason or trigger
    details: list[str] = []
    if trigger == On.STEP_FAILED:
        details = [
            f"{step.planned.name} {step.status}: {step.error or 'no reason given'}" for step in failed_steps(facts)
        ]
    elif trigger in _RAISED_BY_ENGINE:
        details = list(dict.fromkeys(passed_over))
    # Not getattr: a pydantic model takes microseconds to say that it has no such field.
    elif isinstance(wish := vars(facts.event.data).get("reason"), str):
        details = [wish]
    return f"{words}: {'; '.join(details)}" if details else words
