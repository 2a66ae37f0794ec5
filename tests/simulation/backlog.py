"""A desk with a whole backlog before its owner begins, and a database that takes its time. No test is here."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from machines.registry import MACHINES
from schemas.system import System
from service.engine.definitions import Definitions
from service.ports import Batch
from tests.simulation.desk import Desk
from tests.simulation.story import SYSTEM

METRICS = [f"m{number}" for number in range(8)]
WIDE = System.model_validate(
    json.loads(SYSTEM.model_dump_json(by_alias=True))
    | {"alerts": [{"metric": metric, "warning": 70, "critical": 90} for metric in METRICS]}
)
SLOW = 0.01
"""Virtual seconds of a commit: long enough for all that can happen meanwhile."""

Commit = Callable[[Batch], Awaitable[tuple[int, ...]]]


class Backlog:
    """A desk with a whole backlog before its owner begins; `seen` is what the store was asked, in order."""

    def __init__(self, desk: Desk, *events: tuple[str, str, float]) -> None:
        """`events`: identity, metric and value of each."""
        self.desk, self.seen = desk, list[str]()
        desk.definitions = Definitions(MACHINES, {"metrics": WIDE})
        self._commit, self._prepare = desk.store.commit, desk.store.prepare
        self.committing: Commit = self._commit
        desk.store.commit = self.commit  # type: ignore[method-assign]  # a slow database
        desk.store.prepare = self.prepare  # type: ignore[assignment,method-assign]
        self.put(*events)

    def put(self, *events: tuple[str, str, float]) -> None:
        for identity, metric, value in events:
            self.desk.put(identity, data={"metric": metric, "value": value})

    async def commit(self, batch: Batch) -> tuple[int, ...]:
        named = ",".join(row.key.id for row in batch.inbox)
        self.seen.append(f"begin {named}")
        await asyncio.sleep(SLOW)
        try:
            return await self.committing(batch)
        finally:
            self.seen.append(f"end {named}")

    async def prepare(self, shard: int, keys: list[object], *rest: object) -> object:
        self.seen.append(f"read {','.join(key.id for key in keys)}")  # type: ignore[attr-defined]
        return await self._prepare(shard, keys, *rest)  # type: ignore[arg-type]

    def meanwhile(self) -> list[str]:
        """What was read during a commit."""
        during, found = False, []
        for line in self.seen:
            during = line.startswith("begin") or (during and not line.startswith("end"))
            found += [line] if during and line.startswith("read") else []
        return found


def crossing(*metrics: str, of: float = 95.0) -> list[tuple[str, str, float]]:
    return [(f"{metric}-{of:g}", metric, of) for metric in metrics]
