"""The engine on memory servers, with an owner that a test starts when it wants to. No test is here."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from machines.registry import MACHINES
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.store import MemoryStore
from service.engine.definitions import Definitions
from service.engine.owner import Owner
from service.ports import EventKey, NewSignal
from service.simulation import virtual
from service.simulation.virtual import VirtualClock
from tests.simulation.story import SYSTEM

LEASE = timedelta(seconds=4)


class Desk:
    """`batch`: how many events one transaction takes in at most."""

    def __init__(self, batch: int = 20) -> None:
        self.batch = batch
        self.clock = VirtualClock()
        self.store, self.broker = MemoryStore(self.clock), MemoryBroker(self.clock)
        self.definitions = Definitions(MACHINES, {"metrics": SYSTEM})

    async def declare(self) -> None:
        await self.broker.declare(["metrics"], {"metrics": 0})

    def put(self, identity: str, value: float = 95.0, key: str = "metrics.metric.observed", **changes: Any) -> None:
        body = {
            "specversion": "1.0", "id": identity, "source": "probe", "type": "relight.metric.observed",
            "subject": "metrics", "data": {"metric": "memory", "value": value}, **changes,
        }  # fmt: skip
        self.broker.put(key, json.dumps(body).encode())

    async def serve(self, seconds: float = 60.0, before: Callable[[], None] = lambda: None) -> None:
        """An owner for so many virtual seconds; `before` is called once it holds the shard."""
        owner = Owner(
            0, "owner", self.store, self.broker, lambda: self.definitions, self.clock, lease=LEASE, batch=self.batch
        )  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(owner.run())
            await asyncio.sleep(1)
            before()
            await asyncio.sleep(seconds)
            task.cancel()

    def outcomes(self, identity: str) -> dict[str, str]:
        found = self.store.tables.inbox.get(EventKey("probe", identity))
        return dict(found[0].outcomes) if found else {}


def told(story: Callable[[Desk], Coroutine[Any, Any, None]], batch: int = 20) -> Desk:
    """The story to its end in virtual time, and the desk as it is then."""

    async def main() -> Desk:
        desk = Desk(batch)
        await desk.declare()
        await story(desk)
        return desk

    return virtual.run(main())


def measured(identity: str, value: float = 95.0, metric: str = "memory") -> NewSignal:
    body = {
        "specversion": "1.0", "id": identity, "source": "probe", "type": "relight.metric.observed",
        "subject": "metrics", "data": {"metric": metric, "value": value},
    }  # fmt: skip
    return NewSignal("metrics", json.dumps(body), "ana", local=True)
