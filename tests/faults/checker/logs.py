"""Logs: without gap, chained, leading along the tables' edges, folding to the snapshot. Rules only."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.faults.checker.findings import Fault, Finding
from tests.faults.evidence import Evidence, InstanceRow, LogRow, by_instance, moment


def logs_hold(evidence: Evidence) -> Iterator[Finding]:
    snapshots = {row.instance: row for row in evidence.instances}
    logs = by_instance(evidence.log)
    for instance in snapshots.keys() - logs.keys():
        yield Finding(Fault.WRONG_FOLD, f"{instance} has a snapshot and no log")
    for instance, rows in logs.items():
        numbers = [row.seq for row in rows]
        if numbers != list(range(1, len(rows) + 1)):
            odd = next((n for n, seq in enumerate(numbers, start=1) if n != seq), len(rows))
            yield Finding(Fault.GAP_IN_SEQ, f"{instance}: row {odd} of {len(rows)} has seq {numbers[odd - 1]}")
        records = [json.loads(row.record) for row in rows]
        yield from _chain(instance, rows, records)
        yield from _folds(instance, rows, records, snapshots.get(instance))


def _chain(instance: str, rows: Sequence[LogRow], records: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    head, state, epoch = "", None, 0
    for row, record in zip(rows, records, strict=True):
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
        columns = (
            row.instance, row.epoch, row.seq, row.kind, row.state_from, row.state_to, row.machine_version,
            row.config_hash, row.source, row.event_id,
        )  # fmt: skip
        names = ("instance", "epoch", "seq", "kind", "from", "to", "machine_version", "config_hash")
        said = tuple(record[name] for name in names)
        if columns != (*said, record["event"]["source"], record["event"]["id"]):
            yield Finding(Fault.ALTERED_COLUMN, f"{where}: the columns {columns} are not what its record says")
        head, state, epoch = row.hash, row.state_to, row.epoch


def _folds(
    instance: str, rows: Sequence[LogRow], records: Sequence[Mapping[str, Any]], stored: InstanceRow | None
) -> Iterator[Finding]:
    data: dict[str, Any] = {}
    for row, record in zip(rows, records, strict=True):
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
    last = records[-1]
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
    """Each row against the table of the machine's version that it names; versions and files change only at rest."""
    for rows in by_instance(evidence.log).values():
        before: LogRow | None = None
        for row in rows:
            where = f"{row.instance} seq {row.seq}"
            machine = (row.instance.split("/", 1)[0], row.machine_version)
            table = evidence.machines.get(machine)
            if table is None or row.state_to not in table.states:
                yield Finding(Fault.UNKNOWN_STATE, f"{where}: {machine} has no state {row.state_to}")
                before = row
                continue
            # What stays in its state may be a person's note, which is no line of the table.
            moved = row.kind == "transition" and row.state_from != row.state_to
            if moved and (row.state_from, row.state_to) not in table.edges:
                yield Finding(
                    Fault.UNKNOWN_EDGE,
                    f"{where}: in {machine} no transition leads from {row.state_from} to {row.state_to}",
                )
            if before is None and table.initial not in (None, row.state_from):
                yield Finding(Fault.UNKNOWN_EDGE, f"{where}: it begins in {row.state_from}, not in {table.initial}")
            if before is not None and not _may_follow(evidence, before, row):
                yield Finding(Fault.MOVED_UNDER_WAY, f"{where}: it changed version or file in {before.state_to}")
            before = row


def _may_follow(evidence: Evidence, before: LogRow, row: LogRow) -> bool:
    if (before.machine_version, before.config_hash) == (row.machine_version, row.config_hash):
        return True
    table = evidence.machines.get((row.instance.split("/", 1)[0], before.machine_version))
    # Before its first entry nothing has begun.
    return table is None or before.state_to in table.resting or not json.loads(before.record)["snapshot"]["entry"]


def _utc(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)
