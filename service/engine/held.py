"""One gate as a batch sees it: what it holds in the store and what the batch adds, releases or tells of. No I/O.

Who may pass and when is decided in `gate.py`; this file only counts.
"""

from collections.abc import Sequence
from datetime import datetime

from machines.model import InstanceId
from service.ports import GateChange, GateRow, HeldRow, OutMessage


class Held:
    """Begins as the store has it; `change` is what the batch writes."""

    def __init__(self, row: GateRow) -> None:
        self._row = row
        self._stored = row.waiting
        self._count = row.held
        self._new: list[HeldRow] = []
        self._expired: tuple[HeldRow, ...] = ()
        self._released = False

    @property
    def waiting(self) -> int:
        """How many wait for their release and have not expired."""
        return self._stored + len(self._new)

    @property
    def since_release(self) -> int:
        """How many were held since the gate last released, expired ones included."""
        return self._count

    def hold(self, row: HeldRow) -> None:
        self._new.append(row)
        self._count += 1

    def release(self) -> tuple[OutMessage, ...]:
        """Lets everything go: the stored ones leave with the batch, before all its messages; these are its own."""
        if self._stored:
            self._released = True
        messages = tuple(row.message for row in self._new)
        self._stored, self._count, self._new = 0, 0, []
        return messages

    def overdue(self) -> Sequence[HeldRow]:
        """Those that have expired and were not told of, each once."""
        late = () if self._expired else self._row.overdue
        self._expired = self._row.overdue
        return late

    def due(self, now: datetime) -> datetime | None:
        """When the gate must be looked at again: at once, if more have expired than this batch tells of."""
        if self._row.more or len(self._row.overdue) > len(self._expired):
            return now
        stored = [self._row.expiring] if self._stored and self._row.expiring is not None else []
        return min([*stored, *(row.expires_at for row in self._new)], default=None)

    def change(self, system: str, instance: InstanceId) -> GateChange | None:
        """What is written; None when nothing is."""
        if not (self._new or self._expired or self._released or self._count != self._row.held):
            return None
        return GateChange(system, instance, self._count, self._expired, self._released, tuple(self._new))
