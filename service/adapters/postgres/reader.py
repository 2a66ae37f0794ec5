"""What people see of the store: read-only views for commands and pages."""

from collections.abc import Mapping

from machines.model import InstanceId
from service.adapters.postgres import rows
from service.adapters.postgres.connections import Connections
from service.adapters.postgres.queries import READER
from service.ports import DeadLetter, GateView, InstanceView, LogRow, StepRow, TimerRow


class ReaderSide:
    """The Protocol `Reader`."""

    _views: Connections

    async def instances(self, system: str | None = None) -> tuple[InstanceView, ...]:
        names = ("instances", "current_steps", "current_timers")
        [found, steps, timers] = await self._views.many([(READER[name], (system,)) for name in names])
        current: dict[str, list[StepRow]] = {}
        for row in steps:
            current.setdefault(row["instance"], []).append(rows.step(row))
        due: dict[str, list[TimerRow]] = {}
        for row in timers:
            due.setdefault(row["instance"], []).append(rows.timer(row))
        return tuple(
            InstanceView(rows.snapshot(row), tuple(current.get(name, ())), tuple(due.get(name, ())))
            for row in found
            for name in (row["instance"],)
        )

    async def history(self, instance: InstanceId, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]:
        return tuple(map(rows.log, await self._views.fetch(READER["history"], instance, after_seq, limit)))

    async def steps(self, instance: InstanceId, first_entry: int = 0) -> tuple[StepRow, ...]:
        return tuple(map(rows.step, await self._views.fetch(READER["steps"], instance, first_entry)))

    async def dead_letters(self, limit: int = 100) -> tuple[DeadLetter, ...]:
        return tuple(map(rows.dead_letter, await self._views.fetch(READER["dead_letters"], limit)))

    async def gates(self, system: str | None = None) -> tuple[GateView, ...]:
        found = await self._views.fetch(READER["gates"], system)
        return tuple(GateView(row["system"], row["waiting"], row["since"], row["expiring"]) for row in found)

    async def counts(self) -> Mapping[str, int]:
        return {row["what"]: row["rows"] for row in await self._views.fetch(READER["counts"])}
