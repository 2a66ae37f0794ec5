"""The operations that the memory store's gates hold: the rules of `relight.commit_gates`. No waiting and no clock."""

from dataclasses import replace
from datetime import datetime

from machines.model import InstanceId
from service.ports import GateChange, GateRow, GateView, HeldRow, InboxRow, OutMessage

OVERDUE = 50
"""As in the PostgreSQL store."""


class Gates:
    """Rows by id, in the order in which they were taken in; `counts` by system."""

    def __init__(self) -> None:
        self.rows: dict[int, HeldRow] = {}
        self.counts: dict[str, int] = {}
        self._number = 0

    def look(self, system: str, now: datetime) -> GateRow:
        """One gate as it stands at `now`."""
        mine = [row for row in self.rows.values() if row.system == system]
        waiting = [row for row in mine if row.expires_at > now]
        late = sorted((row for row in mine if row.expires_at <= now), key=lambda row: (row.expires_at, row.id))
        expiring = min((row.expires_at for row in waiting), default=None)
        held = self.counts.get(system, 0)
        return GateRow(system, len(waiting), held, expiring, tuple(late[:OVERDUE]), len(late) > OVERDUE)

    def change(self, gate: GateChange, now: datetime) -> tuple[OutMessage, ...]:
        """What goes to the outbox, in order."""
        for row in gate.expired:
            self.rows.pop(row.id, None)
        gone = [row for row in self.rows.values() if row.system == gate.system and row.expires_at > now]
        if gate.released:
            for row in gone:
                del self.rows[row.id]
        for row in gate.new:
            self._number += 1
            self.rows[self._number] = replace(row, id=self._number)
        self.counts[gate.system] = gate.held
        return tuple(row.message for row in gone) if gate.released else ()

    def views(self, system: str | None) -> tuple[GateView, ...]:
        """For people."""
        systems = sorted({row.system for row in self.rows.values() if system in (None, row.system)})
        views = []
        for name in systems:
            mine = [row for row in self.rows.values() if row.system == name]
            since, expiring = min(row.held_at for row in mine), min(row.expires_at for row in mine)
            views.append(GateView(name, len(mine), since, expiring))
        return tuple(views)


def refused_after_all(row: InboxRow, instance: InstanceId) -> InboxRow:
    """The event was taken in when it came, and expired before it was released."""
    return replace(row, outcomes={**row.outcomes, instance: "refused"})
