"""Rows of our tables as the dataclasses of `service/ports.py`, and back. No statement is sent from here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

import orjson

from machines.model import InstanceId, PlannedStep, Snapshot, StepStatus
from schemas.base import Json
from schemas.components import OnSilence
from service.errors import Poison
from service.ports import (
    DeadLetter,
    EventKey,
    GateRow,
    HeldRow,
    InboxRow,
    LogRow,
    OutboxRow,
    OutMessage,
    Signal,
    StepKey,
    StepRow,
    TimerRow,
    Token,
)

Row = Any
"""A Record by column name; a composite value of a table looks the same."""

_MICROSECOND = timedelta(microseconds=1)

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
"""Made once: `json.dumps` makes one for each text."""

_READ = json.JSONDecoder().raw_decode
"""`json.loads` of a text that begins and ends with its value, as those of `dump` do, without looking for more."""

_AS_JSON_SAYS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
"""Dates and dataclasses are no JSON for orjson either."""

_FIELDS = tuple(field.name for field in fields(Snapshot))
_DATA = _FIELDS.index("data")
_SNAPSHOT = itemgetter(*_FIELDS)
"""The columns are named like the fields: found by their names, in one call instead of fourteen."""


def dump(value: Mapping[str, Json]) -> str:
    """JSON text, the same for the same value. Raises Poison for what JSON cannot say (NaN, infinity)."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError) as error:
        raise Poison(f"a value cannot be stored as JSON: {error}") from error


def quick_dump(value: Mapping[str, Json]) -> str:
    """JSON text of the same value by the quicker library, for what each event stores. Raises Poison like `dump`.

    The text may differ from `dump`'s (é is no \\u00e9): only for what nobody compares as text.
    """
    try:
        text = orjson.dumps(value, option=_AS_JSON_SAYS)
    except TypeError:
        return dump(value)  # longer than 64 bits, no UTF-8, or nothing that JSON can say
    # orjson writes NaN and infinity as null; where there is none, there were none of them.
    return dump(value) if b"null" in text else text.decode()


def optional_dump(value: Mapping[str, Json] | None) -> str | None:
    return None if value is None else dump(value)


def readable(text: str) -> str:
    """The text without what PostgreSQL cannot store (NUL, lone surrogates): shown escaped instead."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def snapshot(row: Row) -> Snapshot:
    values = list(_SNAPSHOT(row))
    values[_DATA], _ = _READ(values[_DATA])
    return Snapshot(*values)


def held(row: Row) -> HeldRow:
    return HeldRow(
        system=row["system"],
        event=EventKey(row["source"], row["event_id"]),
        user=row["user"],
        local=row["local"],
        message=OutMessage(row["exchange"], row["routing_key"], row["message_id"], row["body"]),
        held_at=row["held_at"],
        expires_at=row["expires_at"],
        id=row["id"],
    )


def gates(found: Sequence[str], overdue: Sequence[Row]) -> dict[str, GateRow]:
    """The gates of a `prepare`, by system: each as JSON, and the overdue rows of all of them."""
    late: dict[str, list[HeldRow]] = {}
    for row in overdue:
        late.setdefault(row["system"], []).append(held(row))
    gates = {}
    for text in found:
        one = json.loads(text)
        rows = tuple(late.get(one["system"], ()))
        gates[one["system"]] = GateRow(
            one["system"],
            one["waiting"],
            one["held"] or 0,
            datetime.fromisoformat(one["expiring"]) if one["expiring"] else None,
            rows,
            one["overdue"] > len(rows),
        )
    return gates


def step(row: Row) -> StepRow:
    return StepRow(
        key=StepKey(InstanceId(row["instance"]), row["entry"], row["name"]),
        system=row["system"],
        place=row["place"],
        planned=_planned(row["name"], row["position"], json.loads(row["planned"])),
        status=StepStatus(row["status"]),
        state=row["state"],
        config_hash=row["config_hash"],
        attempt=row["attempt"],
        ready_at=row["ready_at"],
        token=None if row["token"] is None else Token(row["token"]),
        worker=row["worker"],
        lease_until=row["lease_until"],
        answer=None if row["answer"] is None else json.loads(row["answer"]),
        result=json.loads(row["result"]),
        error=row["error"],
    )


def dump_planned(planned: PlannedStep) -> str:
    """What the plan says beyond name and position, which are columns."""
    return dump(
        {
            "action": planned.action,
            "timeout_us": planned.timeout // _MICROSECOND,
            "attempts": planned.attempts,
            "component": planned.component,
            "arguments": dict(planned.arguments),
            "optional": planned.optional,
            "on_silence": planned.on_silence.value,
            "asks_again": planned.asks_again,
        }
    )


def _planned(name: str, position: int, stored: dict[str, Any]) -> PlannedStep:
    return PlannedStep(
        name=name,
        action=stored["action"],
        position=position,
        timeout=stored["timeout_us"] * _MICROSECOND,
        attempts=stored["attempts"],
        component=stored["component"],
        arguments=stored["arguments"],
        optional=stored["optional"],
        on_silence=OnSilence(stored["on_silence"]),
        asks_again=stored.get("asks_again", False),  # absent in rows of an earlier version
    )


def inbox(row: Row) -> InboxRow:
    return InboxRow(EventKey(row["source"], row["id"]), bytes(row["body_hash"]), json.loads(row["outcomes"]))


def timer(row: Row) -> TimerRow:
    return TimerRow(InstanceId(row["instance"]), row["entry"], row["kind"], row["due_at"])


def signal(row: Row) -> Signal:
    return Signal(row["id"], row["body"], row["user"], row["local"], row["at"])


def outbox(row: Row) -> OutboxRow:
    return OutboxRow(row["id"], OutMessage(row["exchange"], row["routing_key"], row["message_id"], row["body"]))


def log(row: Row) -> LogRow:
    return LogRow(
        instance=InstanceId(row["instance"]),
        epoch=row["epoch"],
        seq=row["seq"],
        kind=row["kind"],
        at=row["at"],
        state_from=row["state_from"],
        state_to=row["state_to"],
        event=EventKey(row["source"], row["event_id"]),
        event_type=row["event_type"],
        user=row["user"],
        causation=row["causation"],
        correlation=row["correlation"],
        machine_version=row["machine_version"],
        config_hash=row["config_hash"],
        record=row["record"],
        previous=row["previous"],
        hash=row["hash"],
    )


def dead_letter(row: Row) -> DeadLetter:
    return DeadLetter(
        queue=row["queue"],
        routing_key=row["routing_key"],
        reasons=tuple(row["reasons"]),
        body=bytes(row["body"]),
        source=row["source"],
        event_id=row["event_id"],
        user=row["user"],
        attempts=row["attempts"],
        at=row["at"],
    )
