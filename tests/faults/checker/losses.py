"""What the logs themselves say was lost when the database was restored, and whether that is all. Rules only.

A database that went back to an older copy of itself lacks what it had told. That is no broken promise once it is said:
by a row on `database.lost`, in a later epoch, which counts what is gone and names its span.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tests.faults.checker.findings import Fault, Finding
from tests.faults.evidence import Evidence, Notification, moment

LOST = "relight.database.lost"


@dataclass(frozen=True)
class Told:
    """What one system said it has lost."""

    system: str
    epoch: int
    rows: int
    first: datetime | None
    last: datetime | None
    entry: int
    events: frozenset[tuple[str, str]]

    def covers(self, note: Notification) -> bool:
        at = moment(note.data.get("at"))
        if self.first is None or self.last is None or at is None or note.data["system"] != self.system:
            return False
        # They are said in milliseconds.
        within = self.first.timestamp() - 0.001 <= at.timestamp() <= self.last.timestamp() + 0.001
        return within and bool(note.data["epoch"] < self.epoch)


def told(evidence: Evidence) -> list[Told]:
    """Every loss that a log tells of."""
    found = []
    for row in evidence.log:
        record = json.loads(row.record)
        if record["event"]["type"] != LOST or row.kind != "transition":
            continue
        lost = record["snapshot"]["data"]["lost"]
        events = frozenset((event["source"], event["id"]) for event in lost["events"])
        first, last = moment(lost["first"]), moment(lost["last"])
        found.append(Told(record["system"], row.epoch, lost["rows"], first, last, lost["entry"], events))
    return found


def losses_are_counted(evidence: Evidence) -> Iterator[Finding]:
    """Each says as many rows as are missing, no more and no less."""
    rows = {(row.instance, row.epoch, row.seq) for row in evidence.log}
    gone: dict[str, Notification] = {}
    for note in evidence.notifications:
        if (
            note.data.get("seq") is not None
            and (note.data["instance"], note.data["epoch"], note.data["seq"]) not in rows
        ):
            gone.setdefault(note.id, note)
    for loss in told(evidence):
        missing = sum(loss.covers(note) for note in gone.values())
        if missing != loss.rows:
            yield Finding(
                Fault.MISCOUNTED_LOSS, f"{loss.system} says that {loss.rows} rows are lost; {missing} are missing"
            )
