"""Rows as an engine would write them, short enough to read in a story. No test and no store lives here."""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from machines.model import InstanceId, PlannedStep, Snapshot, StepStatus
from schemas.components import OnSilence
from service.ports import (
    Batch,
    EventKey,
    InboxRow,
    LogRow,
    NewSignal,
    OutMessage,
    Ownership,
    SnapshotWrite,
    StepKey,
    StepRow,
    TimerRow,
)

NOW = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
LIFECYCLE = InstanceId("lifecycle/metrics")
ALERT = InstanceId("alert/metrics/memory")
MINUTE = timedelta(minutes=1)


def event(name: str) -> EventKey:
    return EventKey("svc-deploy", name)


def inbox(name: str, outcome: str = "applied") -> InboxRow:
    return InboxRow(event(name), hashlib.sha256(name.encode()).digest(), {LIFECYCLE: outcome})


def snapshot(seq: int, instance: InstanceId = LIFECYCLE, **changes: Any) -> Snapshot:
    first = Snapshot(
        instance=instance,
        system=instance.split("/")[1],
        machine=instance.split("/")[0],
        machine_version=1,
        config_hash="c0ffee",
        epoch=1,
        seq=seq,
        state="operational",
        entry=seq,
        entered_at=NOW,
        data={"restarts": seq, "note": "ß → 雪"},
        hash=f"{seq:064x}",
    )
    return replace(first, **changes)


def log(seq: int, instance: InstanceId = LIFECYCLE, **changes: Any) -> LogRow:
    row = LogRow(
        instance=instance,
        epoch=1,
        seq=seq,
        kind="transition",
        at=NOW,
        state_from="unobserved",
        state_to="operational",
        event=event(f"event-{seq}"),
        event_type="restart.requested",
        user="ana",
        causation=None,
        correlation="c-1",
        machine_version=1,
        config_hash="c0ffee",
        record=f'{{"seq":{seq},"value":1e2}}',
        previous=f"{seq - 1:064x}",
        hash=f"{seq:064x}",
    )
    return replace(row, **changes)


def out(name: str) -> OutMessage:
    return OutMessage("relight.status", f"metrics.lifecycle.{name}", f"id-{name}", f'{{"what":"{name}"}}')


def step(name: str, status: StepStatus = StepStatus.READY, *, entry: int = 1, **changes: Any) -> StepRow:
    planned = PlannedStep(
        name=name,
        action="participant.pause",
        position=changes.pop("position", 0),
        timeout=timedelta(seconds=1.5),
        attempts=3,
        component="calculator",
        arguments={"command": "pause"},
        on_silence=OnSilence.PROCEED,
    )
    row = StepRow(
        key=StepKey(LIFECYCLE, entry, name),
        system="metrics",
        place="local",
        planned=planned,
        status=status,
        state="preparing_for_restart.preserving",
        config_hash="c0ffee",
    )
    return replace(row, **changes)


def timer(kind: str, due_at: datetime = NOW, *, entry: int = 1, instance: InstanceId = LIFECYCLE) -> TimerRow:
    return TimerRow(instance, entry, kind, due_at)


def says(what: str, system: str = "metrics") -> NewSignal:
    return NewSignal(system, f'{{"says":"{what}"}}', "ana", local=True)


@dataclass(frozen=True)
class Owner:
    """Builds batches under one lease."""

    lease: Ownership

    def batch(self, **sections: Any) -> Batch:
        return Batch(self.lease.shard, self.lease.token, NOW, **sections)

    def moved(self, seq: int, instance: InstanceId = LIFECYCLE, **sections: Any) -> Batch:
        """A batch that takes the instance from `seq` - 1 to `seq`; `snapshot` replaces the plain one."""
        new = sections.pop("snapshot", snapshot(seq, instance))
        given = {"inbox": (inbox(f"{instance}-{seq}"),), "log": (log(seq, instance),), **sections}
        return self.batch(snapshots=(SnapshotWrite(new, seq - 1),), **given)
