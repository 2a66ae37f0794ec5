"""The events that Relight takes in, their typed `data`, and the one list of them. No machine and no I/O lives here.

A new event type is one model and one line in `EVENTS`; its queue binding, its JSON Schema and its authority follow.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import NAME_PATTERN, Closed, Instance, Json, Moment, Name, Text

PREFIX = "relight."

Number = Annotated[float, Field(strict=True)]


class Lane(StrEnum):
    """Control events overtake the others: a flood of measurements or operations never delays a cancel."""

    CONTROL = "control"
    METRICS = "metrics"


class Right(StrEnum):
    """The keys of a system's `allow:`; `operate` alone is guarded by the gate's own `from:`."""

    RESTART = "restart"
    RECOVER = "recover"
    TASKS = "tasks"
    ACT = "act"
    APPROVE = "approve"
    OBSERVE = "observe"
    ANSWER = "answer"
    OPERATE = "operate"


class RestartRequested(Closed):
    """Somebody wants the system restarted. `due` is when the pause begins; absent: as soon as the notice has passed.

    `override` says why a freeze does not count this time; it is for those whom `allow.act` names.
    """

    reason: Text
    due: Moment | None = None
    override: Text | None = None


class RestartCancelled(Closed):
    """Somebody takes the restart back; possible until the point of no return."""

    reason: Text


class ApprovalGiven(Closed):
    """Somebody agrees to what waits for approval: to this `plan` (SHA-256, hex) and to no other."""

    instance: Instance
    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    reason: Text


class ApprovalDenied(Closed):
    """Somebody does not agree to the `plan` (SHA-256, hex) that waits for approval."""

    instance: Instance
    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    reason: Text


class MetricObserved(Closed):
    """One measurement. `value` is in the unit of the alert that watches it; `at` is when it was measured."""

    metric: Name
    value: Number
    at: Moment | None = None


class AnswerOutcome(StrEnum):
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class ParticipantAnswered(Closed):
    """A component answers the command `commandid`.

    `digest` is the SHA-256 (hex) of what was flushed or loaded, `where` the URL it can be read back from,
    `values` what the component measures of itself (for the metrics system: win_rate, pnl, sharpe, …).
    """

    component: Name
    commandid: Annotated[str, Field(min_length=1, max_length=300)]
    token: int
    outcome: AnswerOutcome
    detail: Annotated[str, Field(max_length=2000)] = ""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    where: Annotated[str, Field(max_length=1000)] | None = None
    values: dict[str, Number | int | str | bool | None] = Field(default_factory=dict)


class Act(StrEnum):
    RETRY = "retry"
    WAIVE = "waive"
    ABORT = "abort"
    ADOPT = "adopt"
    HANDS_OFF = "hands-off"


class OperatorActed(Closed):
    """A person acts on a stuck instance. `step` names the step that retry and waive mean; a waiver needs `until`."""

    instance: Instance
    act: Act
    reason: Text
    step: Annotated[str, Field(max_length=200)] | None = None
    until: Moment | None = None


class ChecklistSigned(Closed):
    """A person signs an item of a run's checklist, in the checklist's own words: done, and `reason` says how or where.

    `restart` names the run; absent: the one under way, or else the newest.
    """

    instance: Instance
    item: Annotated[str, Field(min_length=1, max_length=200)]
    reason: Text
    restart: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class OperationRequested(Closed):
    """Work for the system, taken through its gate: `operation` names it (`orders.submit`), `payload` is its own.

    It is void after `expires`, which never makes it wait longer than the gate's own span. It goes on to the exchange
    `relight.operations` as it arrived, with the routing key `<system>.<operation>`.
    """

    operation: Annotated[str, Field(pattern=rf"^{NAME_PATTERN}(\.{NAME_PATTERN}){{0,2}}$", max_length=150)]
    payload: Json = None
    expires: Moment | None = None


class SystemRegistered(Closed):
    """Relight has read a system's file for the first time, or is told to look at the system anew."""

    config_hash: str


class StepReported(Closed):
    """A worker tells what became of a step of the state entry `entry`, which was an entry of `state`."""

    instance: Instance
    entry: int
    state: str
    step: str
    attempt: int
    outcome: Literal["started", "done", "retrying", "waiting", "failed", "unknown"]
    result: dict[str, Json] = Field(default_factory=dict)
    error: str | None = None
    seconds: float | None = None
    whom: str | None = None
    until: Moment | None = None


class TimerFired(Closed):
    """A due time has come. `kind` is `dwell`, `deadline`, `completed` (a state without steps) or `step:<name>`."""

    instance: Instance
    entry: int
    kind: str


class LostEvent(Closed):
    """An event that was taken in and whose outcome is lost: published once more, with this id, it is taken in anew."""

    type: str
    id: str
    source: str


class DatabaseLost(Closed):
    """Relight's database lacks what it had published already: it was restored from a backup, or failed over with loss.

    `epoch` counts from now on. `rows`: how many rows of this system's logs are gone (0: only others' of its shard),
    published between `first` and `last`; `entry`: the last state entry of its lifecycle that they tell of. `told` are
    the newest of them in words, `events` the newest that led to them; both are bounded.
    """

    epoch: int
    rows: int
    reason: Text
    first: Moment | None = None
    last: Moment | None = None
    entry: int = 0
    told: list[str] = Field(default_factory=list)
    events: list[LostEvent] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EventType:
    """What Relight knows of one type of event. `right` None: no key of `allow:` guards it (it is engine-raised)."""

    name: str
    data: type[Closed]
    lane: Lane
    right: Right | None

    @property
    def engine_raised(self) -> bool:
        return self.right is None


EVENTS: dict[str, EventType] = {
    kind.name: kind
    for kind in (
        EventType("restart.requested", RestartRequested, Lane.CONTROL, Right.RESTART),
        EventType("restart.cancelled", RestartCancelled, Lane.CONTROL, Right.RESTART),
        EventType("approval.given", ApprovalGiven, Lane.CONTROL, Right.APPROVE),
        EventType("approval.denied", ApprovalDenied, Lane.CONTROL, Right.APPROVE),
        EventType("metric.observed", MetricObserved, Lane.METRICS, Right.OBSERVE),
        EventType("participant.answered", ParticipantAnswered, Lane.CONTROL, Right.ANSWER),
        EventType("operator.acted", OperatorActed, Lane.CONTROL, Right.ACT),
        EventType("checklist.signed", ChecklistSigned, Lane.CONTROL, Right.ACT),
        EventType("operation.requested", OperationRequested, Lane.METRICS, Right.OPERATE),
        EventType("system.registered", SystemRegistered, Lane.CONTROL, None),
        EventType("step.reported", StepReported, Lane.CONTROL, None),
        EventType("timer.fired", TimerFired, Lane.CONTROL, None),
        EventType("database.lost", DatabaseLost, Lane.CONTROL, None),
    )
}
"""By name without the prefix `relight.`."""
