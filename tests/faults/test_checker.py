"""The checker is checked: a clean run yields nothing, and each planted fault is found by its name."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.faults.checker import Fault, check
from tests.faults.evidence import (
    DeadLetter,
    Effect,
    Evidence,
    InboxRow,
    InstanceRow,
    LogRow,
    Notification,
    Published,
    StepRow,
    Table,
    Verdict,
)

T0 = datetime(2025, 3, 2, 1, 45, tzinfo=UTC)
ALERT, LIFECYCLE = "alert/shop/load", "lifecycle/shop"
PROBE = "probe"
PRESERVING = "preparing_for_restart.preserving"
SEAL = "5ea1" * 16
URL = "file:///snapshots/one.json"
MACHINES = {
    "alert": Table(
        frozenset({"normal", "warning", "critical"}), frozenset({("normal", "critical"), ("critical", "normal")})
    ),
    "lifecycle": Table(
        frozenset(
            {"operational", "preparing_for_restart.preserving", "shutting_down", "starting_up.initializing",
             "starting_up.verifying", "starting_up.restoring"}
        ),
        frozenset(
            {("operational", "preparing_for_restart.preserving"), ("preparing_for_restart.preserving", "shutting_down"),
             ("shutting_down", "starting_up.initializing"), ("starting_up.initializing", "starting_up.verifying"),
             ("starting_up.verifying", "starting_up.restoring"), ("starting_up.restoring", "operational")}
        ),
    ),
}  # fmt: skip


class Journal:
    """Writes what an honest engine would: log rows, their notifications, and the snapshot after them."""

    def __init__(self, instance: str, state: str) -> None:
        self.instance, self.state = instance, state
        self.machine, self.system = instance.split("/")[:2]
        self.rows: list[LogRow] = []
        self.notes: list[Notification] = []
        self.entry = 0
        self.entered = T0
        self.data: dict[str, Any] = {}

    def move(self, to: str, event: str, changes: dict[str, Any] | None = None, source: str = PROBE) -> None:
        self.entry += 1
        self.entered = T0 + timedelta(seconds=len(self.rows))
        merged = {**self.data, **(changes or {})}
        self.data = {key: value for key, value in merged.items() if value is not None}
        self._append("transition", to, event, source, reason="because", changes=changes or {})

    def refuse(self, event: str) -> None:
        self._append("refusal", self.state, event, PROBE, reasons=["not now"])

    def _append(self, kind: str, to: str, event: str, source: str, **extra: Any) -> None:
        seq = len(self.rows) + 1
        record = {
            "kind": kind, "instance": self.instance, "system": self.system, "machine": self.machine,
            "machine_version": 1, "config_hash": "c0", "epoch": 1, "seq": seq, "from": self.state, "to": to,
            "event": {"type": "relight.test", "id": event, "source": source, "user": "ana"},
            "snapshot": {
                "state": to, "entry": self.entry, "entered_at": self.entered.isoformat(), "dwell_until": None,
                "deadline_at": None, "data": dict(self.data),
            },
            **extra,
        }  # fmt: skip
        text = json.dumps(record, sort_keys=True)
        previous = self.rows[-1].hash if self.rows else ""
        digest = hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()
        self.rows.append(
            LogRow(self.instance, 1, seq, kind, self.state, to, source, event, 1, "c0", text, previous, digest)
        )
        same = {key: record[key] for key in ("system", "machine", "instance", "epoch", "seq", "event")}
        if kind == "transition":
            said = {**same, **{key: record[key] for key in ("from", "to", "reason", "snapshot")}}
        else:
            said = {**same, "state": to, "reasons": record["reasons"]}
        name, word = (kind, to) if kind == "transition" else ("refused", "_refused")
        key = f"{self.system}.{self.machine}.{word}"
        self.notes.append(Notification(f"1:{self.instance}:{seq}", name, key, said))
        self.state = to

    def snapshot(self, token: int) -> InstanceRow:
        return InstanceRow(
            self.instance, self.machine, 1, "c0", 1, len(self.rows), self.state, self.entry, self.entered, None, None,
            json.dumps(self.data), self.rows[-1].hash, token,
        )  # fmt: skip


def step(entry: int, state: str, name: str, action: str, token: int, **result: Any) -> StepRow:
    component = name.split(":")[1] if ":" in name and action != "check.run" else None
    return StepRow(LIFECYCLE, entry, name, state, action, component, "done", 1, token, result)


@pytest.fixture
def clean() -> Evidence:
    """Two alerts' moves, one refusal, one absorbed event, one dead letter, and a whole restart with its effects."""
    alert, life = Journal(ALERT, "normal"), Journal(LIFECYCLE, "operational")
    alert.move("critical", "m1", {"level": "critical", "since": "then"})
    alert.move("normal", "m2", {"level": "normal", "since": None})
    alert.refuse("m3")
    life.move("preparing_for_restart.preserving", "r1")
    for to in ("shutting_down", "starting_up.initializing", "starting_up.verifying", "starting_up.restoring"):
        life.move(to, f"done-{to}", source="relight/runner")
    life.move("operational", "up", source="relight/runner")
    steps = [
        step(1, PRESERVING, "pause:worker", "participant.pause", 10, by="command"),
        step(1, PRESERVING, "seal", "snapshot.seal", 11, url=URL, sha256=SEAL),
        step(1, PRESERVING, "verify_snapshot", "snapshot.verify", 12, sha256=SEAL, verified=True),
        step(2, "shutting_down", "stop:worker", "component.stop", 13),
        step(3, "starting_up.initializing", "start:worker", "component.start", 14),
        step(4, "starting_up.verifying", "check:0", "check.run", 15, passed=True),
        step(5, "starting_up.restoring", "resume:worker", "participant.resume", 16, by="command"),
    ]  # fmt: skip
    kinds = [("m1", ALERT, "applied"), ("m2", ALERT, "applied"), ("m3", ALERT, "refused"), ("m4", ALERT, "absorbed")]
    inbox = [InboxRow(PROBE, event, {instance: outcome}) for event, instance, outcome in kinds]
    inbox += [InboxRow(PROBE, "r1", {LIFECYCLE: "applied"}), InboxRow(PROBE, "bad", {"-": "dead"})]
    published = [Published(PROBE, event, Verdict.CONFIRMED, instance) for event, instance, _ in kinds]
    published += [
        Published(PROBE, "r1", Verdict.CONFIRMED, LIFECYCLE),
        Published(PROBE, "bad", Verdict.CONFIRMED),
        Published(PROBE, "gone", Verdict.UNKNOWN, ALERT),
    ]
    between = [note for pair in zip(alert.notes, life.notes, strict=False) for note in pair]
    return Evidence(
        published=published,
        log=[*alert.rows, *life.rows],
        instances=[alert.snapshot(20), life.snapshot(20)],
        inbox=inbox,
        steps=steps,
        dead=[DeadLetter(PROBE, "bad", ("no such system",))],
        newest_token=20,
        # The second is told twice, as after a crash between confirm and record.
        notifications=[*between, alert.notes[1], *life.notes[3:]],
        effects=[
            Effect("worker", "start", pid=100),
            Effect("worker", "pause", f"{LIFECYCLE}:1:pause:worker", 100),
            Effect("worker", "stop", pid=100),
            Effect("worker", "start", pid=101),
            Effect("worker", "resume", f"{LIFECYCLE}:5:resume:worker", 101),
        ][1:],
        machines=MACHINES,
        documents={URL: SEAL},
    )


def altered_record(evidence: Evidence, index: int, change: Callable[[dict[str, Any]], None]) -> Evidence:
    """The log with one record changed and the chain made anew: only a fold or a comparison can find it."""
    rows = list(evidence.log)
    record = json.loads(rows[index].record)
    change(record)
    rows[index] = replace(rows[index], record=json.dumps(record, sort_keys=True))
    for i, row in enumerate(rows):
        if row.instance == rows[index].instance:
            earlier = [r for r in rows[:i] if r.instance == row.instance]
            previous = earlier[-1].hash if earlier else ""
            digest = hashlib.sha256(f"{previous}\n{row.record}".encode()).hexdigest()
            rows[i] = replace(row, previous=previous, hash=digest)
    heads = {row.instance: row.hash for row in rows}
    return replace(evidence, log=rows, instances=[replace(one, hash=heads[one.instance]) for one in evidence.instances])


def swap(items: Any, one: int, other: int) -> list[Any]:
    changed = list(items)
    changed[one], changed[other] = changed[other], changed[one]
    return changed


def put(items: Any, index: int, **changes: Any) -> list[Any]:
    changed = list(items)
    changed[index] = replace(changed[index], **changes)
    return changed


def without(items: Any, index: int) -> list[Any]:
    return [item for i, item in enumerate(items) if i != index % len(items)]


PLANTED: dict[str, tuple[Callable[[Evidence], Evidence], Fault]] = {
    "a confirmed event left no trace": (
        lambda e: replace(e, inbox=without(e.inbox, 3)), Fault.LOST_EVENT,
    ),
    "an event was taken in twice": (
        lambda e: replace(e, inbox=[*e.inbox, e.inbox[0]]), Fault.DOUBLED_INBOX_ROW,
    ),
    "an event has its outcome at a stranger": (
        lambda e: replace(e, inbox=put(e.inbox, 3, outcomes={"alert/shop/other": "absorbed"})), Fault.WRONG_OUTCOME,
    ),
    "an event has no outcome": (
        lambda e: replace(e, inbox=put(e.inbox, 3, outcomes={})), Fault.WRONG_OUTCOME,
    ),
    "a dead event has no dead letter": (
        lambda e: replace(e, dead=()), Fault.WRONG_OUTCOME,
    ),
    "an event was logged that nobody published": (
        lambda e: replace(e, published=e.published[1:]), Fault.STRANGE_EVENT,
    ),
    "an unknown event had its effect twice": (
        lambda e: replace(e, log=[*e.log, replace(e.log[0], seq=4)]), Fault.DOUBLED_LOG_ROW,
    ),
    "an applied event moved nothing": (
        lambda e: replace(e, inbox=put(e.inbox, 3, outcomes={ALERT: "applied"})), Fault.OUTCOME_WITHOUT_LOG_ROW,
    ),
    "an absorbed event moved something": (
        lambda e: replace(e, inbox=put(e.inbox, 0, outcomes={ALERT: "absorbed"})), Fault.LOG_ROW_WITHOUT_OUTCOME,
    ),
    "a log row is missing": (
        lambda e: replace(e, log=without(e.log, 1)), Fault.GAP_IN_SEQ,
    ),
    "a row begins where the one before did not end": (
        lambda e: replace(e, log=put(e.log, 1, state_from="warning")), Fault.BROKEN_EDGE,
    ),
    "a refusal moved its instance": (
        lambda e: replace(e, log=put(e.log, 2, state_to="critical")), Fault.BROKEN_EDGE,
    ),
    "a record was changed afterwards": (
        lambda e: replace(e, log=put(e.log, 0, record=e.log[0].record.replace("then", "now!"))), Fault.BROKEN_HASH,
    ),
    "a column was changed afterwards": (
        lambda e: replace(e, log=put(e.log, 1, event_id="m9")), Fault.ALTERED_COLUMN,
    ),
    "the snapshot is not what the log makes": (
        lambda e: replace(e, instances=put(e.instances, 0, data='{"level": "critical"}')), Fault.WRONG_FOLD,
    ),
    "the snapshot is of a state the log did not reach": (
        lambda e: replace(e, instances=put(e.instances, 0, state="critical")), Fault.WRONG_FOLD,
    ),
    "the snapshot counts another entry": (
        lambda e: replace(e, instances=put(e.instances, 1, entry=9)), Fault.WRONG_FOLD,
    ),
    "a recorded change is missing": (
        lambda e: altered_record(e, 1, lambda record: record["changes"].pop("since")), Fault.WRONG_FOLD,
    ),
    "an instance has a log and no snapshot": (
        lambda e: replace(e, instances=without(e.instances, 0)), Fault.WRONG_FOLD,
    ),
    "a state is not in the table": (
        lambda e: replace(e, machines={**MACHINES, "alert": Table(frozenset({"normal"}), frozenset())}),
        Fault.UNKNOWN_STATE,
    ),
    "a move is not in the table": (
        lambda e: replace(
            e, machines={**MACHINES, "alert": replace(MACHINES["alert"], edges=frozenset({("normal", "critical")}))}
        ),
        Fault.UNKNOWN_EDGE,
    ),
    "an older generation wrote after a newer one": (
        lambda e: replace(e, log=put(e.log, 1, epoch=0)), Fault.OLD_EPOCH,
    ),
    "a snapshot carries a token that no owner holds": (
        lambda e: replace(e, newest_token=19), Fault.OLD_TOKEN,
    ),
    "a worker of a past claim wrote a later step": (
        lambda e: replace(e, steps=put(e.steps, 5, token=9)), Fault.OLD_TOKEN,
    ),
    "a row was never told": (
        lambda e: replace(e, notifications=without(e.notifications, 0)), Fault.MISSING_NOTIFICATION,
    ),
    "something was told that never happened": (
        lambda e: replace(
            e,
            notifications=[
                *e.notifications,
                replace(e.notifications[0], id="1:alert/shop/load:9", data={**e.notifications[0].data, "seq": 9}),
            ],
        ),
        Fault.INVENTED_NOTIFICATION,
    ),
    "a row was told under a second id": (
        lambda e: replace(e, notifications=[*e.notifications, replace(e.notifications[0], id="another")]),
        Fault.INVENTED_NOTIFICATION,
    ),
    "two notifications were told in the wrong order": (
        lambda e: replace(e, notifications=swap(e.notifications, 0, 2)), Fault.SWAPPED_NOTIFICATIONS,
    ),
    "a notification tells of another state": (
        lambda e: replace(
            e, notifications=put(e.notifications, 0, data={**e.notifications[0].data, "to": "warning"})
        ),
        Fault.ALTERED_NOTIFICATION,
    ),
    "a notification went to the wrong place": (
        lambda e: replace(e, notifications=put(e.notifications, 0, routing_key="shop.alert.warning")),
        Fault.ALTERED_NOTIFICATION,
    ),
    "the same id was sent with other words": (
        lambda e: replace(
            e,
            notifications=[
                *e.notifications, replace(e.notifications[0], data={**e.notifications[0].data, "reason": "other"})
            ],
        ),
        Fault.ALTERED_NOTIFICATION,
    ),
    "a notification was never sent": (
        lambda e: replace(e, outbox=("1:alert/shop/load:3",)), Fault.UNSENT_NOTIFICATION,
    ),
    "a participant was paused twice": (
        lambda e: replace(e, effects=[e.effects[0], *e.effects]), Fault.DOUBLED_EFFECT,
    ),
    "a process was started beside itself": (
        lambda e: replace(e, effects=[*e.effects, Effect("worker", "start", pid=102)]), Fault.DOUBLED_EFFECT,
    ),
    "a process was started more often than planned": (
        lambda e: replace(
            e, effects=[*e.effects, Effect("worker", "stop", pid=101), Effect("worker", "start", pid=102)]
        ),
        Fault.DOUBLED_EFFECT,
    ),
    "a pause is recorded that never happened": (
        lambda e: replace(e, effects=without(e.effects, 0)), Fault.MISSING_EFFECT,
    ),
    "a start is recorded that never happened": (
        lambda e: replace(e, effects=[one for one in e.effects if one.what != "start"]), Fault.MISSING_EFFECT,
    ),
    "a retry had a key of its own": (
        lambda e: replace(e, effects=[*e.effects, Effect("worker", "pause", f"{LIFECYCLE}:1:pause:worker:2")]),
        Fault.UNPLANNED_EFFECT,
    ),
    "a step was left running in a state that is over": (
        lambda e: replace(e, steps=put(e.steps, 3, status="running")), Fault.ABANDONED_STEP,
    ),
    "a check failed and the system is operational": (
        lambda e: replace(e, steps=put(e.steps, 5, result={"passed": False})), Fault.UNVERIFIED_OPERATIONAL,
    ),
    "nothing was checked and the system is operational": (
        lambda e: replace(e, steps=without(e.steps, 5)), Fault.UNVERIFIED_OPERATIONAL,
    ),
    "the system was shut down without a system snapshot": (
        lambda e: replace(e, steps=without(e.steps, 1)), Fault.UNVERIFIED_SHUTDOWN,
    ),
    "another system snapshot was verified than sealed": (
        lambda e: replace(e, steps=put(e.steps, 2, result={"verified": True, "sha256": "0" * 64})),
        Fault.UNVERIFIED_SHUTDOWN,
    ),
    "the system snapshot was changed after it was sealed": (
        lambda e: replace(e, documents={URL: "0" * 64}), Fault.UNVERIFIED_SHUTDOWN,
    ),
}  # fmt: skip


def test_clean_run_yields_nothing(clean: Evidence) -> None:
    assert check(clean) == []


@pytest.mark.parametrize("story", PLANTED)
def test_planted_fault_is_found_by_name(story: str, clean: Evidence) -> None:
    plant, fault = PLANTED[story]
    found = check(plant(clean))
    assert fault in {finding.fault for finding in found}, f"{story}: found {[str(one) for one in found]}"


def test_every_name_is_proven_by_a_planted_fault() -> None:
    assert {fault for _, fault in PLANTED.values()} == set(Fault)


def test_unknown_and_failed_events_may_be_absent(clean: Evidence) -> None:
    more = [Published(PROBE, "x", Verdict.FAILED, ALERT), Published(PROBE, "y", Verdict.UNKNOWN, ALERT)]
    assert check(replace(clean, published=[*clean.published, *more])) == []
