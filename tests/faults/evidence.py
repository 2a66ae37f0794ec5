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
    """One event as its publisher logged it; `instance` is the one that it means, None when it means none."""

    source: str
    id: str
    verdict: Verdict
    instance: str | None = None


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

    `what` is `start` and `stop` for a process' life, else the command it performed.
    """

    component: str
    what: str
    key: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Table:
    """A machine as its committed table has it: states, and pairs (from, to) of its transitions."""

    states: frozenset[str]
    edges: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Evidence:
    """Everything of one run. `documents`: SHA-256 (hex) by URL of the documents that still exist."""

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
    machines: Mapping[str, Table] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)


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


def notification(routing_key: str, body: bytes) -> Notification:
    """A message of the status log. Raises ValueError when it is no CloudEvent with an id."""
    found = json.loads(body)
    return Notification(found["id"], found["type"].removeprefix("relight."), routing_key, found["data"])


def moment(text: str | None) -> datetime | None:
    """An RFC 3339 time, aware UTC."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
