"""Walking through every configuration a machine can get into, over a small abstract set of facts.

Nothing is decided here. A configuration is a state, the progress of its steps, what the data remembers in outline, and
the moment. The rules by which configurations follow each other are the engine's, in miniature: steps in positions,
`step.failed`, `completed`, `deadline.passed`, a crash between any two. The verdicts are the real chart's on real facts.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from machines.chart import BUDGETS, Chart
from machines.evidence import record
from machines.model import (
    SETTLED,
    Event,
    Facts,
    InstanceId,
    Machine,
    Move,
    On,
    Snapshot,
    StepFact,
    StepStatus,
    Verdict,
)
from machines.plan import plan
from machines.samples import EVIDENCE, SETTLED_ALIKE, SPAN, STANDING, START, SYSTEMS, THIS_PLAN, instances, samples
from machines.watching import HISTORY, Memory, Taken
from schemas.base import Closed, Json
from schemas.events import ApprovalDenied, ApprovalGiven
from schemas.system import System

Data = Mapping[str, Json]
Key = tuple[object, ...]


class Outcome(StrEnum):
    """What may become of a step. `bad`: done, but the evidence is not what was hoped for."""

    GOOD = "good"
    BAD = "bad"
    PROCEEDED = "proceeded"
    WAIVED = "waived"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Configuration:
    """Where an instance may stand. `proofs`: what has been shown since it was last put in doubt, counted apart from the
    machine's own data (`checks`: the last checks all passed; `snapshot`: what was sealed was read back)."""

    state: str
    entered: bool
    data: Data
    steps: tuple[StepFact, ...]
    moment: int = 0
    dwelled: bool = False
    proofs: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> Key:
        """What is told apart when configurations are explored: all but the `HISTORY` that nobody reads."""
        return (self.whole[0], tuple(pair for pair in self.whole[1] if pair[0] not in HISTORY), *self.whole[2:])

    @cached_property
    def whole(self) -> tuple[str, tuple[tuple[str, str], ...], bool, Key, int, bool, frozenset[str]]:
        """The same with everything that is remembered."""
        # Steps of one position are alike: which of two checks failed makes no other course than the other one failing.
        steps = tuple(sorted((s.planned.position, s.planned.action, s.status, _outline(s.result)) for s in self.steps))
        data = tuple(sorted((name, _remembered(self.state, name, value)) for name, value in self.data.items()))
        return (self.state, data, self.entered, steps, self.moment, self.dwelled, self.proofs)


@dataclass(frozen=True)
class Edge:
    """One way from a configuration to the next. `automatic`: nobody outside has to do anything for it."""

    source: Configuration
    target: Configuration
    trigger: str | None
    automatic: bool


@dataclass
class Exploration:
    """What was seen: every configuration by key, the edges between them, the transitions taken, what went wrong."""

    configurations: dict[Key, Configuration] = field(default_factory=dict)
    edges: list[tuple[Key, Key, str | None, bool]] = field(default_factory=list)
    taken: set[tuple[str, str, str]] = field(default_factory=set)
    opened: set[int] = field(default_factory=set)
    """Indexes into the machine's transitions."""
    faults: dict[tuple[str, str], str] = field(default_factory=dict)
    """(kind, where) to what: a guard that raised, an entry without its proof."""


class Explorer:
    """One machine, one system, one instance."""

    def __init__(self, machine: Machine, system: System, instance: InstanceId) -> None:
        self.machine, self.system, self.instance = machine, system, instance
        self._taken = Taken(machine)
        self._chart = Chart(self._taken.machine)
        self.samples = samples(machine, instance)
        self._snapshot: tuple[Configuration, Snapshot, Memory] | None = None
        self._events: dict[tuple[str, int, int], Event] = {}
        self.states = {str(state.name): state for state in machine.states}
        self._plans: dict[str, tuple[StepFact, ...]] = {}
        self._moments = 4 if any(state.dwell is not None and not state.steps for state in machine.states) else 1

    def explore(self, limit: int = 200_000) -> Exploration:
        """Breadth first from the initial state. Raises RuntimeError beyond `limit` configurations."""
        seen = Exploration()
        first = Configuration(str(self.machine.initial), False, {}, ())
        queue = deque([first])
        seen.configurations[first.key] = first
        while queue:
            here = queue.popleft()
            key = here.key
            for edge in self._next(here, seen):
                there = edge.target.key
                seen.edges.append((key, there, edge.trigger, edge.automatic))
                if there not in seen.configurations:
                    seen.configurations[there] = edge.target
                    queue.append(edge.target)
            if len(seen.configurations) > limit:
                raise RuntimeError(f"{self.instance}: more than {limit} configurations")
        seen.opened = {i for i, transition in enumerate(self.machine.transitions) if i in self._taken.indexes}
        return seen

    def _next(self, here: Configuration, seen: Exploration) -> Iterator[Edge]:
        state = self.states[here.state]
        for trigger in self.raised(here):
            if (there := self.decided(here, trigger, None, seen)) is not None:
                yield Edge(here, there, trigger, True)
                # The engine raises these in the very transaction that settles the step: nothing comes in between.
                return
        for step in open_steps(here.steps):
            for outcome in possible(step):
                settled = self.stayed(settle(here, step, outcome), outcome, seen)
                yield Edge(here, settled, None, outcome is not Outcome.WAIVED)
        if state.dwell is not None and not here.dwelled:
            yield Edge(here, self.dwelt(here), None, True)
        if state.deadline is not None and (there := self.decided(here, On.DEADLINE_PASSED, None, seen)) is not None:
            yield Edge(here, there, On.DEADLINE_PASSED, True)
        for trigger, event in self.samples:
            if (there := self.decided(here, trigger, event, seen)) is not None:
                yield Edge(here, there, trigger, False)
        if here.moment + 1 < self._moments:
            yield Edge(here, replace(here, moment=here.moment + 1), None, False)

    def dwelt(self, here: Configuration) -> Configuration:
        """The state's dwell has passed."""
        return replace(here, dwelled=True, moment=min(here.moment + 1, self._moments - 1))

    def stayed(self, here: Configuration, outcome: Outcome, seen: Exploration) -> Configuration:
        """What a step's success changes while the state goes on: the data only, by a transition that stays."""
        if outcome is not Outcome.GOOD or On.STEP_DONE not in self._chart.possible(here.state):
            return here
        verdict = self._decide(here, On.STEP_DONE, None, seen)
        if not isinstance(verdict, Move):
            return here
        seen.taken.add((here.state, On.STEP_DONE, verdict.target))
        data = {name: value for name, value in {**here.data, **verdict.changes}.items() if value is not None}
        return replace(here, data=data)

    def raised(self, here: Configuration) -> tuple[str, ...]:
        """What the engine raises by itself in the transaction that brought it `here`."""
        if not here.entered:
            return ()
        state = self.states[here.state]
        if any(step.status is StepStatus.FAILED and not step.planned.optional for step in here.steps):
            return (On.STEP_FAILED,)
        settled = all(_passed(step) for step in here.steps)
        waited = here.dwelled or state.dwell is None
        ends = not (state.resting or state.final or state.asks is not None)
        return (On.COMPLETED,) if settled and waited and ends else ()

    def decided(
        self, here: Configuration, trigger: str, data: Closed | None, seen: Exploration
    ) -> Configuration | None:
        """Where the chart moves `here` on `trigger`; None: nowhere."""
        verdict = self._decide(here, trigger, data, seen)
        if not isinstance(verdict, Move):
            return None
        seen.taken.add((here.state, trigger, verdict.target))
        there = self._entered(here, verdict)
        for state, proof in _PROOFS.items():
            if verdict.target == state and here.state != state and proof not in there.proofs:
                seen.faults["unproven_entry", f"{here.state} on {trigger}"] = (
                    f"{state} is entered although its proof ({proof}) was not given"
                )
        return there

    def _entered(self, here: Configuration, move: Move) -> Configuration:
        data = {name: value for name, value in {**here.data, **move.changes}.items() if value is not None}
        if move.stay:
            return replace(here, data=data)
        return Configuration(
            move.target, True, data, self._planned(move.target, data), here.moment, False, _proven(here)
        )

    def _planned(self, target: str, data: Data) -> tuple[StepFact, ...]:
        """The steps of an entry of `target`: worked out once a state, since the plan is the system's alone."""
        if (known := self._plans.get(target)) is None:
            planned = plan(self.machine, self.states[target], self.system, data)
            self._plans[target] = known = tuple(StepFact(step, StepStatus.PLANNED, 1) for step in planned)
        return known

    def _decide(self, here: Configuration, trigger: str, data: Closed | None, seen: Exploration) -> Verdict | None:
        """The real chart's verdict. None: a guard raised. Whatever is wrong with how it was reached is noted."""
        snapshot, memory = self._remembering(here)
        memory.history_read = False
        event = self._event(here, trigger, data)
        facts = Facts(event.at, event, snapshot, self.system, here.steps)
        try:
            verdict = self._chart.decide(trigger, facts)
            # Asked twice the first time a pair moves: a verdict that depends on anything but the facts shows there.
            first = isinstance(verdict, Move) and (here.state, trigger, verdict.target) not in seen.taken
            again = self._chart.decide(trigger, facts) if first else verdict
        except Exception as error:  # noqa: BLE001  # whatever a guard raises is a finding, named with its place
            seen.faults["guard_raised", f"{here.state} on {trigger}"] = f"{type(error).__name__}: {error}"
            return None
        if verdict != again:
            seen.faults["not_pure", f"{here.state} on {trigger}"] = "the same facts gave two different verdicts"
        if memory.history_read:
            seen.faults["history_read", f"{here.state} on {trigger}"] = (
                f"it depends on {' or '.join(sorted(HISTORY))}, which is taken to be for people alone: then take that "
                "name out of HISTORY in machines/watching.py, so that configurations are told apart by it"
            )
        return verdict

    def _event(self, here: Configuration, trigger: str, data: Closed | None) -> Event:
        key = (trigger, id(data), here.moment)  # the samples live as long as the explorer
        if (known := self._events.get(key)) is not None:
            return known
        name = "operator.acted" if trigger.startswith("operator.") else trigger
        # Who asks for something never approves it.
        user = "ben" if trigger.startswith("approval.") else "ana"
        about = _about_this_plan(data if data is not None else Closed(), here.data)
        event = Event("1", "explore", name, self.system.system, about, START + SPAN * here.moment, user=user)
        if not trigger.startswith("approval."):
            self._events[key] = event
        return event

    def _remembering(self, here: Configuration) -> tuple[Snapshot, Memory]:
        """The snapshot of `here`: one for all that is tried there."""
        if self._snapshot is None or self._snapshot[0] is not here:
            memory = Memory(here.data)
            snapshot = Snapshot(
                instance=self.instance,
                system=self.system.system,
                machine=self.machine.name,
                machine_version=self.machine.version,
                config_hash=STANDING,
                epoch=1,
                seq=int(here.entered),
                state=here.state,
                entry=int(here.entered),
                entered_at=START + SPAN * here.moment,
                data=memory,
            )
            self._snapshot = here, snapshot, memory
        return self._snapshot[1:]


_PROOFS = {"operational": "checks", "shutting_down": "snapshot"}
"""What must have been shown before these states are entered, whatever guards the table has."""

_DOUBT = frozenset({"component.start", "component.stop", "participant.pause"})
"""Actions after which earlier checks prove nothing any more."""

_STANDS_STILL = frozenset({"participant.disconnect", "component.stop", "component.confirm_stopped", "notice.tell"})
"""Actions during which the system goes on holding what its system snapshot says."""


def _proven(left: Configuration) -> frozenset[str]:
    """The proofs that hold when `left` has been left, from the evidence alone."""
    proofs = set(left.proofs)
    actions = {step.planned.action for step in left.steps}
    checks = [step for step in left.steps if step.planned.action == "check.run"]
    if checks:
        proofs.discard("checks")
        if all(step.status is StepStatus.DONE and step.result.get("passed") is True for step in checks):
            proofs.add("checks")
    elif actions & _DOUBT:
        proofs.discard("checks")
    if actions - _STANDS_STILL:
        proofs.discard("snapshot")
    read = {step.planned.action: step for step in left.steps if step.status is StepStatus.DONE}
    sealed, back = read.get("snapshot.seal"), read.get("snapshot.verify")
    if sealed and back and back.result.get("verified") and back.result.get("sha256") == sealed.result.get("sha256"):
        proofs.add("snapshot")
    return frozenset(proofs)


def _about_this_plan(data: Closed, remembered: Data) -> Closed:
    """An approval of the plan that is asked about here, where the sample leaves open which one it means."""
    if isinstance(data, ApprovalGiven | ApprovalDenied) and data.plan == THIS_PLAN:
        plan_hash = record(record(remembered, "restart"), "approval").get("plan")
        return data.model_copy(update={"plan": plan_hash or THIS_PLAN})
    return data


def open_steps(steps: tuple[StepFact, ...]) -> Iterator[StepFact]:
    """The steps that may be worked on now: the lowest position that is not settled."""
    waiting = [step for step in steps if not _passed(step)]
    if waiting:
        lowest = min(step.planned.position for step in waiting)
        yield from (s for s in waiting if s.planned.position == lowest and s.status is StepStatus.PLANNED)


def _passed(step: StepFact) -> bool:
    return step.status in SETTLED or (step.planned.optional and step.status is StepStatus.FAILED)


def possible(step: StepFact) -> tuple[Outcome, ...]:
    """What may become of `step`, as far as guards could tell it apart."""
    action = step.planned.action
    bad = (Outcome.BAD,) if EVIDENCE.get(action, ({}, None))[1] is not None else ()
    # Both are settled without having been done; a participant's silence stands for its waiver too.
    passed_over = Outcome.PROCEEDED if action.startswith("participant.") else Outcome.WAIVED
    if action in SETTLED_ALIKE:
        return (Outcome.GOOD, Outcome.FAILED, Outcome.UNKNOWN)
    return (Outcome.GOOD, *bad, passed_over, Outcome.FAILED, Outcome.UNKNOWN)


_STATUS = {
    Outcome.GOOD: StepStatus.DONE,
    Outcome.BAD: StepStatus.DONE,
    Outcome.PROCEEDED: StepStatus.PROCEEDED,
    Outcome.WAIVED: StepStatus.WAIVED,
    Outcome.FAILED: StepStatus.FAILED,
    Outcome.UNKNOWN: StepStatus.UNKNOWN,
}


def settle(here: Configuration, step: StepFact, outcome: Outcome) -> Configuration:
    """The same place, `step` having ended so."""
    good, bad = EVIDENCE.get(step.planned.action, ({}, None))
    result = {Outcome.GOOD: good, Outcome.BAD: bad}.get(outcome) or {}
    error = None if outcome in (Outcome.GOOD, Outcome.BAD) else outcome.value
    ended = StepFact(step.planned, _STATUS[outcome], step.attempt, result, error)
    steps = tuple(ended if s is step else s for s in here.steps)
    return Configuration(here.state, here.entered, here.data, steps, here.moment, here.dwelled, here.proofs)


_EXACT = frozenset({BUDGETS, "level", "breached_at", "critical_at", "measured_at"})
"""What is told apart by value; of everything else only that it is remembered matters to the guards."""


def _remembered(state: str, name: str, value: Json) -> str:
    if name == "failure" and state == "halted" and isinstance(value, dict):
        return repr(value.get("state"))  # where the way was left decides where a retry leads
    return repr(value) if name in _EXACT else ""


def _outline(result: Mapping[str, Json]) -> str:
    return _OUTLINES.get(id(result)) or repr(sorted(result.items()))


_OUTLINES = {id(one): repr(sorted(one.items())) for pair in EVIDENCE.values() for one in pair if one is not None}
"""Of the evidence that lives as long as this module."""


def explorers(machine: Machine) -> Iterator[Explorer]:
    """One for each abstract system and each instance that the machine has for it."""
    for system in SYSTEMS:
        for instance in instances(machine, system):
            yield Explorer(machine, system, instance)
