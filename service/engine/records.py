"""The log's record: its canonical text, its hash chain, and the fold that turns records back into a snapshot. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson

from machines.model import Event, InstanceId, Snapshot
from schemas.base import Json
from schemas.record import changed
from service.ports import EventKey, LogRow


def canonical(value: Mapping[str, Any]) -> str:
    """JSON with sorted keys, no spaces, RFC 3339 times: the one text that is hashed, stored and published."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z).decode()


def keepable(text: str) -> str:
    """The text as any table takes it: NUL is shown as U+FFFD, what is no UTF-8 (lone surrogates) escaped."""
    return text.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode()


def chain(previous: str, record: str) -> str:
    """SHA-256 (hex) of the previous head and this record's text; the first row's previous is the empty text."""
    return hashlib.sha256(f"{previous}\n{record}".encode()).hexdigest()


def snapshot_document(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as notifications and records carry it (shape: `schemas.notifications.SnapshotData`)."""
    return {
        "state": snapshot.state,
        "entry": snapshot.entry,
        "entered_at": snapshot.entered_at,
        "dwell_until": snapshot.dwell_until,
        "deadline_at": snapshot.deadline_at,
        "data": snapshot.data,
    }


def cause(event: Event) -> dict[str, Any]:
    """What led to a row: `schemas.notifications.Cause`."""
    return {"type": f"relight.{event.name}", "id": event.id, "source": event.source, "user": shown_user(event)}


def shown_user(event: Event) -> str | None:
    """`ana` when the broker verified the name, `ana (local)` on the command line of the machine itself."""
    return f"{event.user} (local)" if event.user and event.local else event.user


def log_row(
    kind: str,
    before: Snapshot,
    after: Snapshot,
    event: Event,
    extra: Mapping[str, Any],
) -> tuple[LogRow, Snapshot]:
    """The next row of an instance's log and the snapshot whose head is that row.

    `after` has its new `seq` already; `extra` is what the kind adds: `reason` and `changes`, or `reasons`.
    """
    record = canonical(
        {
            "kind": kind,
            "instance": after.instance,
            "system": after.system,
            "machine": after.machine,
            "machine_version": after.machine_version,
            "config_hash": after.config_hash,
            "epoch": after.epoch,
            "seq": after.seq,
            "at": event.at,
            "from": before.state,
            "to": after.state,
            "event": cause(event),
            "causation": event.causation,
            "correlation": event.correlation,
            "snapshot": snapshot_document(after),
            **extra,
        }
    )
    head = chain(before.hash, record)
    row = LogRow(
        instance=after.instance,
        epoch=after.epoch,
        seq=after.seq,
        kind=kind,
        at=event.at,
        state_from=before.state,
        state_to=after.state,
        event=EventKey(event.source, event.id),
        event_type=f"relight.{event.name}",
        user=shown_user(event),
        causation=event.causation,
        correlation=event.correlation,
        machine_version=after.machine_version,
        config_hash=after.config_hash,
        record=record,
        previous=before.hash,
        hash=head,
    )
    return row, changed(after, hash=head)


def merged(data: Mapping[str, Json], changes: Mapping[str, Json]) -> dict[str, Json]:
    """The data after `changes`: each key replaced, a None value removed. The fold and the decision share it."""
    return {key: value for key, value in {**data, **changes}.items() if value is not None}


def fold(rows: Iterable[LogRow]) -> Snapshot | None:
    """The snapshot that a log of one instance (in order of `seq`) makes: it applies what is recorded, decides nothing.

    Raises ValueError at the first row whose chain, order or recorded snapshot does not hold.
    """
    snapshot: Snapshot | None = None
    head = ""
    data: dict[str, Json] = {}
    for number, row in enumerate(rows, start=1):
        record = orjson.loads(row.record)
        if row.previous != head or row.hash != chain(head, row.record):
            raise ValueError(f"{row.instance} seq {row.seq}: the hash chain does not hold")
        if record["seq"] != number or row.seq != number:
            raise ValueError(f"{row.instance}: expected seq {number}, found {row.seq}")
        head = row.hash
        data = merged(data, record.get("changes", {}))
        after = record["snapshot"]
        if after["data"] != data:
            raise ValueError(f"{row.instance} seq {row.seq}: the recorded changes do not make the recorded snapshot")
        snapshot = Snapshot(
            instance=InstanceId(record["instance"]),
            system=record["system"],
            machine=record["machine"],
            machine_version=record["machine_version"],
            config_hash=record["config_hash"],
            epoch=record["epoch"],
            seq=record["seq"],
            state=after["state"],
            entry=after["entry"],
            entered_at=datetime.fromisoformat(after["entered_at"]),
            dwell_until=_moment(after["dwell_until"]),
            deadline_at=_moment(after["deadline_at"]),
            data=data,
            hash=head,
        )
    return snapshot


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
