"""One replica of Relight in a story: the real engine, life after life, as a supervisor keeps a service running."""

import asyncio
import random
from collections.abc import Callable
from contextvars import copy_context
from datetime import timedelta

from schemas.sharding import shard_of
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.store import MemoryStore
from service.engine.definitions import Definitions
from service.engine.owner import Owner
from service.engine.records import canonical
from service.engine.runner import Runner
from service.errors import Transient, Unavailable
from service.ports import NewSignal, World
from service.simulation.life import BROKER, STORE, Life
from service.simulation.trace import Trace
from service.simulation.virtual import PROCESS, SeededIds, VirtualClock
from service.steps.registry import ACTIONS

LEASE = timedelta(seconds=4)


class Replica:
    """Lives until it is told to die, and is started again a moment later."""

    def __init__(
        self,
        name: str,
        chance: random.Random,
        give_life: Callable[[str], Life],
        servers: tuple[MemoryStore, MemoryBroker, World],
        definitions: Definitions,
        trace: Trace,
        *,
        skew: timedelta,
        batch: int,
    ) -> None:
        self.name = name
        self.trace = trace
        self.number = 0
        """Of the life that is under way, from 1."""
        self.life: Life | None = None
        """The life that is under way; None between two."""
        self._chance = chance
        self._give_life = give_life
        self._store, self._broker, self._world = servers
        self._definitions = definitions
        self._clock = VirtualClock(skew)
        self._batch = batch
        self._fate = asyncio.Event()
        self._gently = False
        self._pause = 0.0

    def end(self, *, gently: bool = False, pause: float = 0.0) -> None:
        """Ends the life that is under way; the next begins after `pause` seconds."""
        self._gently, self._pause = gently, pause
        if self.life is not None and not gently:
            self.life.dead = True
        self._fate.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.number += 1
            self._fate.clear()
            life = self.life = self._give_life(f"{self.name}.{self.number}")
            context = copy_context()
            context.run(PROCESS.set, life)
            ids = SeededIds(self._chance.getrandbits(32))
            engine = asyncio.create_task(self._engine(life, ids), context=context)
            fate = asyncio.create_task(self._fate.wait())
            try:
                await asyncio.wait({engine, fate}, return_when=asyncio.FIRST_COMPLETED)
                if engine.done():
                    engine.result()
                self.trace.say(f"{life} {'is ended' if self._gently else 'dies'}")
            finally:
                life.dead = life.dead or not self._gently
                fate.cancel()
                engine.cancel()
                await asyncio.gather(engine, fate, return_exceptions=True)
                life.dead, self.life = True, None
            await asyncio.sleep(self._pause)

    async def _engine(self, life: Life, ids: SeededIds) -> None:
        """What `serve` does: an owner for each shard, a worker, and the word that its systems are here."""
        store, broker = life.around(STORE, self._store), life.around(BROKER, self._broker)
        name, clock, definitions = self.name, self._clock, self._definitions
        runner = Runner(
            store, ACTIONS, life.world(self._world), lambda: definitions, clock, ids,
            name=str(life), places=("local",), lease=LEASE,
        )  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            for shard in range(self._store.shards):
                owner = Owner(
                    shard,
                    name,
                    store,
                    broker,
                    lambda: definitions,
                    clock,
                    lease=LEASE,
                    batch=self._batch,
                    shards=self._store.shards,
                )
                tasks.create_task(owner.run())
            tasks.create_task(runner.run())
            while True:
                try:
                    await store.signal([registration(name, ids.uuid(), definitions) for name in definitions.systems])
                    break
                except (Unavailable, Transient):
                    await asyncio.sleep(1.0)


def registration(system: str, identity: str, definitions: Definitions) -> NewSignal:
    """A replica that was started says which configuration of a system it has."""
    body = {
        "specversion": "1.0",
        "id": identity,
        "source": "relight/serve",
        "type": "relight.system.registered",
        "subject": system,
        "data": {"config_hash": definitions.current_hash(system)},
    }
    return NewSignal(system, canonical(body), local=True)


def shards(systems: tuple[str, ...], count: int) -> dict[str, int]:
    """The shard of each system."""
    return {system: shard_of(system, count) for system in systems}
