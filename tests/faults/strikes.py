"""What a night strikes besides the service itself: a broker, a database, an owner that is frozen. Each says how long
recovery took. No judging.
"""

import asyncio
import contextlib
import random
import signal
import time
from dataclasses import dataclass, field
from enum import StrEnum

import asyncpg

from service.embedded import PostgresServer, RabbitServer
from tests.faults.load import SOURCE
from tests.faults.night import Night
from tests.serving import LEASE, Serving

WITHIN = 90.0
"""Seconds in which the service must go on after a strike, on a machine that has much else to do."""


class Kind(StrEnum):
    """Strikes by name, as a plan has them."""

    RABBITMQ = "kill -9 of RabbitMQ"
    POSTGRES = "kill -9 of PostgreSQL"
    FROZEN = "owner frozen for longer than its lease"


@dataclass
class Strikes:
    """Two replicas of the service under load, and the servers beneath them. `recovered`: seconds by kind."""

    night: Night
    other: Serving
    postgres: PostgresServer
    rabbit: RabbitServer
    chance: random.Random
    recovered: dict[Kind, list[float]] = field(default_factory=dict)

    async def strike(self, kind: Kind) -> None:
        """One of them, and until the service goes on. Raises AssertionError if it does not."""
        # The load goes on meanwhile, and restarts are at some other step each time.
        await asyncio.sleep(self.chance.uniform(0.2, 3.0))
        match kind:
            case Kind.RABBITMQ:
                took = await self._kill_rabbitmq()
            case Kind.POSTGRES:
                took = await self._kill_postgres()
            case Kind.FROZEN:
                took = await self._freeze_the_owner()
        self.recovered.setdefault(kind, []).append(took)
        self.night.last_fault = time.time()

    async def _kill_rabbitmq(self) -> float:
        """Seconds from when the broker answered again to the first commit of an event that came from it."""
        await self.rabbit.kill()
        await asyncio.sleep(self.chance.uniform(0.0, 2.0))
        await self.rabbit.start()
        return await self._next_commit(time.time(), "AND source = $2", SOURCE)

    async def _kill_postgres(self) -> float:
        """Seconds from when the database answered again to the first commit."""
        await self.postgres.kill()
        await asyncio.sleep(self.chance.uniform(0.0, 2.0))
        await self.postgres.start()
        return await self._next_commit(time.time())

    async def _freeze_the_owner(self) -> float:
        """Seconds from the owner's last moment to the first commit of the other replica; then it is thawed again."""
        owner = await self._owner()
        assert owner.process is not None
        lease = float(LEASE.removesuffix("s"))
        owner.process.send_signal(signal.SIGSTOP)
        try:
            stopped = time.time()
            took = await self._next_commit(stopped)
            held = self.chance.uniform(1.2, 3.0) * lease
            await asyncio.sleep(max(0.0, held - (time.time() - stopped)))
        finally:
            owner.process.send_signal(signal.SIGCONT)
        assert await self._owner() is not owner
        return took

    async def _owner(self) -> Serving:
        """Whichever replica holds the shard now."""
        names = {(one.folder / "home" / "replica").read_text().strip(): one for one in (self.night, self.other)}
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            found = await self._value("SELECT owner FROM relight.shards WHERE until > clock_timestamp()")
            if found is not None:
                return names[str(found).rpartition(":")[2]]
            await asyncio.sleep(0.1)
        raise AssertionError(f"nobody owns the shard for {WITHIN:.0f} s; serve says:\n{self.night.last_words()}")

    async def _next_commit(self, since: float, where: str = "", *arguments: object) -> float:
        """Seconds from `since` (Unix time) to the first row of the log after it."""
        query = f"SELECT extract(epoch FROM min(at))::float8 FROM relight.log WHERE at > to_timestamp($1) {where}"
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            found = await self._value(query, since, *arguments)
            if found is not None:
                return float(str(found)) - since
            await asyncio.sleep(0.05)
        raise AssertionError(f"no commit for {WITHIN:.0f} s after a strike; serve says:\n{self.night.last_words()}")

    async def _value(self, query: str, *arguments: object) -> object:
        """None also while nobody can be asked."""
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return await self.night.value(query, *arguments)
        return None
