"""The rows of events, instances, steps, timers and the outbox: values that nobody changes, and only data."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType

from machines.model import InstanceId, PlannedStep, Snapshot, StepStatus
from schemas.base import Json
from schemas.record import record

Token = NewType("Token", int)
"""A fencing token: grows with every lease given, for shards and for steps, from one sequence."""


EPOCH_BITS = 40
"""A token is the epoch shifted by this, plus a number of the one sequence: those of a later epoch are larger."""


def epoch_of(token: Token) -> int:
    """The generation of Relight's database in which the token was given."""
    return token >> EPOCH_BITS


MAX_ID = 220
"""Bytes of an id that we make: AMQP carries 255 of a message id, and suffixes are put on some."""


def short_id(text: str) -> str:
    """`text` itself, or if that is too long for a message id, the start and the SHA-256 of the whole: as stable."""
    whole = text.encode()
    if len(whole) <= MAX_ID:
        return text
    # What arrived may be written in any alphabet, and a cut may go through a letter.
    return f"{whole[: MAX_ID - 33].decode(errors='ignore')}~{hashlib.sha256(whole).hexdigest()[:32]}"


@record
class EventKey:
    """What CloudEvents calls an event's identity."""

    source: str
    id: str


@record
class InboxRow:
    """An event that has its outcomes. `body_hash` is the SHA-256 of the body as it arrived; outcomes by instance id
    (or `-` where no instance was meant): applied, absorbed, refused, dead."""

    key: EventKey
    body_hash: bytes
    outcomes: Mapping[str, str]


@record
class LogRow:
    """One row of an instance's log. `record` is canonical JSON; its hash, chained to `previous`, is `hash`."""

    instance: InstanceId
    epoch: int
    seq: int
    kind: str
    """`transition` or `refusal`."""
    at: datetime
    state_from: str
    state_to: str
    event: EventKey
    event_type: str
    user: str | None
    causation: str | None
    correlation: str | None
    machine_version: int
    config_hash: str
    record: str
    previous: str
    hash: str


@record
class SnapshotWrite:
    """The snapshot after the batch and the `seq` it must still have in the store (0: the instance is new)."""

    snapshot: Snapshot
    expected_seq: int


@record
class StepKey:
    instance: InstanceId
    entry: int
    name: str

    @property
    def command_id(self) -> str:
        """Names the effect of this step, whatever the attempt: the idempotency key of a participant's command."""
        whole = f"{self.instance}:{self.entry}:{self.name}"
        if len(whole) <= MAX_ID:
            return whole
        # The instance stays readable: an answer finds its way by it.
        return f"{self.instance}:{self.entry}:~{hashlib.sha256(self.name.encode()).hexdigest()[:16]}"


@record
class StepRow:
    """A step as stored. `ready_at`: not claimed before. `token`, `worker`, `lease_until` of the last claim.

    `answer` is what arrived for its command (a ParticipantAnswered as JSON, or `{"silent": true}`).
    """

    key: StepKey
    system: str
    place: str
    planned: PlannedStep
    status: StepStatus
    state: str
    config_hash: str
    attempt: int = 0
    ready_at: datetime | None = None
    token: Token | None = None
    worker: str | None = None
    lease_until: datetime | None = None
    answer: Mapping[str, Json] | None = None
    result: Mapping[str, Json] = field(default_factory=dict)
    error: str | None = None


@record
class StepChange:
    """What intake does to a stored step: applied only while its status is one of `only_from`.

    An `answer` makes a waiting step ready and leaves a running one running (`status` and `ready_at` do not touch it):
    the participant was quicker than the runner's record that it waits, whichever of the two comes first.
    `attempts`: replaces the number of attempts made (0 gives a retried step its full budget again).
    """

    key: StepKey
    status: StepStatus | None = None
    only_from: frozenset[StepStatus] = frozenset(StepStatus)
    ready_at: datetime | None = None
    answer: Mapping[str, Json] | None = None
    attempt: int | None = None
    error: str | None = None


GATE_TIMER = "gate"
"""The kind of a timer that belongs to no state entry (its `entry` is -1): the first held operation expires."""


@record
class TimerRow:
    """A due time of a state entry. `kind`: dwell, deadline, completed, or `step:<name>`; one a (instance, kind).

    `gate` alone outlives its state entry.
    """

    instance: InstanceId
    entry: int
    kind: str
    due_at: datetime


@record
class Signal:
    """An event from inside. `body` is a CloudEvent as JSON text; `user` is who Relight's database says it was."""

    id: int
    body: str
    user: str | None
    local: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class NewSignal:
    system: str
    body: str
    user: str | None = None
    local: bool = False


@record
class OutMessage:
    """A notification or command on its way out. `message_id` is stable: the same row sent twice has the same."""

    exchange: str
    routing_key: str
    message_id: str
    body: str


@record
class OutboxRow:
    id: int
    message: OutMessage


@record
class Observation:
    """One more in a window: `count` of `metric` of a system in the minute `minute` (UTC, seconds cut)."""

    instance: InstanceId
    minute: datetime
    count: int
    total: float


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance for people: its snapshot, its current steps, and the due times of its current entry."""

    snapshot: Snapshot
    steps: tuple[StepRow, ...]
    timers: tuple[TimerRow, ...] = ()

    def silent_at(self, step: str) -> datetime | None:
        """Until when a waiting step waits for its answer."""
        return next((timer.due_at for timer in self.timers if timer.kind == f"step:{step}"), None)
