"""The memory double of `Leftovers`: what could not be taken in or delivered, and what people did about it."""

from collections.abc import Mapping

from service.adapters.memory.faults import Doors, door
from service.adapters.memory.tables import Tables
from service.ports import Clock, DeadRow, EventKey, Settled, Settlement, UndeliveredRow


class LeftoversSide(Doors):
    """The Protocol `Leftovers`."""

    tables: Tables
    _clock: Clock

    @door
    async def dead(self, limit: int = 100, *, settled: bool = False, only: int | None = None) -> tuple[DeadRow, ...]:
        found = [
            DeadRow(number, letter, self.tables.settled.get(("dead", number)))
            for number, letter in enumerate(self.tables.dead, start=1)
        ]
        wanted = [row for row in found if (settled or row.settled is None) and only in (None, row.id)]
        return tuple(reversed(wanted))[:limit]

    @door
    async def undelivered(
        self, limit: int = 100, *, settled: bool = False, only: int | None = None
    ) -> tuple[UndeliveredRow, ...]:
        found = [
            UndeliveredRow(number, message, why, at, self.tables.settled.get(("undelivered", number)))
            for number, (_, message, why) in self.tables.undelivered.items()
            for at in (self.tables.undelivered_at[number],)
        ]
        wanted = [row for row in found if (settled or row.settled is None) and only in (None, row.id)]
        return tuple(sorted(wanted, key=lambda row: -row.id))[:limit]

    @door
    async def settle_dead(self, row: int, how: Settled, by: str, why: str) -> bool:
        return self._settle("dead", row, row in range(1, len(self.tables.dead) + 1), how, by, why)

    @door
    async def settle_undelivered(self, row: int, how: Settled, by: str, why: str) -> bool:
        return self._settle("undelivered", row, row in self.tables.undelivered, how, by, why)

    @door
    async def outcomes(self, key: EventKey) -> Mapping[str, str] | None:
        found = self.tables.inbox.get(key)
        return None if found is None else dict(found[0].outcomes)

    def _settle(self, kind: str, row: int, there: bool, how: Settled, by: str, why: str) -> bool:
        if not there or (kind, row) in self.tables.settled:
            return False
        self.tables.settled[kind, row] = Settlement(how, by, why, self._clock.now())
        return True
