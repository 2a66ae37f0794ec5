"""What could not be taken in or delivered, and what people did about it: the Protocol `Leftovers`."""

import json
from collections.abc import Mapping

from service.adapters.postgres import rows
from service.adapters.postgres.connections import Connections
from service.adapters.postgres.queries import LEFTOVERS
from service.ports import DeadRow, EventKey, OutMessage, Settled, Settlement, UndeliveredRow


class LeftoversSide:
    """The Protocol `Leftovers`."""

    _views: Connections
    _others: Connections

    async def dead(self, limit: int = 100, *, settled: bool = False, only: int | None = None) -> tuple[DeadRow, ...]:
        found = await self._views.fetch(LEFTOVERS["dead"], limit, settled, only)
        return tuple(DeadRow(row["id"], rows.dead_letter(row), _settlement(row)) for row in found)

    async def undelivered(
        self, limit: int = 100, *, settled: bool = False, only: int | None = None
    ) -> tuple[UndeliveredRow, ...]:
        found = await self._views.fetch(LEFTOVERS["undelivered"], limit, settled, only)
        return tuple(
            UndeliveredRow(
                row["id"],
                OutMessage(row["exchange"], row["routing_key"], row["message_id"], row["body"]),
                row["reason"],
                row["at"],
                _settlement(row),
            )
            for row in found
        )

    async def settle_dead(self, row: int, how: Settled, by: str, why: str) -> bool:
        return await self._others.value(LEFTOVERS["settle_dead"], row, how.value, by, rows.readable(why)) is not None

    async def settle_undelivered(self, row: int, how: Settled, by: str, why: str) -> bool:
        arguments = (row, how.value, by, rows.readable(why))
        return await self._others.value(LEFTOVERS["settle_undelivered"], *arguments) is not None

    async def outcomes(self, key: EventKey) -> Mapping[str, str] | None:
        found: str | None = await self._others.value(LEFTOVERS["outcomes"], key.source, key.id)
        return None if found is None else dict(json.loads(found))


def _settlement(row: rows.Row) -> Settlement | None:
    if row["settled"] is None:
        return None
    return Settlement(Settled(row["settled"]), row["settled_by"], row["settled_why"], row["settled_at"])
