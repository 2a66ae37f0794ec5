"""A story in virtual time as evidence for the outside checker, with a witness of who writes and what really happens.

Nothing is judged here. The witness stands around the doubles' own methods: it sees what reaches the servers, whatever
the engine believes.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pytest

from machines.model import Snapshot, StepStatus
from schemas.notifications import CommandData
from schemas.system_snapshot import sha256
from service.adapters.memory.broker import STATUS_EXCHANGE, MemoryBroker
from service.adapters.memory.participants import MemoryParticipant
from service.adapters.memory.processes import MemoryProcesses
from service.adapters.memory.store import MemoryStore
from service.adapters.memory.tables import Tables
from service.ports import Batch, EventKey, LogRow, StepKey, StepRow
from tests.faults import evidence as found
from tests.faults.evidence import Effect, Evidence, Published, Verdict, Write
from tests.faults.harness import tables_of_machines
from tests.simulation.story import Story

PUBLISHER = "publisher"
"""The source of what the stories publish; participants answer under sources of their own."""
OPERATIONS = "relight.operations.metrics"
UNTOLD = frozenset({"report"})
"""Commands that only ask: repeating one is no effect."""


@dataclass
class Witness:
    """What was seen, in its order. `twins`: machines with the table of `alert`, which the same measurements mean."""

    twins: tuple[str, ...] = ()
    writes: list[Write] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    published: dict[tuple[str, str], Published] = field(default_factory=dict)
    _lasting: dict[StepKey, int] = field(default_factory=dict)

    def stand_by(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Watches every double from now on. A planted bug that replaces one of these methods must come before."""
        for kind, name, watch in (
            (Tables, "commit", self._snapshots),
            (MemoryStore, "finish", self._records),
            (MemoryStore, "wait", self._records),
            (MemoryStore, "_is_free", self._lasts),
            (MemoryStore, "claim", self._claims),
            (MemoryParticipant, "_do", self._commands),
            (MemoryProcesses, "start", self._starts),
            (MemoryProcesses, "_end", self._ends),
            (MemoryBroker, "put", self._publishes),
        ):
            monkeypatch.setattr(kind, name, watch(getattr(kind, name)))

    def _snapshots(self, real: Any) -> Any:
        def commit(tables: Tables, batch: Batch, now: datetime) -> Any:
            answer = real(tables, batch, now)
            lease = tables.leases.get(batch.shard)
            held = lease.token if lease is not None else 0
            names = [str(write.snapshot.instance) for write in batch.snapshots]
            self.writes += [Write("snapshot", name, batch.token, held) for name in names or ["a shard"]]
            return answer

        return commit

    def _records(self, real: Any) -> Any:
        async def record(store: MemoryStore, row: StepRow, *rest: Any) -> Any:
            answer = await real(store, row, *rest)
            stored = store.tables.steps[row.key]
            self.writes.append(Write("record", row.key.command_id, row.token or 0, stored.token or 0))
            return answer

        return record

    def _lasts(self, real: Any) -> Any:
        def is_free(store: MemoryStore, row: StepRow, now: datetime) -> bool:
            free: bool = real(store, row, now)
            lasts = row.status is StepStatus.RUNNING and row.lease_until is not None
            if free and lasts and row.lease_until > store._clock.now():  # type: ignore[operator]  # looked at before
                self._lasting[row.key] = row.token or 0
            return free

        return is_free

    def _claims(self, real: Any) -> Any:
        async def claim(store: MemoryStore, *arguments: Any) -> Any:
            rows = await real(store, *arguments)
            for row in rows:
                held = self._lasting.pop(row.key, 0)
                self.writes.append(Write("claim", row.key.command_id, row.token or 0, held))
            return rows

        return claim

    def _commands(self, real: Any) -> Any:
        def do(participant: MemoryParticipant, data: CommandData) -> Any:
            if data.command not in UNTOLD:
                self.effects.append(
                    Effect(participant.component, data.command, data.commandid, token=data.token)
                )  # fmt: skip
            return real(participant, data)

        return do

    def _starts(self, real: Any) -> Any:
        async def start(processes: MemoryProcesses, name: str, *rest: Any) -> Any:
            before = processes.starts.get(name, 0)
            state = await real(processes, name, *rest)
            if processes.starts.get(name, 0) > before:
                self.effects.append(Effect(name.split(".")[1], "start", pid=state.pid))
            return state

        return start

    def _ends(self, real: Any) -> Any:
        def end(processes: MemoryProcesses, name: str, process: Any, status: int) -> None:
            if process.exit_status is None:
                self.effects.append(Effect(name.split(".")[1], "stop", pid=process.pid))
            real(processes, name, process, status)

        return end

    def _publishes(self, real: Any) -> Any:
        def put(broker: MemoryBroker, routing_key: str, body: bytes, **how: Any) -> None:
            event = json.loads(body)
            name, system = event["type"].removeprefix("relight."), event["subject"]
            others: tuple[str, ...] = ()
            instance = event["data"].get("instance", f"lifecycle/{system}")
            if name == "metric.observed":
                instance, *twins = (f"{one}/{system}/{event['data']['metric']}" for one in ("alert", *self.twins))
                others = tuple(twins)
            key = (event["source"], event["id"])
            if event["source"] == PUBLISHER:
                order = 0 if name == "operation.requested" else None
                self.published[key] = Published(*key, Verdict.CONFIRMED, instance, others, order=order)
            real(broker, routing_key, body, **how)

        return put

    def evidence(self, story: Story, taken_at: datetime) -> Evidence:
        """Everything that the story left behind, at the moment when it was over."""
        tables = story.store.tables
        written = {write.key: write.token for write in self.writes if write.what == "snapshot"}
        told = [found.notification(entry.routing_key, entry.body) for entry in story.broker.log]
        ids = {note.id for note in told}
        machines = tables_of_machines()
        # Confirmed rows may wait for their deletion with the next batch; there is none any more.
        unsent = [message.message_id for _, message in tables.outbox.values() if message.exchange == STATUS_EXCHANGE]
        places = {key: place for place, key in enumerate(tables.inbox)}
        return Evidence(
            published=[
                one if one.order is None else replace(one, order=places.get(EventKey(*key), len(places)))
                for key, one in self.published.items()
            ],
            log=[_log(row) for _, row in sorted(tables.log.items())],
            instances=[_instance(one, written.get(name, 0)) for name, one in sorted(tables.instances.items())],
            inbox=[found.InboxRow(key.source, key.id, dict(row.outcomes)) for key, (row, _) in tables.inbox.items()],
            steps=[_step(row) for row in tables.steps.values()],
            outbox=[name for name in unsent if name not in ids],
            dead=[found.DeadLetter(one.source, one.event_id, one.reasons) for one in tables.dead],
            newest_token=max((lease.token for lease in tables.leases.values()), default=0),
            notifications=told,
            effects=self.effects,
            machines={**machines, **{(twin, 1): machines["alert", 1] for twin in self.twins}},
            documents={url: sha256(content) for url, content in story.world.storage.documents.items()},
            undelivered=[message.message_id for _, message, _ in tables.undelivered.values()],
            timers=[found.Timer(one.instance, one.entry, one.kind, one.due_at) for _, one in tables.timers.values()],
            writes=self.writes,
            operations=[found.operation(body) for body in story.broker.bodies(OPERATIONS)],
            taken_at=taken_at,
        )


def _log(row: LogRow) -> found.LogRow:
    return found.LogRow(
        row.instance, row.epoch, row.seq, row.kind, row.state_from, row.state_to, row.event.source, row.event.id,
        row.machine_version, row.config_hash, row.record, row.previous, row.hash,
    )  # fmt: skip


def _instance(one: Snapshot, token: int) -> found.InstanceRow:
    return found.InstanceRow(
        one.instance, one.machine, one.machine_version, one.config_hash, one.epoch, one.seq, one.state, one.entry,
        one.entered_at, one.dwell_until, one.deadline_at, json.dumps(one.data), one.hash, token,
    )  # fmt: skip


def _step(row: StepRow) -> found.StepRow:
    return found.StepRow(
        row.key.instance, row.key.entry, row.key.name, row.state, row.planned.action, row.planned.component,
        str(row.status), row.attempt, row.token, row.result,
    )  # fmt: skip
