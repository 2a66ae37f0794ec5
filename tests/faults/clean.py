"""The evidence of a clean run, small enough to be read, and the ways to spoil it. The checker's tests build on it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.faults.evidence import (
    DeadLetter,
    Effect,
    Evidence,
    InboxRow,
    InstanceRow,
    LogRow,
    Notification,
    Operation,
    Probe,
    Published,
    Run,
    StepRow,
    Strike,
    Table,
    Timer,
    Verdict,
    Write,
)

T0 = datetime(2025, 3, 2, 1, 45, tzinfo=UTC)
ALERT, LIFECYCLE = "alert/shop/load", "lifecycle/shop"
PROBE = "probe"
PRESERVING = "preparing_for_restart.preserving"
SEAL = "5ea1" * 16
URL = "file:///snapshots/one.json"
MACHINES = {
    ("alert", 1): Table(
        frozenset({"normal", "warning", "critical"}), frozenset({("normal", "critical"), ("critical", "normal")}),
        "normal", frozenset({"normal", "warning"}),
    ),
    ("lifecycle", 1): Table(
        frozenset(
            {"operational", "preparing_for_restart.preserving", "shutting_down", "starting_up.initializing",
             "starting_up.verifying", "starting_up.restoring"}
        ),
        frozenset(
            {("operational", "preparing_for_restart.preserving"), ("preparing_for_restart.preserving", "shutting_down"),
             ("shutting_down", "starting_up.initializing"), ("starting_up.initializing", "starting_up.verifying"),
             ("starting_up.verifying", "starting_up.restoring"), ("starting_up.restoring", "operational")}
        ),
        "operational", frozenset({"operational"}),
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


def clean_run() -> Evidence:
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
    published = [Published(PROBE, event, Verdict.CONFIRMED, instance, at=100.0) for event, instance, _ in kinds]
    operations = [(f"o{number}", LIFECYCLE, "absorbed") for number in range(1, 4)]
    inbox += [InboxRow(PROBE, event, {instance: outcome}) for event, instance, outcome in operations]
    inbox += [InboxRow(PROBE, f"asked-{one}", {one: "absorbed"}) for one in (ALERT, LIFECYCLE)]
    published += [
        Published(PROBE, event, Verdict.CONFIRMED, instance, order=number)
        for number, (event, instance, _) in enumerate(operations)
    ]
    published += [
        Published(PROBE, "r1", Verdict.CONFIRMED, LIFECYCLE),
        Published(PROBE, "bad", Verdict.CONFIRMED),
        Published(PROBE, "gone", Verdict.UNKNOWN, ALERT),
    ]
    between = [note for pair in zip(alert.notes, life.notes, strict=False) for note in pair]
    between.append(Notification("refused:bad", "refused", "_none._none._refused", {
        "system": "_none", "machine": "_none", "instance": None, "epoch": 1, "seq": None,
        "reasons": ["no such system"], "event": {"type": "relight.test", "id": "bad", "source": PROBE, "user": "ana"},
    }))  # fmt: skip
    stream = [*between, alert.notes[1], *life.notes[3:]]
    queue = [Operation(PROBE, event, f"do {event}") for event, _, _ in operations]
    return Evidence(
        published=published,
        log=[*alert.rows, *life.rows],
        instances=[alert.snapshot(20), life.snapshot(20)],
        inbox=inbox,
        steps=steps,
        dead=[DeadLetter(PROBE, "bad", ("no such system",))],
        newest_token=20,
        # The second is told twice, as after a crash between confirm and record.
        notifications=stream,
        # It came when the first had been told, and heard others twice.
        heard=[*stream[1:], stream[4], *stream[-2:]],
        effects=[
            Effect("worker", "start", pid=100),
            Effect("worker", "pause", f"{LIFECYCLE}:1:pause:worker", 100, token=10),
            Effect("worker", "stop", pid=100),
            Effect("worker", "start", pid=101),
            Effect("worker", "resume", f"{LIFECYCLE}:5:resume:worker", 101, token=16),
        ][1:],
        # The first worker that told it to resume died, and another one claimed that step.
        told=[f"{LIFECYCLE}:1:pause:worker", *[f"{LIFECYCLE}:5:resume:worker"] * 2],
        machines=MACHINES,
        documents={URL: SEAL},
        searched=("file:///snapshots/",),
        timers=[Timer(LIFECYCLE, 6, "again:check:0", T0 + timedelta(minutes=5))],
        writes=[
            Write("claim", f"{LIFECYCLE}:1:pause:worker", 10, 0),
            Write("record", f"{LIFECYCLE}:1:pause:worker", 10, 10),
            Write("snapshot", ALERT, 20, 20),
            Write("claim", f"{LIFECYCLE}:5:resume:worker", 15, 0),
            Write("claim", f"{LIFECYCLE}:5:resume:worker", 16, 0),
        ],
        # The outbox went back to the second after a doubt.
        operations=[*queue[:2], *queue[1:]],
        taken_at=T0 + timedelta(minutes=4),
        run=Run(
            began=99.0, last_fault=101.0, strikes=[Strike("intake.after_commit", True)],
            places=frozenset({"intake.after_commit"}), minimum_rate=2.0,
            probes=[Probe(one, PROBE, f"asked-{one}", 3.0) for one in (ALERT, LIFECYCLE)],
        ),
    )  # fmt: skip


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


def during(evidence: Evidence, **changes: Any) -> Evidence:
    """The run with other conditions."""
    assert evidence.run is not None
    return replace(evidence, run=replace(evidence.run, **changes))


def without(items: Any, index: int) -> list[Any]:
    return [item for i, item in enumerate(items) if i != index % len(items)]
