"""The nouns a machine is made of: states, transitions, guards, steps, facts, snapshots. Data and pure functions only.

A machine is one file of `State`s and `Transition`s beside this one; nothing that decides its course stands elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import NewType

from schemas.base import Closed, Json
from schemas.components import Command, OnSilence
from schemas.record import record
from schemas.system import System

InstanceId = NewType("InstanceId", str)
"""`lifecycle/metrics`, `alert/metrics/memory`."""

Reason = NewType("Reason", str)
"""Why not: one sentence for a person."""


@record
class Event:
    """A fact or a request, already valid. `name` is its type without `relight.`; `at` is when it was taken in (UTC)."""

    id: str
    source: str
    name: str
    system: str
    data: Closed
    at: datetime
    user: str | None = None
    local: bool = False
    causation: str | None = None
    correlation: str | None = None
    depth: int = 0
    traceparent: str | None = None


class StepStatus(StrEnum):
    """Where a step stands. The engine plans, readies, cancels and waives; the runner does the rest."""

    PLANNED = "planned"
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    PROCEEDED = "proceeded"
    WAIVED = "waived"
    FAILED = "failed"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"


SETTLED = frozenset({StepStatus.DONE, StepStatus.PROCEEDED, StepStatus.WAIVED})
"""The step needs nothing more and the next may begin."""
ENDED = SETTLED | {StepStatus.FAILED, StepStatus.CANCELLED}
"""Nobody works on the step any more, unless a person retries it."""


class Each(StrEnum):
    """For whom a step of the table is planned."""

    SYSTEM = "system"
    COMPONENT = "component"
    COMPONENT_REVERSED = "component_reversed"
    CHECK = "check"
    DATABASE = "database"
    BACKUP = "backup"
    """A database that `restart.backup` names."""


@dataclass(frozen=True, slots=True)
class Step:
    """A side effect that belongs to a state, as the table has it; `plan.py` makes `PlannedStep`s of it.

    `timeout` is for one attempt; `limit` names the span of the system's `restart.limits`, or else of `restart`, that
    replaces it. `when` (of the system): planned only then. `arguments` (of the system) are what the action is told,
    planned into each of its `PlannedStep`s.
    `takes`: planned only for components that answer this command; `keep`: also for components that a restart keeps.
    `asks_again`: a participant whose silence would end the step is asked again while attempts are left: what comes
    after the point of no return is not given up at the first silence.
    `optional`: its failure is recorded and the state goes on.
    `every` names a span like `limit`: not planned on entry, but anew whenever that span has passed in the state, beside
    its other steps, as rounds `renew:calculator:1`, `:2`, … `on_silence` replaces what the component's file says.
    """

    name: str
    action: str
    each: Each = Each.SYSTEM
    timeout: timedelta = timedelta(seconds=30)
    limit: str | None = None
    attempts: int = 1
    takes: Command | None = None
    keep: bool = False
    optional: bool = False
    asks_again: bool = False
    arguments: Callable[[System], Mapping[str, Json]] | None = None
    when: Callable[[System], bool] | None = None
    every: str | None = None
    on_silence: OnSilence | None = None


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of one state entry: `pause:calculator` does `participant.pause` with `arguments`.

    Steps of the same `position` run side by side; a position begins when all lower ones are settled.
    """

    name: str
    action: str
    position: int
    timeout: timedelta
    attempts: int
    component: str | None = None
    arguments: Mapping[str, Json] = field(default_factory=dict)
    optional: bool = False
    on_silence: OnSilence = OnSilence.ABORT
    asks_again: bool = False


@record
class StepFact:
    """A planned step and what has become of it so far. `result` is the evidence its action returned."""

    planned: PlannedStep
    status: StepStatus
    attempt: int = 0
    result: Mapping[str, Json] = field(default_factory=dict)
    error: str | None = None


@record
class Snapshot:
    """An instance as persisted after a transition: the fold of its log.

    `seq` counts its log rows (0: no row yet), `entry` its state entries. `dwell_until`: not left as completed before;
    `deadline_at`: then the state's deadline passes. `hash` (hex) is the head of its chain.
    """

    instance: InstanceId
    system: str
    machine: str
    machine_version: int
    config_hash: str
    epoch: int
    seq: int
    state: str
    entry: int
    entered_at: datetime
    dwell_until: datetime | None = None
    deadline_at: datetime | None = None
    data: Mapping[str, Json] = field(default_factory=dict)
    hash: str = ""


@record
class Facts:
    """All that a guard or a change may look at. `steps` are those of the current state entry.

    `live_runs` are the other instances of the system that are under way (id to state), for interlocks.
    """

    now: datetime
    event: Event
    snapshot: Snapshot
    system: System
    steps: tuple[StepFact, ...] = ()
    live_runs: Mapping[InstanceId, str] = field(default_factory=dict)


Guard = Callable[[Facts], Reason | None]
Changes = Callable[[Facts], Mapping[str, Json]]
"""What a transition writes into the snapshot's data; a None value removes the key."""

WaitFor = timedelta | Callable[[System, Mapping[str, Json], datetime], datetime | None]
"""A fixed span, or (system, data after the transition, now) to the moment itself (None: no such wait)."""


@dataclass(frozen=True, slots=True)
class Asks:
    """What a state waits for from people: `whom` they are, and what happens `then`, when the deadline passes.

    `plan` is the hash of what they are asked about.
    """

    whom: str
    then: str
    plan: str


@dataclass(frozen=True)
class State:
    """One state. It is `final`, `resting` (safe to stay in for ever) or has a `dwell` or `deadline` that ends it.

    `completed` is raised when all its steps are settled and its dwell has passed; never in a resting state, nor in one
    that `asks` people, by what the data says: only an event or the deadline ends it. What either does is optional.
    `then` says for people what happens when the deadline passes: `abort and resume`.
    `passes`: operations pass the system's gate in it; in every other state they are held.
    `when` (of the system): a run comes here only then; what leads here has a guard that says the same.
    """

    name: str
    resting: bool = False
    final: bool = False
    passes: bool = False
    dwell: WaitFor | None = None
    deadline: WaitFor | None = None
    then: str = ""
    steps: tuple[Step, ...] = ()
    asks: Callable[[Mapping[str, Json]], Asks] | None = None
    when: Callable[[System], bool] | None = None

    @cached_property
    def status(self) -> str:
        """`preparing_for_restart.notifying` has the status `Preparing for Restart`."""
        words = self.name.split(".")[0].split("_")
        return " ".join(word if word == "for" else word.capitalize() for word in words)


@dataclass(frozen=True, slots=True)
class Transition:
    """An allowed move on `trigger`: the first whose guards all answer None is taken, in the order of the table.

    `budget` bounds how often it may be taken between two rests (None: not bounded); spent budgets are kept in
    the snapshot's data under `budgets`.
    """

    source: str | tuple[str, ...]
    trigger: str
    target: str
    guards: tuple[Guard, ...] = ()
    changes: Changes | None = None
    reason: str = ""
    budget: int | None = None
    stay: bool = False
    """Logged without entering the state anew: its steps go on; dwell and deadline are computed again."""

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source


class On(StrEnum):
    """Triggers that the engine raises itself; all others name events (`restart.requested`, `operator.retry`)."""

    COMPLETED = "completed"
    STEP_DONE = "step.done"
    """A step succeeded. Only a `stay` transition may be taken on it: the state's other steps go on."""
    STEP_FAILED = "step.failed"
    DEADLINE_PASSED = "deadline.passed"


Address = Callable[[Event], InstanceId | None]


@dataclass(frozen=True, eq=False)  # itself alone: what is derived from its table is remembered by its identity
class Machine:
    """A definition. `address` says which instance an event means (None: not this machine's business).

    `absorbs` names the triggers that may move nothing without being refused: a measurement within its limits.
    `explain` says in the machine's own words why a trigger is not possible in the state of these facts (None: no better
    words than the general ones). `withholds` says of a person's act that the table has in a state why it is not
    possible by what the instance remembers: such an act is not offered.
    """

    name: str
    version: int
    initial: str
    states: tuple[State, ...]
    transitions: tuple[Transition, ...]
    address: Address
    absorbs: frozenset[str] = frozenset()
    explain: Callable[[str, "Facts"], Reason | None] | None = None
    withholds: Callable[[str, str, Mapping[str, Json]], Reason | None] | None = None

    def state(self, name: str) -> State:
        """The state called `name`. Raises KeyError when this machine has none."""
        try:
            return self._states_by_name[name]
        except KeyError:
            raise KeyError(f"machine {self.name} version {self.version} has no state {name!r}") from None

    @cached_property
    def _states_by_name(self) -> Mapping[str, State]:
        return {state.name: state for state in self.states}


@record
class Move:
    """A decided transition: the fold applies `changes` to the data and never decides again."""

    target: str
    changes: Mapping[str, Json]
    reason: str
    stay: bool = False


@record
class Refusal:
    """Nothing moves, and why."""

    reasons: tuple[Reason, ...]


@record
class Absorbed:
    """Nothing moves and nothing needs saying."""


Verdict = Move | Refusal | Absorbed
