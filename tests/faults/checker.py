"""Judges from outside whether a run kept its promises. Rules only: reading what a run left behind is `evidence.py`'s.

Each rule is written from the guarantees, not from the code: it imports nothing of Relight, and folds, hashes and
orders by its own lights. A finding has a name, so that a planted fault can be asserted by it.
"""

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from tests.faults.evidence import Evidence, InstanceRow, LogRow, Notification, StepRow, Verdict, moment

OUTCOMES = frozenset({"applied", "absorbed", "refused", "dead"})
LOGGED = {"applied": "transition", "refused": "refusal"}
"""Outcomes that leave a row in the instance's log, and of which kind."""
ENDED = frozenset({"done", "proceeded", "waived", "failed", "cancelled"})
COMMANDS = "participant."
"""How the actions begin whose effect is a participant's, under the step's idempotency key."""


class Fault(StrEnum):
    """Everything that can be found."""

    LOST_EVENT = "lost_event"
    DOUBLED_INBOX_ROW = "doubled_inbox_row"
    WRONG_OUTCOME = "wrong_outcome"
    STRANGE_EVENT = "strange_event"
    DOUBLED_LOG_ROW = "doubled_log_row"
    OUTCOME_WITHOUT_LOG_ROW = "outcome_without_log_row"
    LOG_ROW_WITHOUT_OUTCOME = "log_row_without_outcome"
    GAP_IN_SEQ = "gap_in_seq"
    BROKEN_EDGE = "broken_edge"
    BROKEN_HASH = "broken_hash"
    ALTERED_COLUMN = "altered_column"
    WRONG_FOLD = "wrong_fold"
    UNKNOWN_STATE = "unknown_state"
    UNKNOWN_EDGE = "unknown_edge"
    OLD_EPOCH = "old_epoch"
    OLD_TOKEN = "old_token"
    MISSING_NOTIFICATION = "missing_notification"
    INVENTED_NOTIFICATION = "invented_notification"
    ALTERED_NOTIFICATION = "altered_notification"
    SWAPPED_NOTIFICATIONS = "swapped_notifications"
    UNSENT_NOTIFICATION = "unsent_notification"
    DOUBLED_EFFECT = "doubled_effect"
    MISSING_EFFECT = "missing_effect"
    UNPLANNED_EFFECT = "unplanned_effect"
    ABANDONED_STEP = "abandoned_step"
    UNVERIFIED_OPERATIONAL = "unverified_operational"
    UNVERIFIED_SHUTDOWN = "unverified_shutdown"


@dataclass(frozen=True)
class Finding:
    fault: Fault
    what: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.what}"


def check(evidence: Evidence) -> list[Finding]:
    """Every finding of every rule; none means that the run kept its promises. The run must have come to rest."""
    return [finding for rule in RULES for finding in rule(evidence)]


# --- events: each confirmed one has its outcomes, once -----------------------------------------------------------


def events_have_outcomes(evidence: Evidence) -> Iterator[Finding]:
    rows = defaultdict(list)
    for row in evidence.inbox:
        rows[row.source, row.id].append(row)
    dead = {(letter.source, letter.event_id) for letter in evidence.dead}
    for event in evidence.published:
        key = (event.source, event.id)
        found = rows.get(key, [])
        if event.verdict is Verdict.CONFIRMED and not found and key not in dead:
            yield Finding(Fault.LOST_EVENT, f"{key} was confirmed and has neither an outcome nor a dead letter")
        if len(found) > 1:
            yield Finding(Fault.DOUBLED_INBOX_ROW, f"{key} has {len(found)} inbox rows")
        for row in found:
            wrong = [outcome for outcome in row.outcomes.values() if outcome not in OUTCOMES]
            buried = list(row.outcomes.values()) == ["dead"]
            meant = event.instance is None or buried or set(row.outcomes) == {event.instance}
            if wrong or not row.outcomes or not meant:
                yield Finding(Fault.WRONG_OUTCOME, f"{key} means {event.instance} and has {dict(row.outcomes)}")
            if buried and key not in dead:
                yield Finding(Fault.WRONG_OUTCOME, f"{key} is dead without a dead letter")


def outcomes_and_log_agree(evidence: Evidence) -> Iterator[Finding]:
    sources = {event.source for event in evidence.published}
    known = {(event.source, event.id) for event in evidence.published}
    outcomes = {(row.source, row.id): row.outcomes for row in evidence.inbox}
    logged: dict[tuple[str, str, str], list[LogRow]] = defaultdict(list)
    for log_row in evidence.log:
        if log_row.source in sources:
            logged[log_row.source, log_row.event_id, log_row.instance].append(log_row)
    for (source, event, instance), rows in logged.items():
        key = (source, event)
        if key not in known:
            yield Finding(Fault.STRANGE_EVENT, f"{instance} logged {key}, which nobody published")
        if len(rows) > 1:
            yield Finding(Fault.DOUBLED_LOG_ROW, f"{instance} logged {key} as seq {[row.seq for row in rows]}")
        expected = LOGGED.get(outcomes.get(key, {}).get(instance, "none"))
        if expected != rows[0].kind:
            said = dict(outcomes.get(key, {}))
            yield Finding(
                Fault.LOG_ROW_WITHOUT_OUTCOME, f"{instance} logged a {rows[0].kind} for {key}, outcomes {said}"
            )
    for key, decided in outcomes.items():
        for instance, outcome in decided.items():
            if key in known and outcome in LOGGED and (*key, instance) not in logged:
                yield Finding(Fault.OUTCOME_WITHOUT_LOG_ROW, f"{key} was {outcome} at {instance}, which logged nothing")


# --- the log: without gap, chained, folding to the snapshot ------------------------------------------------------


def logs_hold(evidence: Evidence) -> Iterator[Finding]:
    snapshots = {row.instance: row for row in evidence.instances}
    logs = _by_instance(evidence.log)
    for instance in snapshots.keys() - logs.keys():
        yield Finding(Fault.WRONG_FOLD, f"{instance} has a snapshot and no log")
    for instance, rows in logs.items():
        numbers = [row.seq for row in rows]
        if numbers != list(range(1, len(rows) + 1)):
            odd = next((n for n, seq in enumerate(numbers, start=1) if n != seq), len(rows))
            yield Finding(Fault.GAP_IN_SEQ, f"{instance}: row {odd} of {len(rows)} has seq {numbers[odd - 1]}")
        yield from _chain(instance, rows)
        yield from _folds(instance, rows, snapshots.get(instance))


def _chain(instance: str, rows: Sequence[LogRow]) -> Iterator[Finding]:
    head, state, epoch = "", None, 0
    for row in rows:
        where = f"{instance} seq {row.seq}"
        digest = hashlib.sha256(f"{row.previous}\n{row.record}".encode()).hexdigest()
        if row.previous != head or row.hash != digest:
            yield Finding(Fault.BROKEN_HASH, f"{where}: its hash does not follow from the row before and its record")
        if state is not None and row.state_from != state:
            yield Finding(Fault.BROKEN_EDGE, f"{where}: from {row.state_from}, but the row before led to {state}")
        if row.kind == "refusal" and row.state_from != row.state_to:
            yield Finding(Fault.BROKEN_EDGE, f"{where}: a refusal moved {row.state_from} to {row.state_to}")
        if row.epoch < epoch:
            yield Finding(Fault.OLD_EPOCH, f"{where}: epoch {row.epoch} after {epoch}")
        record = json.loads(row.record)
        columns = (row.instance, row.epoch, row.seq, row.kind, row.state_from, row.state_to, row.source, row.event_id)
        said = tuple(record[key] for key in ("instance", "epoch", "seq", "kind", "from", "to"))
        if columns != (*said, record["event"]["source"], record["event"]["id"]):
            yield Finding(Fault.ALTERED_COLUMN, f"{where}: the columns {columns} are not what its record says")
        head, state, epoch = row.hash, row.state_to, row.epoch


def _folds(instance: str, rows: Sequence[LogRow], stored: InstanceRow | None) -> Iterator[Finding]:
    data: dict[str, Any] = {}
    for row in rows:
        record = json.loads(row.record)
        for key, value in record.get("changes", {}).items():
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value
        if record["snapshot"]["data"] != data:
            yield Finding(Fault.WRONG_FOLD, f"{instance} seq {row.seq}: its changes do not make its snapshot")
            return
    if stored is None:
        yield Finding(Fault.WRONG_FOLD, f"{instance} has a log of {len(rows)} rows and no snapshot")
        return
    last = json.loads(rows[-1].record)
    folded = (
        rows[-1].seq, rows[-1].epoch, rows[-1].hash, rows[-1].state_to, last["snapshot"]["state"],
        last["snapshot"]["entry"], moment(last["snapshot"]["entered_at"]), moment(last["snapshot"]["dwell_until"]),
        moment(last["snapshot"]["deadline_at"]), last["machine_version"], last["config_hash"], data,
    )  # fmt: skip
    found = (
        stored.seq, stored.epoch, stored.hash, stored.state, stored.state,
        stored.entry, _utc(stored.entered_at), _utc(stored.dwell_until),
        _utc(stored.deadline_at), stored.machine_version, stored.config_hash, json.loads(stored.data),
    )  # fmt: skip
    if folded != found:
        odd = [f"{mine} is stored as {theirs}" for mine, theirs in zip(folded, found, strict=True) if mine != theirs]
        yield Finding(Fault.WRONG_FOLD, f"{instance}: {'; '.join(odd)}")


def edges_are_the_tables(evidence: Evidence) -> Iterator[Finding]:
    for row in evidence.log:
        table = evidence.machines.get(row.instance.split("/", 1)[0])
        where = f"{row.instance} seq {row.seq}"
        if table is None or row.state_to not in table.states:
            yield Finding(Fault.UNKNOWN_STATE, f"{where}: its machine has no state {row.state_to}")
            continue
        # What stays in its state may be a person's note, which is no line of the table.
        moved = row.kind == "transition" and row.state_from != row.state_to
        if moved and (row.state_from, row.state_to) not in table.edges:
            yield Finding(Fault.UNKNOWN_EDGE, f"{where}: no transition leads {row.state_from} → {row.state_to}")


def tokens_only_grow(evidence: Evidence) -> Iterator[Finding]:
    """Claims of a later state entry carry larger tokens than those of an earlier one, and nobody a future one."""
    for row in evidence.instances:
        if row.token > evidence.newest_token:
            yield Finding(Fault.OLD_TOKEN, f"{row.instance} was written under {row.token}, which no owner holds")
    steps: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for step in evidence.steps:
        if step.token is not None:
            steps[step.instance][step.entry].append(step.token)
    for instance, entries in steps.items():
        before = 0
        for entry in sorted(entries):
            if min(entries[entry]) <= before:
                yield Finding(
                    Fault.OLD_TOKEN, f"{instance} entry {entry}: a step has token {min(entries[entry])} ≤ {before}"
                )
            before = max(entries[entry])


# --- notifications: one for each row, in order -------------------------------------------------------------------


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
    logs = _by_instance(evidence.log)
    for instance in told.keys() | logs.keys():
        rows = {(row.epoch, row.seq): row for row in logs.get(instance, [])}
        heard = [(note.data["epoch"], note.data["seq"]) for note in told.get(instance, [])]
        for key in rows.keys() - set(heard):
            yield Finding(Fault.MISSING_NOTIFICATION, f"{instance}: nothing was said of {key}")
        for key in set(heard) - rows.keys():
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


# --- effects: each once ------------------------------------------------------------------------------------------


def effects_happened_once(evidence: Evidence) -> Iterator[Finding]:
    """A participant's effect carries its step's key; a process tells when it begins and when it ends."""
    steps = {step.key: step for step in evidence.steps if step.action.startswith(COMMANDS)}
    counted = Counter(effect.key for effect in evidence.effects if effect.key is not None)
    for key, count in counted.items():
        if count > 1:
            yield Finding(Fault.DOUBLED_EFFECT, f"{key} happened {count} times")
        if key not in steps:
            yield Finding(Fault.UNPLANNED_EFFECT, f"{key} happened and no step planned it")
    for key, step in steps.items():
        ran = "detail" not in step.result or step.result.get("running") is not False
        if step.status == "done" and ran and step.result.get("by") == "command" and key not in counted:
            yield Finding(Fault.MISSING_EFFECT, f"{key} is recorded as done and never happened")
    for component in {effect.component for effect in evidence.effects}:
        alive: int | None = None
        starts = 0
        for effect in (e for e in evidence.effects if e.component == component):
            if effect.what == "start":
                starts += 1
                if alive is not None:
                    yield Finding(Fault.DOUBLED_EFFECT, f"{component} was started while pid {alive} still ran")
                alive = effect.pid
            elif effect.what == "stop":
                alive = None
        done = [s for s in evidence.steps if s.name == f"start:{component}" and s.status == "done"]
        if starts < len(done):
            yield Finding(Fault.MISSING_EFFECT, f"{component} was started {starts} times, recorded {len(done)} times")
        if starts > len({s.entry for s in evidence.steps if s.name == f"start:{component}"}):
            yield Finding(Fault.DOUBLED_EFFECT, f"{component} was started {starts} times, planned less often")


def steps_ended_with_their_state(evidence: Evidence) -> Iterator[Finding]:
    current = {row.instance: row.entry for row in evidence.instances}
    for step in evidence.steps:
        if step.entry < current.get(step.instance, 0) and step.status not in ENDED:
            yield Finding(Fault.ABANDONED_STEP, f"{step.key} is {step.status} and its state entry is over")


# --- the lifecycle: nothing is claimed that was not shown --------------------------------------------------------


def lifecycle_shows_what_it_claims(evidence: Evidence) -> Iterator[Finding]:
    steps: dict[tuple[str, int], list[StepRow]] = defaultdict(list)
    for step in evidence.steps:
        steps[step.instance, step.entry].append(step)
    for instance, rows in _by_instance(evidence.log).items():
        if not instance.startswith("lifecycle/"):
            continue
        entries: dict[str, int] = {}
        halted_in = ""
        for row in (row for row in rows if row.kind == "transition"):
            where = f"{instance} seq {row.seq}"
            if row.state_to == "halted" != row.state_from:
                halted_in = row.state_from
            if row.state_to == "operational" and row.state_from != "operational":
                place = row.state_from if row.state_from.endswith("resuming") else "starting_up.verifying"
                if not _verified(steps.get((instance, entries.get(place, 0)), [])):
                    yield Finding(Fault.UNVERIFIED_OPERATIONAL, f"{where}: no passed verification in {place}")
            if row.state_to == "shutting_down":
                # What was left off is gone on with: the snapshot is that with which it began.
                again = (row.state_from, halted_in) == ("halted", "shutting_down")
                place = "preparing_for_restart.preserving" if again else row.state_from
                planned = steps.get((instance, entries.get(place, 0)), [])
                if (why := _unsealed(planned, evidence)) is not None:
                    yield Finding(Fault.UNVERIFIED_SHUTDOWN, f"{where}: {why}")
            entries[row.state_to] = json.loads(row.record)["snapshot"]["entry"]


def _verified(steps: Sequence[StepRow]) -> bool:
    checks = [step for step in steps if step.action == "check.run"]
    return bool(checks) and all(s.status == "done" and s.result.get("passed") is True for s in checks)


def _unsealed(steps: Sequence[StepRow], evidence: Evidence) -> str | None:
    named = {step.name: step for step in steps}
    sealed, verified = named.get("seal"), named.get("verify_snapshot")
    if sealed is None or sealed.status != "done" or verified is None or verified.status != "done":
        return "no system snapshot was sealed and verified"
    digest, url = sealed.result.get("sha256"), str(sealed.result.get("url"))
    if verified.result.get("verified") is not True or verified.result.get("sha256") != digest:
        return "the system snapshot that was read back is not the one that was sealed"
    if evidence.documents.get(url, digest) != digest:
        return f"{url} is not what was sealed"
    return None


def _by_instance(log: Sequence[LogRow]) -> dict[str, list[LogRow]]:
    logs: dict[str, list[LogRow]] = defaultdict(list)
    for row in sorted(log, key=lambda row: (row.instance, row.seq)):
        logs[row.instance].append(row)
    return logs


def _utc(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)


RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    events_have_outcomes,
    outcomes_and_log_agree,
    logs_hold,
    edges_are_the_tables,
    tokens_only_grow,
    notifications_match,
    effects_happened_once,
    steps_ended_with_their_state,
    lifecycle_shows_what_it_claims,
)
"""All of them; a new promise is one more."""
