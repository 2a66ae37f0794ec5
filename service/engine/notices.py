"""What Relight says: decisions turned into notifications for the outbox. Pure; shapes in `schemas/notifications.py`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from machines.model import Event, Snapshot
from schemas.base import Json
from service.engine.records import canonical, cause, snapshot_document
from service.ports import OutMessage, short_id

STATUS_EXCHANGE = "relight.status"
SOURCE = "relight"
NOBODY = "_none"
"""Stands in a routing key for a system or machine that could not be made out."""


def transition(before: Snapshot, after: Snapshot, status: str, reason: str, event: Event) -> OutMessage:
    """`<system>.<machine>.<state>`: the instance moved. Its id (epoch, instance, seq) is the same for every resend."""
    data = {
        "system": after.system,
        "machine": after.machine,
        "instance": after.instance,
        "epoch": after.epoch,
        "seq": after.seq,
        "from": before.state,
        "to": after.state,
        "status": status,
        "reason": reason,
        "event": cause(event),
        "at": event.at,
        "machine_version": after.machine_version,
        "config_hash": after.config_hash,
        "snapshot": snapshot_document(after),
    }
    key = f"{after.system}.{after.machine}.{after.state}"
    return _message(key, f"{after.epoch}:{after.instance}:{after.seq}", "transition", after.system, data, event)


def refusal(after: Snapshot, reasons: Sequence[str], event: Event) -> OutMessage:
    """`<system>.<machine>._refused` for an event that an instance's log has taken as refused."""
    data = {
        "system": after.system,
        "machine": after.machine,
        "instance": after.instance,
        "epoch": after.epoch,
        "seq": after.seq,
        "state": after.state,
        "reasons": list(reasons),
        "event": cause(event),
        "at": event.at,
    }
    key = f"{after.system}.{after.machine}._refused"
    return _message(key, f"{after.epoch}:{after.instance}:{after.seq}", "refused", after.system, data, event)


def rejection(
    system: str | None, reasons: Sequence[str], about: Mapping[str, str | None], epoch: int, at: datetime, unique: str
) -> OutMessage:
    """`<system>._none._refused` (or `_none._none._refused`) for what no instance could take; it has no `seq`.

    `about` has type, id, source and user as far as they could be read.
    """
    known = system if system is not None else NOBODY
    event = None
    if about.get("id") and about.get("source"):
        event = {"type": about.get("type") or "", **{key: about.get(key) for key in ("id", "source", "user")}}
    data = {
        "system": known,
        "machine": NOBODY,
        "instance": None,
        "epoch": epoch,
        "seq": None,
        "reasons": list(reasons),
        "event": event,
        "at": at,
    }
    return _message(f"{known}.{NOBODY}._refused", f"refused:{unique}", "refused", known, data, at=at)


def step(
    snapshot: Snapshot, state: str, entry: int, name: str, attempt: int, outcome: str, at: datetime,
    result: Mapping[str, Json], error: str | None = None, seconds: float | None = None,
) -> OutMessage:  # fmt: skip
    """`<system>.<machine>._step`: what became of a step."""
    data = {
        "system": snapshot.system,
        "machine": snapshot.machine,
        "instance": snapshot.instance,
        "epoch": snapshot.epoch,
        "state": state,
        "entry": entry,
        "step": name,
        "attempt": attempt,
        "outcome": outcome,
        "seconds": seconds,
        "error": error,
        "result": dict(result),
        "at": at,
    }
    key = f"{snapshot.system}.{snapshot.machine}._step"
    # A person's retry makes an attempt number come again; the moment it was settled does not.
    unique = f"{snapshot.epoch}:{snapshot.instance}:{entry}:{name}:{attempt}:{outcome}:{at:%Y%m%dT%H%M%S.%f}"
    return _message(key, unique, "step", snapshot.system, data, at=at)


def wait(
    snapshot: Snapshot,
    step_name: str | None,
    whom: str,
    until: datetime | None,
    then: str,
    at: datetime,
    acts: Sequence[str] = (),
) -> OutMessage:
    """`<system>.<machine>._wait`: for whom, until when, what happens then, and the commands that end the wait."""
    data = {
        "system": snapshot.system,
        "machine": snapshot.machine,
        "instance": snapshot.instance,
        "epoch": snapshot.epoch,
        "state": snapshot.state,
        "entry": snapshot.entry,
        "step": step_name,
        "whom": whom,
        "until": until,
        "then": then,
        "acts": list(acts),
        "at": at,
    }
    key = f"{snapshot.system}.{snapshot.machine}._wait"
    end = until.isoformat() if until is not None else "ever"
    entry = f"{snapshot.instance}:{snapshot.entry}:{step_name or '-'}"
    unique = f"{snapshot.epoch}:{entry}:wait:{end}:{at:%Y%m%dT%H%M%S.%f}"
    return _message(key, unique, "wait", snapshot.system, data, at=at)


def _message(
    key: str,
    unique: str,
    name: str,
    system: str,
    data: Mapping[str, Any],
    event: Event | None = None,
    at: datetime | None = None,
) -> OutMessage:
    # What arrived may have an id of any length; ours must fit into a message id.
    unique = short_id(unique)
    envelope: dict[str, Any] = {
        "specversion": "1.0",
        "id": unique,
        "source": SOURCE,
        "type": f"relight.{name}",
        "subject": system,
        "time": event.at if event is not None else at,
        "datacontenttype": "application/json",
        "data": data,
    }
    if event is not None:
        envelope["causationid"] = f"{event.source} {event.id}"
        envelope["correlationid"] = event.correlation or f"{event.source} {event.id}"
        envelope["causationdepth"] = event.depth + 1
        if event.traceparent is not None:
            envelope["traceparent"] = event.traceparent
    return OutMessage(STATUS_EXCHANGE, key, unique, canonical(envelope))
