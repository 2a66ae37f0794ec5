"""Notifications: one for each row of a log, in order; a subscriber hears what the status log holds. Rules only."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tests.faults.checker.findings import Fault, Finding
from tests.faults.checker.losses import told as told_losses
from tests.faults.evidence import Evidence, LogRow, Notification, by_instance

STATUS_LOG = "relight.status.log"
"""The routing key of what was sent to the log's own queue and to nobody else."""


def notifications_match(evidence: Evidence) -> Iterator[Finding]:
    for message in evidence.outbox:
        yield Finding(Fault.UNSENT_NOTIFICATION, f"{message} still stands in the outbox")
    told: dict[str, list[Notification]] = defaultdict(list)
    seen: dict[str, Notification] = {}
    for note in evidence.notifications:
        if note.id in seen:
            if note.data != seen[note.id].data:
                yield Finding(Fault.ALTERED_NOTIFICATION, f"{note.id} was sent twice with different words")
            continue
        seen[note.id] = note
        if note.data.get("seq") is not None:
            told[note.data["instance"]].append(note)
    logs, losses = by_instance(evidence.log), told_losses(evidence)
    for instance in told.keys() | logs.keys():
        rows = {(row.epoch, row.seq): row for row in logs.get(instance, [])}
        heard = [(note.data["epoch"], note.data["seq"]) for note in told.get(instance, [])]
        for key in rows.keys() - set(heard):
            yield Finding(Fault.MISSING_NOTIFICATION, f"{instance}: nothing was said of {key}")
        gone = {
            (note.data["epoch"], note.data["seq"])
            for note in told.get(instance, [])
            if any(loss.covers(note) for loss in losses)
        }
        for key in set(heard) - rows.keys() - gone:
            yield Finding(Fault.INVENTED_NOTIFICATION, f"{instance}: {key} was told and is not in the log")
        if len(heard) != len(set(heard)):
            twice = [key for key, count in Counter(heard).items() if count > 1]
            yield Finding(Fault.INVENTED_NOTIFICATION, f"{instance}: {twice} was told under two ids")
        if heard != sorted(heard):
            odd = next(key for key, after in itertools.pairwise(heard) if key > after)
            yield Finding(Fault.SWAPPED_NOTIFICATIONS, f"{instance}: {odd} was told before what came earlier")
        for note in told.get(instance, []):
            row = rows.get((note.data["epoch"], note.data["seq"]))
            if row is not None and not _says(note, row):
                yield Finding(Fault.ALTERED_NOTIFICATION, f"{note.id} does not say what the log says")


def _says(note: Notification, row: LogRow) -> bool:
    data, record = note.data, json.loads(row.record)
    system, machine = record["system"], record["machine"]
    if data["event"] != record["event"] or (data["system"], data["machine"]) != (system, machine):
        return False
    if note.type == "refused":
        same = (row.kind, data["state"], data["reasons"]) == ("refusal", row.state_to, record["reasons"])
        return same and note.routing_key == f"{system}.{machine}._refused"
    said = (note.type, data["from"], data["to"], data["reason"], data["snapshot"])
    logged = (row.kind, row.state_from, row.state_to, record.get("reason"), record["snapshot"])
    return said == logged and note.routing_key == f"{system}.{machine}.{row.state_to}"


def subscriber_heard_the_same(evidence: Evidence) -> Iterator[Finding]:
    """One that was bound to everything, once it has dropped the ids that it knew: what the status log holds.

    It may have come later than the first ones; what a stranger's full queue turned away, and what owners note for each
    other, was sent straight to the log.
    """
    if evidence.heard is None:
        return
    stream = _once(evidence.notifications)
    heard = _once(evidence.heard)
    keys: dict[str, set[str]] = defaultdict(set)
    for note in evidence.notifications:
        keys[note.id].add(note.routing_key)
    ids = list(stream)
    first = next((place for place, name in enumerate(ids) if name in heard), 0)
    straight = {name for name, note in stream.items() if note.routing_key == STATUS_LOG}
    excused = {*ids[:first], *evidence.undelivered, *straight}
    for name in stream.keys() - heard.keys() - excused:
        yield Finding(Fault.UNHEARD_NOTIFICATION, f"{name} stands in the status log, and the subscriber never heard it")
    for name, note in heard.items():
        if name not in stream:
            yield Finding(Fault.INVENTED_NOTIFICATION, f"the subscriber heard {name}, which the status log has not")
        elif note.data != stream[name].data or note.routing_key not in keys[name]:
            yield Finding(Fault.ALTERED_NOTIFICATION, f"the subscriber heard {name} in other words than the log has")
    last: dict[str, tuple[int, int]] = {}
    for note in heard.values():
        if note.data.get("seq") is None:
            continue
        instance, place = note.data["instance"], (note.data["epoch"], note.data["seq"])
        if place < last.get(instance, (0, 0)):
            yield Finding(Fault.SWAPPED_NOTIFICATIONS, f"the subscriber heard {place} of {instance} too late")
        last[instance] = max(place, last.get(instance, (0, 0)))


def _once(notes: Sequence[Notification]) -> dict[str, Notification]:
    """By id, each as it was told first."""
    found: dict[str, Notification] = {}
    for note in notes:
        found.setdefault(note.id, note)
    return found
