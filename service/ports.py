"""What the engine and the steps need of the world, in our words. No library's type crosses these Protocols.

Rows are frozen dataclasses; adapters turn them into their library's shape and back.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, NewType, Protocol

from machines.model import InstanceId, PlannedStep, Snapshot, StepStatus
from schemas.base import Json
from schemas.events import Lane
from schemas.system import System

Token = NewType("Token", int)
"""A fencing token: grows with every lease given, for shards and for steps, from one sequence."""


EPOCH_BITS = 40
"""A token is the epoch shifted by this, plus a number of the one sequence: those of a later epoch are larger."""


def epoch_of(token: Token) -> int:
    """The generation of Relight's database in which the token was given."""
    return token >> EPOCH_BITS


MAX_ID = 220
"""Characters of an id that we make: AMQP carries 255 bytes of a message id, and suffixes are put on some."""


def short_id(text: str) -> str:
    """`text` itself, or if that is too long for a message id, the start and the SHA-256 of the whole: as stable."""
    if len(text) <= MAX_ID:
        return text
    return f"{text[: MAX_ID - 33]}~{hashlib.sha256(text.encode()).hexdigest()[:32]}"


class Clock(Protocol):
    """Time as an argument."""

    def now(self) -> datetime:
        """Aware UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Ids(Protocol):
    """Identifiers and randomness as an argument."""

    def uuid(self) -> str:
        """A new UUIDv7, as text."""
        ...

    def random(self) -> float:
        """Uniform in [0, 1): jitter."""
        ...


# --- what the store keeps ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventKey:
    source: str
    id: str


@dataclass(frozen=True, slots=True)
class InboxRow:
    """An event that has its outcomes. `body_hash` is the SHA-256 of the body as it arrived; outcomes by instance id
    (or `-` where no instance was meant): applied, absorbed, refused, dead."""

    key: EventKey
    body_hash: bytes
    outcomes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class SnapshotWrite:
    """The snapshot after the batch and the `seq` it must still have in the store (0: the instance is new)."""

    snapshot: Snapshot
    expected_seq: int


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class TimerRow:
    """A due time of a state entry. `kind`: dwell, deadline, completed, or `step:<name>`; one a (instance, kind)."""

    instance: InstanceId
    entry: int
    kind: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class OutMessage:
    """A notification or command on its way out. `message_id` is stable: the same row sent twice has the same."""

    exchange: str
    routing_key: str
    message_id: str
    body: str


@dataclass(frozen=True, slots=True)
class OutboxRow:
    id: int
    message: OutMessage


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Something that could not be taken in, with why. `body` is byte for byte what arrived."""

    queue: str
    routing_key: str
    reasons: tuple[str, ...]
    body: bytes
    source: str | None
    event_id: str | None
    user: str | None
    attempts: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """One more in a window: `count` of `metric` of a system in the minute `minute` (UTC, seconds cut)."""

    instance: InstanceId
    minute: datetime
    count: int
    total: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything one micro-batch writes, in one transaction that first checks the owner's token.

    `sent` are outbox rows that the broker confirmed: they are deleted. Snapshots replace, steps_new insert, `leave`
    cancels every step of these state entries that has not ended and deletes their timers (applied before `steps_new`,
    `step_changes` and `timers`).
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Ownership:
    """A shard's lease. `lasts` is measured from before the request was sent, by the owner's own monotonic clock."""

    shard: int
    token: Token
    lasts: timedelta


class Store(Protocol):
    """Relight's own tables. Raises Unavailable, LostLease, Conflict, Transient or Poison."""

    async def acquire(self, shard: int, owner: str, lease: timedelta) -> Ownership | None:
        """The shard's lease with a new token, or None while another owner's lease has not ended."""
        ...

    async def renew(self, ownership: Ownership, lease: timedelta) -> None:
        """Prolongs the lease. Raises LostLease when the token is not the newest any more or the lease has ended."""
        ...

    async def release(self, ownership: Ownership) -> None:
        """Ends the lease now, so that another may follow at once."""
        ...

    async def pending(self, shard: int, now: datetime, limit: int) -> tuple[tuple[Signal, ...], tuple[TimerRow, ...]]:
        """Oldest signals and due timers of a shard; they stay until a batch removes them."""
        ...

    async def next_timer(self, shard: int) -> datetime | None:
        """When the earliest timer of the shard is due."""
        ...

    async def prepare(
        self, shard: int, keys: Sequence[EventKey], instances: Sequence[InstanceId], systems: Sequence[str]
    ) -> Prepared:
        """What is known of these events and instances, in one round trip."""
        ...

    async def commit(self, batch: Batch) -> tuple[int, ...]:
        """Writes the batch as a whole or not at all; the ids of its outbox rows, in order.

        Raises LostLease (token not the newest, or lease ended by the database's clock), Conflict (a snapshot has
        another seq), Transient, Poison, Unavailable.
        """
        ...

    async def count_attempt(self, shard: int, token: Token, key: EventKey) -> int:
        """Commits one more attempt at an event that is tried alone; how many there were, this one included."""
        ...

    async def unsent(self, shard: int, limit: int) -> tuple[OutboxRow, ...]:
        """The oldest outbox rows of a shard that were not sent, in order; undelivered ones are left out."""
        ...

    async def undeliverable(self, shard: int, token: Token, row: int, why: str) -> None:
        """Marks a row that the status exchange refused and the status log took: kept, replayable, out of the way."""
        ...

    async def signal(self, signals: Sequence[NewSignal]) -> None:
        """Appends signals for whoever owns their systems' shards, and wakes that owner."""
        ...

    async def wait_for_signal(self, shard: int, timeout: float) -> None:
        """Returns when a signal for the shard was appended, or after `timeout` seconds."""
        ...

    async def keep_configurations(self, configurations: Mapping[str, str]) -> None:
        """Remembers configurations by hash (canonical text); known ones stay as they are."""
        ...

    async def configurations_in_use(self) -> Mapping[str, str]:
        """Hash to canonical text of every configuration that an instance stands on; a missing text is empty."""
        ...

    async def machines_in_use(self) -> Mapping[tuple[str, int], int]:
        """How many instances stand on each (machine, version)."""
        ...


class StepStore(Protocol):
    """The runner's side of the step rows. Every write names the token of the claim and raises LostLease without it."""

    async def claim(
        self, worker: str, places: Sequence[str], now: datetime, lease: timedelta, limit: int
    ) -> tuple[StepRow, ...]:
        """Steps that are ready (or running under a lease that ended), each with a new token.

        `attempt` grows when the step begins anew. A claim that follows an answer goes on with the attempt that asked;
        an interrupted one is the same attempt still: its probe decides, and a crash costs nothing of the budget.
        A row that comes back with `token` differing from the token it had while `running` was interrupted: its
        `status` is RUNNING and `error` is `interrupted`.
        """
        ...

    async def renew_claim(self, row: StepRow, lease: timedelta) -> None: ...

    async def finish(
        self,
        row: StepRow,
        status: StepStatus,
        result: Mapping[str, Json],
        error: str | None,
        ready_at: datetime | None,
        signal: NewSignal,
    ) -> None:
        """Records what became of the claim (done, failed, unknown, or ready at `ready_at`) together with the signal.

        Ready again, the answer is used up. Allowed after the lease ended, as long as nobody else has claimed the step:
        what is known is not lost. Raises Poison when `result` cannot be stored (NaN): the claim stays.
        """
        ...

    async def wait(self, row: StepRow, until: datetime, signal: NewSignal) -> bool:
        """Gives the claim up until an answer arrives or `until` passes (a timer `step:<name>` is set).

        False: the answer is already there; the step is ready again at once and no signal is sent. An answer that the
        claim already carried (`row.answer`) is used up: the step waits for the next one.
        """
        ...

    async def context(self, row: StepRow) -> Loaded:
        """The instance as it stands and the steps of the row's state entry: what an action may build on."""
        ...

    async def wait_for_step(self, timeout: float) -> None:
        """Returns when a step became ready, or after `timeout` seconds."""
        ...


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance for people: its snapshot, its current steps, and the due times of its current entry."""

    snapshot: Snapshot
    steps: tuple[StepRow, ...]
    timers: tuple[TimerRow, ...] = ()

    def silent_at(self, step: str) -> datetime | None:
        """Until when a waiting step waits for its answer."""
        return next((timer.due_at for timer in self.timers if timer.kind == f"step:{step}"), None)


class Reader(Protocol):
    """Read-only views for commands and pages."""

    async def instances(self, system: str | None = None) -> tuple[InstanceView, ...]: ...

    async def history(self, instance: InstanceId, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]: ...

    async def steps(self, instance: InstanceId, first_entry: int = 0) -> tuple[StepRow, ...]: ...

    async def dead_letters(self, limit: int = 100) -> tuple[DeadLetter, ...]: ...

    async def counts(self) -> Mapping[str, int]:
        """Rows waiting: signals, outbox, undelivered, dead, steps by status (`steps_ready`, …)."""
        ...


# --- the broker ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it arrived. `channel` names the channel it came on: its `tag` means nothing on another."""

    lane: Lane
    channel: int
    tag: int
    queue: str
    routing_key: str
    body: bytes
    user: str | None
    redelivered: bool
    content_type: str | None = None


class Lanes(Protocol):
    """The two lanes of one shard (shard 0's control lane has the unrouted queue too), each on its own channel."""

    async def wait(self, timeout: float) -> None:
        """Returns when a delivery is there, or after `timeout` seconds."""
        ...

    def take(self, limit: int) -> tuple[Delivery, ...]:
        """What has arrived, control before metrics, a prefix of each lane, at most `limit`. Never waits."""
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """One multiple ack a lane for a prefix that was taken. A closed channel's are passed over (redelivered)."""
        ...

    def pause(self) -> None:
        """Stops handing out metrics and control deliveries; what is buffered stays."""
        ...

    def resume(self) -> None: ...


class Sent(StrEnum):
    CONFIRMED = "confirmed"
    NACKED = "nacked"
    RETURNED = "returned"


class Publisher(Protocol):
    """One channel with publisher confirms, in order."""

    async def publish(self, messages: Sequence[OutMessage], *, mandatory: bool = False) -> tuple[Sent, ...]:
        """Sends in one write and waits for every confirm; one verdict a message. Raises Unavailable when cut off."""
        ...


class Broker(Protocol):
    """RabbitMQ: separate connections for consuming and publishing, restored by themselves after every outage."""

    async def declare(self, systems: Sequence[str], shards: Mapping[str, int]) -> None:
        """Exchanges, queues, bindings and the stream; `shards` gives each system's shard. Idempotent."""
        ...

    def lanes(self, shard: int) -> AbstractAsyncContextManager[Lanes]:
        """Consumes a shard's lanes until the context ends; ending it closes the channels (a hand-over)."""
        ...

    def publisher(self) -> AbstractAsyncContextManager[Publisher]: ...

    def available(self) -> Mapping[str, bool]:
        """Each connection by name (`consuming`, `publishing`) and whether it is up."""
        ...


class StatusReader(Protocol):
    """What people watch: notifications live or from the stream."""

    def watch(self, binding: str) -> AsyncIterator[tuple[str, bytes]]:
        """(routing key, body) of every notification that matches the topic binding, from now on."""
        ...

    def watching(self, binding: str) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]:
        """The same, entered once the binding stands: whatever is published inside the block is seen."""
        ...

    def replay(self, offset: Literal["first"] | datetime = "first") -> AsyncIterator[tuple[str, bytes]]:
        """What the status log holds, oldest first, until caught up. From a moment: some earlier ones may come too."""
        ...


# --- the world of the steps ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A supervised process: running (`started`: clock ticks since boot, /proc/PID/stat field 22), or not.

    `exit_status` of the last run (negative: the signal), None while it runs or when nobody saw its end.
    """

    running: bool
    pid: int | None = None
    started: int | None = None
    exit_status: int | None = None
    log: str | None = None


class Processes(Protocol):
    """Process components under a detached supervisor on this host. `name` is `<system>.<component>`."""

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> ProcessState:
        """Starts it unless it runs (then it is adopted). Returns once the process exists."""
        ...

    async def state(self, name: str) -> ProcessState: ...

    async def tell(self, name: str, signal: str) -> None:
        """Sends a signal (`USR1`, `TERM`; `KILL` to its group) to the process, pid and start time compared first."""
        ...

    async def wait_stopped(self, name: str, timeout: timedelta) -> ProcessState:
        """Waits until it has ended; the state then, running or not."""
        ...


class Databases(Protocol):
    """PostgreSQL databases of the systems (not Relight's own)."""

    async def value(self, dsn: str, query: str, timeout: timedelta) -> Json:
        """First column of the first row. Raises Retry when the server is away, Permanent when the query is wrong."""
        ...

    async def sessions(self, dsn: str, application: str) -> tuple[str, ...]:
        """The sessions of `application_name` in pg_stat_activity, one line each: pid, user, state, age, query head."""
        ...


class Storage(Protocol):
    """Documents by URL (`file://…`)."""

    async def write(self, url: str, content: bytes) -> None:
        """Atomic and durable (written aside, synced, renamed). Raises Retry or Permanent."""
        ...

    async def read(self, url: str) -> bytes: ...


class Commands(Protocol):
    """To participants over AMQP."""

    async def send(self, routing_key: str, command_id: str, body: str) -> bool:
        """Publishes mandatory with confirm; False when no participant is bound to it. Raises Retry when cut off."""
        ...


class Programs(Protocol):
    """Short programs, as argument lists, each in its own process group, ended when the time is over or on cancel."""

    async def run(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, timeout: timedelta
    ) -> tuple[int, str, str]:
        """Exit status, standard output and standard error (64 KiB of each at most)."""
        ...


class Secrets(Protocol):
    def resolve(self, reference: str, folder: str) -> str:
        """The value behind `env:NAME` or `file:/path`; other text is itself. Raises Permanent when it is missing."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """Everything that actions may touch, handed to them as one argument."""

    processes: Processes
    databases: Databases
    storage: Storage
    commands: Commands
    programs: Programs
    secrets: Secrets


@dataclass(frozen=True, slots=True)
class Done:
    """The effect happened; `result` is the evidence, shown to people and kept with the step."""

    result: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The effect is under way at `whom`; the lease is given up until an answer to the step's command id arrives.

    Then the action is performed again with `answer` set. `until` passes: it is performed with `SILENT` as answer when
    the component's `on_silence` is kill, fails when it is abort, and counts as proceeded when it is proceed.
    """

    until: datetime
    whom: str


SILENT: Mapping[str, Json] = {"silent": True}
"""The answer of a participant that did not answer."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What an action works with: its row, the system's file of the instance, the snapshot's data, the results of the
    steps of this entry that are settled (by step name), the world, the clock."""

    row: StepRow
    system: System
    data: Mapping[str, Json]
    results: Mapping[str, Mapping[str, Json]]
    world: World
    clock: Clock

    @property
    def command_id(self) -> str:
        return self.row.key.command_id

    @property
    def token(self) -> Token:
        if self.row.token is None:
            raise ValueError(f"step {self.row.key.name} is performed without a claim")
        return self.row.token


class Action(Protocol):
    """The code of a step. An action without `probe` sets `twice_is_safe` and says why in its docstring."""

    name: str
    twice_is_safe: bool

    def plan(self, step: PlannedStep, system: System) -> str:
        """What it would do, in one line for people; no I/O."""
        ...

    async def perform(self, context: StepContext) -> Done | Waiting:
        """Raises Retry, Permanent or Unknown."""
        ...

    async def probe(self, context: StepContext) -> Done | None:
        """After an interrupted attempt: the evidence if the effect happened, None if it certainly did not.

        Raises Unknown when nobody can tell. Not called when `twice_is_safe`.
        """
        ...
