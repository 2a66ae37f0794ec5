"""The faults of a story, drawn from its seed: each begins, lasts, and is over before the story's quiet end."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from schemas.components import OnSilence
from service.adapters.memory.broker import STATUS_EXCHANGE, MemoryBroker
from service.adapters.memory.processes import ProcessScript
from service.adapters.memory.world import MemoryWorld
from service.crash import POINTS
from service.ports import Clock
from service.simulation.cast import Cast
from service.simulation.life import BROKER, NOTICED, STORE, Link, Moods
from service.simulation.plan import Fault, Plan
from service.simulation.replica import LEASE, Replica
from service.simulation.systems import system
from service.simulation.trace import Trace
from service.simulation.virtual import VirtualLoop

PLACES = tuple(name for name in POINTS if name.split(".")[0] in ("intake", "timers", "outbox", "runner", "owner"))
"""The crash points that the simulated part of Relight has."""
REACHES = 6.0
"""Seconds in which a life reaches a crash point, or does not die of it."""


@dataclass
class Weather:
    """Brings the faults of `plan` over everybody else. `struck` counts by kind those that found something to strike;
    `places`: the crash points at which a replica died."""

    plan: Plan
    chance: random.Random
    clock: Clock
    loop: VirtualLoop
    trace: Trace
    broker: MemoryBroker
    world: MemoryWorld
    cast: Cast
    replicas: Sequence[Replica]
    servers: Mapping[str, Link]
    moods: Moods
    struck: dict[Fault, int]
    places: set[str]

    async def blow(self) -> None:
        """All faults, at their moments; returns when the last one is over."""
        if not self.plan.kinds:
            return
        moments = sorted(self.chance.uniform(1, self.plan.seconds) for _ in range(self.plan.faults))
        async with asyncio.TaskGroup() as tasks:
            for moment in moments:
                await self.clock.sleep(max(0.0, moment - self.clock.monotonic()))
                kind = self.chance.choice(self.plan.kinds)
                self.trace.say(f"fault: {kind}")
                tasks.create_task(self._strike(kind))

    async def _strike(self, kind: Fault) -> None:
        acts: dict[Fault, Callable[[], Awaitable[bool]]] = {
            Fault.CRASH: self._crash,
            Fault.ALL_CRASH: self._all_crash,
            Fault.STOP: self._stop,
            Fault.FREEZE: self._freeze,
            Fault.STORE_CUT: lambda: self._cut_off(STORE),
            Fault.BROKER_CUT: lambda: self._cut_off(BROKER),
            Fault.STORE_RESTART: self._store_restart,
            Fault.BROKER_RESTART: self._broker_restart,
            Fault.CONNECTIONS: self._connections,
            Fault.DISORDER: self._disorder,
            Fault.FULL_QUEUE: self._full_queue,
            Fault.MOODS: self._moody,
            Fault.DEAF: self._deaf,
            Fault.SLOW: self._slow,
            Fault.COMPONENT: self._component,
            Fault.STUBBORN: self._stubborn,
            Fault.DATABASE: self._database,
        }
        if await acts[kind]():
            self.struck[kind] = self.struck.get(kind, 0) + 1

    async def _lasts(self, least: float, most: float) -> None:
        await self.clock.sleep(self.chance.uniform(least, most))

    def _one(self) -> Replica:
        return self.chance.choice(self.replicas)

    # --- replicas; whether there was something to strike

    async def _crash(self) -> bool:
        """At once, wherever it waits; or at the first of some crash points of the engine."""
        replica, pause = self._one(), self.chance.random() * 3
        life = replica.life
        if life is None or self.chance.random() < 0.4:
            replica.end(pause=pause)
            return life is not None

        died = False

        def die(place: str) -> None:
            nonlocal died
            died = True
            self.trace.say(f"dies at {place}")
            self.places.add(place)
            replica.end(pause=pause)

        life.doomed = (frozenset(self.chance.sample(PLACES, 4)), die)
        await self.clock.sleep(REACHES)
        life.doomed = None
        return died

    async def _all_crash(self) -> bool:
        lived = any(replica.life is not None for replica in self.replicas)
        for replica in self.replicas:
            replica.end(pause=self.chance.random() * 5)
        return lived

    async def _stop(self) -> bool:
        replica = self._one()
        replica.end(gently=True, pause=self.chance.random() * 3)
        return replica.life is not None

    async def _freeze(self) -> bool:
        replica = self._one()
        life = replica.life
        if life is None or life.frozen or life.dead:
            return False
        lasts = self.chance.uniform(0.3, 3.0) * LEASE.total_seconds()
        with self.loop.freezing(life):
            await self.clock.sleep(min(lasts, NOTICED))
            if lasts > NOTICED:
                life.dropped()
                await self.clock.sleep(lasts - NOTICED)
        life.mended(BROKER)
        self.trace.say(f"{life} thaws after {lasts:.1f}s")
        return True

    async def _cut_off(self, server: str) -> bool:
        life = self._one().life
        if life is None or not life.links[server].up:
            return False
        hangs = self.chance.random() < 0.6
        self.trace.say(f"{life} is cut off from {server}{', packets vanish' if hangs else ''}")
        life.cut_off(server, hangs=hangs)
        lasts = self.chance.uniform(0.3, 3.0) * LEASE.total_seconds()
        await self.clock.sleep(min(lasts, NOTICED))
        if lasts > NOTICED and server == BROKER:
            life.dropped()
        await self.clock.sleep(max(0.0, lasts - NOTICED))
        life.mended(server)
        return True

    # --- servers

    async def _store_restart(self) -> bool:
        server = self.servers[STORE]
        if not server.up:
            return False
        server.cut(hangs=False)
        await self._lasts(0.2, 8)
        server.up = True
        return True

    async def _broker_restart(self) -> bool:
        server = self.servers[BROKER]
        if not server.up:
            return False
        server.cut(hangs=False)
        self.broker.away = True
        await self._lasts(0.2, 8)
        server.up, self.broker.away = True, False
        self._still_cut_off()
        return True

    async def _connections(self) -> bool:
        if not self.servers[BROKER].up:
            return False
        self.servers[BROKER].cuts += 1
        self.broker.cut()
        self._still_cut_off()
        return True

    def _still_cut_off(self) -> None:
        """The broker opens every channel again; those of who is cut off or stands still it does not."""
        for replica in self.replicas:
            life = replica.life
            if life is not None and (life.frozen or not life.links[BROKER].up):
                life.dropped()

    async def _disorder(self) -> bool:
        found = False
        for queue in self.broker.queues():
            if "intake" in queue:
                for _ in range(self.chance.randint(0, 2)):
                    found = self.broker.duplicate(queue) or found
                found = found or self.broker.waiting(queue) > 1
                self.broker.shuffle(queue, self.chance.shuffle)
        return found

    async def _full_queue(self) -> bool:
        self.broker.full.add(STATUS_EXCHANGE)
        await self._lasts(1, 8)
        self.broker.full.discard(STATUS_EXCHANGE)
        return True

    async def _moody(self) -> bool:
        suffered = self.moods.suffered
        self.moods.refused, self.moods.lost = 0.05, 0.03
        await self._lasts(3, 15)
        self.moods.refused = self.moods.lost = 0.0
        return self.moods.suffered > suffered

    # --- the systems

    async def _deaf(self) -> bool:
        participants = list(self.world.commands.participants.values())
        if participants:
            one = self.chance.choice(participants)
            commands = self.chance.sample(["pause", "resume", "drain", "flush", "report", "stop", "renew"], 2)
            one.deaf.update(commands)
            await self._lasts(3, 25)
            one.deaf.difference_update(commands)
        return bool(participants)

    async def _slow(self) -> bool:
        self.cast.late = self.chance.uniform(1, 12)
        await self._lasts(5, 20)
        self.cast.late = 0.0
        return True

    async def _component(self) -> bool:
        running = [name for name in self._components() if (await self.world.processes.state(name)).running]
        if running:
            name = self.chance.choice(running)
            self.cast.died.append(name)
            self.world.processes.crash(name)
        return bool(running)

    async def _stubborn(self) -> bool:
        # Where the file says to go on without, nothing more would follow from it.
        waited_for = [name for name in self._components() if not self._proceeds(name)]
        if not waited_for:
            return False
        name = self.chance.choice(waited_for)
        ignores = self.chance.choice([frozenset[str](), frozenset({"TERM"})])
        self.world.processes.scripts[name] = ProcessScript(ignores=ignores, ends_after=self.chance.uniform(1, 8))
        await self._lasts(5, 25)
        self.world.processes.scripts.pop(name, None)
        return True

    async def _database(self) -> bool:
        self.world.databases.away = True
        await self._lasts(1, 15)
        self.world.databases.away = False
        return any(system(name).databases for name in self.plan.systems)

    def _proceeds(self, name: str) -> bool:
        of, component = name.split(".")
        return system(of).components[component].on_silence is OnSilence.PROCEED

    def _components(self) -> list[str]:
        return [f"{name}.{component}" for name in self.plan.systems for component in self.cast.components(name)]
