"""What a run left behind, as the checker takes it: publishers' words, tables, notifications, effects. No judging here.

Imports nothing of Relight: whoever judges must not share its errors. Only the standard library and asyncpg.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import asyncpg


class Verdict(StrEnum):
    """What the publisher knows of an event: the broker took it, refused it, or nobody can tell."""

    CONFIRMED = "confirmed"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Published:
    """One event as its publisher logged it; `instance` is the one that it means, None when it means none.

    `others` are further instances that it means. `at`: the Unix time of its verdict. `order` numbers operations for the
    gate in the order in which they must leave it, None for whatever is no operation.
    """

    source: str
    id: str
    verdict: Verdict
    instance: str | None = None
    others: tuple[str, ...] = ()
    at: float | None = None
    order: int | None = None


@dataclass(frozen=True)
class LogRow:
    """A row of `relight.log`; `record` is the text that was hashed."""

    instance: str
    epoch: int
    seq: int
    kind: str
    state_from: str
    state_to: str
    source: str
    event_id: str
    machine_version: int
    config_hash: str
    record: str
    previous: str
    hash: str


@dataclass(frozen=True)
class InstanceRow:
    """A row of `relight.instances`: the snapshot. `data` is the JSON text; times are aware."""

    instance: str
    machine: str
    machine_version: int
    config_hash: str
    epoch: int
    seq: int
    state: str
    entry: int
    entered_at: datetime
    dwell_until: datetime | None
    deadline_at: datetime | None
    data: str
    hash: str
    token: int


@dataclass(frozen=True)
class InboxRow:
    source: str
    id: str
    outcomes: Mapping[str, str]


@dataclass(frozen=True)
class StepRow:
    instance: str
    entry: int
    name: str
    state: str
    action: str
    component: str | None
    status: str
    attempt: int
    token: int | None
    result: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The idempotency key that its effect was given."""
        return f"{self.instance}:{self.entry}:{self.name}"


@dataclass(frozen=True)
class DeadLetter:
    source: str | None
    event_id: str | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Notification:
    """A message of the status log, in the order of the stream. `data` is that of its CloudEvent."""

    id: str
    type: str
    routing_key: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Effect:
    """What a step really did, written by the effect itself. `key`: the idempotency key it was given, if any.

    `what` is `start` and `stop` for a process' life, `died` when it ended by itself, else the command it performed.
    `token`: the fencing token that it was given, if any.
    """

    component: str
    what: str
    key: str | None = None
    pid: int | None = None
    token: int | None = None


@dataclass(frozen=True)
class Table:
    """One version of a machine as its committed table has it: states, and pairs (from, to) of its transitions.

    `initial`: where an instance begins. `resting`: the states, final ones included, in which nothing is waited for.
    """

    states: frozenset[str]
    edges: frozenset[tuple[str, str]]
    initial: str | None = None
    resting: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Timer:
    """A due time that still stands in the table."""

    instance: str
    entry: int
    kind: str
    due_at: datetime


@dataclass(frozen=True)
class Write:
    """One write to Relight's tables as a witness beside the table saw it, in the order of the writes.

    `what` is `snapshot` (an owner's), `record` (a worker's report), or `claim` (of a step). `token` is the writer's
    own; `held` the one that was given last for that shard or step, for a claim the one that still lasted, or 0.
    """

    what: str
    key: str
    token: int
    held: int


@dataclass(frozen=True)
class Operation:
    """A message of a system's queue of operations, in the order of the queue. `body` is all of it, for comparison."""

    source: str
    id: str
    body: str


@dataclass(frozen=True)
class Strike:
    """A fault that a run was to suffer: a crash point by name, or what else was broken. `hit`: it really happened."""

    what: str
    hit: bool


@dataclass(frozen=True)
class Probe:
    """A question to an instance after the last fault. `after`: seconds from that fault to its outcome, None: never."""

    instance: str
    source: str
    id: str
    after: float | None


@dataclass(frozen=True)
class Run:
    """What was done to the service, and what the run must have had to prove anything.

    `began` and `last_fault` are Unix times. `places`: the crash points that must be among the strikes that hit.
    `minimum_rate`: events that had to be confirmed per second in each `window` (seconds) between the two.
    """

    began: float
    last_fault: float
    strikes: Sequence[Strike]
    places: frozenset[str]
    minimum_rate: float
    probes: Sequence[Probe]
    window: float = 30.0


@dataclass(frozen=True)
class Evidence:
    """Everything of one run. `documents`: SHA-256 (hex) by URL of the documents that still exist,
    all of them below the URLs `searched`.

    `told`: the idempotency key of each command that reached a participant, as often as it did.

    `machines` by name and version. None stands for what nobody watched: `heard` is the log of a subscriber that
    listened all along, `writes` a witness' beside the tables, `operations` what the queue of the gate gave, `run` what
    was done to the service. `undelivered`: ids of notifications that only the status log took. `taken_at`: when the
    tables were read, by their own clock.
    """

    published: Sequence[Published] = ()
    log: Sequence[LogRow] = ()
    instances: Sequence[InstanceRow] = ()
    inbox: Sequence[InboxRow] = ()
    steps: Sequence[StepRow] = ()
    outbox: Sequence[str] = ()
    dead: Sequence[DeadLetter] = ()
    newest_token: int = 0
    notifications: Sequence[Notification] = ()
    effects: Sequence[Effect] = ()
    told: Sequence[str] = ()
    machines: Mapping[tuple[str, int], Table] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)
    searched: tuple[str, ...] = ()
    heard: Sequence[Notification] | None = None
    undelivered: Sequence[str] = ()
    timers: Sequence[Timer] = ()
    writes: Sequence[Write] | None = None
    operations: Sequence[Operation] | None = None
    taken_at: datetime | None = None
    run: Run | None = None


def by_instance(log: Sequence[LogRow]) -> dict[str, list[LogRow]]:
    """The rows of each instance, in the order of `seq`."""
    logs: dict[str, list[LogRow]] = {}
    for row in log:
        logs.setdefault(row.instance, []).append(row)
    for rows in logs.values():
        rows.sort(key=lambda row: row.seq)
    return logs


async def dump(postgres_url: str) -> dict[str, Any]:
    """The tables, as keyword arguments of `Evidence`, all from one moment."""
    connection = await asyncpg.connect(postgres_url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            log = await connection.fetch("SELECT * FROM relight.log ORDER BY instance, seq, at")
            instances = await connection.fetch("SELECT * FROM relight.instances ORDER BY instance")
            inbox = await connection.fetch("SELECT source, id, outcomes FROM relight.inbox ORDER BY source, id")
            steps = await connection.fetch("SELECT * FROM relight.steps ORDER BY instance, entry, position, name")
            outbox = await connection.fetch("SELECT message_id FROM relight.outbox ORDER BY shard, id")
            dead = await connection.fetch("SELECT source, event_id, reasons FROM relight.dead_letters ORDER BY id")
            newest = await connection.fetchval("SELECT coalesce(max(token), 0) FROM relight.shards")
            undelivered = await connection.fetch("SELECT message_id FROM relight.undelivered ORDER BY id")
            timers = await connection.fetch("SELECT * FROM relight.timers ORDER BY due_at")
            taken_at = await connection.fetchval("SELECT clock_timestamp()")
            witnessed = await connection.fetchval("SELECT to_regclass('witness.writes') IS NOT NULL")
            writes = await connection.fetch("SELECT * FROM witness.writes ORDER BY number") if witnessed else None
    finally:
        await connection.close(timeout=10)
    return {
        "log": [_only(LogRow, row) for row in log],
        "instances": [_only(InstanceRow, row) for row in instances],
        "inbox": [InboxRow(row["source"], row["id"], json.loads(row["outcomes"])) for row in inbox],
        "steps": [_step(row) for row in steps],
        "outbox": [row["message_id"] for row in outbox],
        "dead": [DeadLetter(row["source"], row["event_id"], tuple(row["reasons"])) for row in dead],
        "newest_token": newest,
        "undelivered": [row["message_id"] for row in undelivered],
        "timers": [_only(Timer, row) for row in timers],
        "taken_at": taken_at,
        "writes": None if writes is None else [_only(Write, row) for row in writes],
    }


def _only(kind: type[Any], row: Mapping[str, Any]) -> Any:
    return kind(**{name: row[name] for name in kind.__dataclass_fields__})


def _step(row: Mapping[str, Any]) -> StepRow:
    planned = json.loads(row["planned"])
    return StepRow(
        instance=row["instance"],
        entry=row["entry"],
        name=row["name"],
        state=row["state"],
        action=planned["action"],
        component=planned.get("component"),
        status=row["status"],
        attempt=row["attempt"],
        token=row["token"],
        result=json.loads(row["result"]),
    )


def read_published(path: Path) -> list[Published]:
    """The publisher's log: one JSON object a line."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Published(**{**found, "verdict": Verdict(found["verdict"])}) for found in map(json.loads, lines)]


def read_effects(path: Path) -> list[Effect]:
    """The effects' own log: one JSON object a line, in the order they happened."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Effect(**json.loads(line)) for line in lines]


def read_told(path: Path) -> list[str]:
    """The participants' log of what they were told: one key a line, as JSON."""
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def operation(body: bytes) -> Operation:
    """A message of the queue of operations. Raises ValueError when it is no CloudEvent with source and id."""
    found = json.loads(body)
    return Operation(found["source"], found["id"], body.decode())


def read_heard(path: Path) -> list[Notification]:
    """A subscriber's log: one JSON object a line, in the order in which it heard them, repetitions included."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Notification(**json.loads(line)) for line in lines]


def notification(routing_key: str, body: bytes) -> Notification:
    """A message of the status log. Raises ValueError when it is no CloudEvent with an id."""
    found = json.loads(body)
    return Notification(found["id"], found["type"].removeprefix("relight."), routing_key, found["data"])


def moment(text: str | None) -> datetime | None:
    """An RFC 3339 time, aware UTC."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
