"""What the owner of a shard holds, reads before it decides, and writes in one transaction. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from machines.model import InstanceId, Snapshot
from schemas.record import record
from service.ports.gates import GateChange, GateRow
from service.ports.leftovers import DeadLetter
from service.ports.rows import (
    EventKey,
    InboxRow,
    LogRow,
    Observation,
    OutMessage,
    SnapshotWrite,
    StepChange,
    StepRow,
    TimerRow,
    Token,
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything one micro-batch writes, in one transaction that first checks the owner's token.

    `sent` are outbox rows that the broker confirmed: they are deleted. Snapshots replace, steps_new insert, `leave`
    cancels every step of these state entries that has not ended and deletes their timers (applied after `step_changes`,
    before `steps_new` and `timers`).
    """

    shard: int
    token: Token
    at: datetime
    inbox: tuple[InboxRow, ...] = ()
    log: tuple[LogRow, ...] = ()
    snapshots: tuple[SnapshotWrite, ...] = ()
    leave: tuple[tuple[InstanceId, int], ...] = ()
    steps_new: tuple[StepRow, ...] = ()
    step_changes: tuple[StepChange, ...] = ()
    timers: tuple[TimerRow, ...] = ()
    timers_fired: tuple[TimerRow, ...] = ()
    signals_done: tuple[int, ...] = ()
    outbox: tuple[OutMessage, ...] = ()
    sent: tuple[int, ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    observations: tuple[Observation, ...] = ()
    gates: tuple[GateChange, ...] = ()

    @property
    def releases(self) -> bool:
        """Rows go to the outbox that are not among this batch's own: it has to be read."""
        return any(gate.released for gate in self.gates)


@record
class Loaded:
    """An instance as the store has it: snapshot None when it is new; the steps of its current state entry."""

    snapshot: Snapshot | None
    steps: tuple[StepRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What intake must know before it decides: which events have outcomes already, and the instances they mean."""

    known: Mapping[EventKey, InboxRow]
    instances: Mapping[InstanceId, Loaded]
    live_runs: Mapping[str, Mapping[InstanceId, str]] = field(default_factory=dict)
    """By system: the instances under way (they have a dwell or a deadline) and their states."""
    gates: Mapping[str, GateRow] = field(default_factory=dict)
    """By system, of those that were asked for."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """A shard's lease. `lasts` is measured from before the request was sent, by the owner's own monotonic clock.

    `compared_until`: up to this moment of the database's clock the shard's log was known to hold all that was published
    (None: never looked at). `compared`: every owner has looked before it decided, so that what is missing is the end.
    """

    shard: int
    token: Token
    lasts: timedelta
    compared_until: datetime | None = None
    compared: bool = False


@dataclass(frozen=True, slots=True)
class Publication:
    """A log row as a notification told of it. `entry`: the state entry after it, 0 where none is told (refusals)."""

    system: str
    instance: InstanceId
    epoch: int
    seq: int
    at: datetime
    event: EventKey
    event_type: str
    state: str
    entry: int = 0


@dataclass(frozen=True, slots=True)
class Loss:
    """What one system's log has lost: in words for people, to be kept; nothing of it (`said` None) for another one of
    the shard. `signal` is the event that tells its machines."""

    system: str
    said: str | None
    signal: str
