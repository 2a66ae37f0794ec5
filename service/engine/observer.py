"""The loop of a Relight that only observes: a look at each system at an interval, and one more for each request.

It reads Relight's own log for requests that the owner refused; the look itself and where its page goes are given.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from machines.model import InstanceId
from service.errors import Transient, Unavailable
from service.ports import Clock, LogRow

POLL = 0.5
"""Seconds between two looks at the log for requests: somebody waits for the answer."""

log = structlog.get_logger("relight.observer")


@dataclass(frozen=True, slots=True)
class Asked:
    """A restart that was asked for and refused: whose event it was, and the answer."""

    event_id: str
    user: str | None
    at: datetime
    reasons: tuple[str, ...]


class Logs(Protocol):
    """Relight's own log."""

    async def history(self, instance: InstanceId, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]: ...


class Observer:
    """Looks at `systems` in turn, each `every`, and at once when a restart is asked for."""

    def __init__(
        self,
        systems: Sequence[str],
        look: Callable[[str, Asked | None], Awaitable[None]],
        logs: Logs,
        clock: Clock,
        every: timedelta,
    ) -> None:
        """`look` looks at one system and writes its page down; what it raises ends the observer."""
        self._systems, self._look, self._logs, self._clock = tuple(systems), look, logs, clock
        self._every = every.total_seconds()

    async def run(self) -> None:
        """Until cancelled. A store that is away delays only the requests: looking goes on."""
        async with asyncio.TaskGroup() as tasks:
            for system in self._systems:
                tasks.create_task(self._watch(system))

    async def _watch(self, system: str) -> None:
        instance = InstanceId(f"lifecycle/{system}")
        after = await self._newest(instance)
        due = self._clock.monotonic()
        while True:
            requests, after = await self._requests(instance, after)
            for asked in requests:
                log.info("observer.asked", system=system, event_id=asked.event_id, user=asked.user)
                await self._look(system, asked)
            if self._clock.monotonic() >= due:
                await self._look(system, None)
                due = self._clock.monotonic() + self._every
            await self._clock.sleep(POLL)

    async def _newest(self, instance: InstanceId) -> int:
        """What was asked before this observer began was answered by another."""
        after = 0
        while True:
            try:
                rows = await self._logs.history(instance, after)
            except (Unavailable, Transient):
                await self._clock.sleep(POLL)
                continue
            if not rows:
                return after
            after = rows[-1].seq

    async def _requests(self, instance: InstanceId, after: int) -> tuple[list[Asked], int]:
        try:
            rows = await self._logs.history(instance, after)
        except (Unavailable, Transient):
            return [], after
        asked = [
            Asked(row.event.id, row.user, row.at, tuple(json.loads(row.record)["reasons"]))
            for row in rows
            if row.kind == "refusal" and row.event_type == "relight.restart.requested"
        ]
        return asked, rows[-1].seq if rows else after
