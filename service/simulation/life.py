"""One life of a replica: everything outside as seen through its network, slow at random, cut, and gone when it dies.

What each call suffers is drawn from the seed: an error before its effect, or after it with the answer lost, or the
effect long after nobody waits for it any more.
"""

import asyncio
import inspect
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, fields
from typing import Any

from service.adapters.memory.lanes import MemoryLanes
from service.errors import RelightError, Transient, Unavailable
from service.ports import Delivery, World
from service.simulation.virtual import Frozen

LATENCY = 0.02
"""Seconds that a call takes at most, one way."""
LATE = 0.35
"""The share of ways that take time at all."""
GIVES_UP = 3.0
"""Seconds after which a client gives up a server that says nothing, as the real adapters do."""
NOTICED = 1.5
"""Seconds after which the broker drops a client whose heartbeats are missing: less than a lease."""

STORE, BROKER, WORLD = "PostgreSQL", "RabbitMQ", "the world"
WAITS = frozenset({"wait_for_signal", "wait_for_step", "wait", "wait_stopped"})
"""Calls that wait by themselves: they are neither repeated late nor refused in passing."""
ONE_WAY = frozenset({"commit", "finish", "renew", "renew_claim", "signal", "release", "acquire", "let_go", "claim"})
"""Calls to the store that may arrive there after the client gave up."""


@dataclass
class Link:
    """The way to one server. `hangs`: packets vanish; otherwise connections are refused at once."""

    up: bool = True
    hangs: bool = False
    cuts: int = 0

    def cut(self, *, hangs: bool) -> None:
        self.up, self.hangs = False, hangs
        self.cuts += 1


@dataclass
class Moods:
    """How likely a single call to the store suffers, in [0, 1]: a passing refusal, or a lost answer. `suffered`: how
    many have."""

    refused: float = 0.0
    lost: float = 0.0
    suffered: int = 0


Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Life(Frozen):
    """A process of Relight's. `servers`: by name, whether each can be reached at all, shared with the other lives."""

    def __init__(self, name: str, chance: random.Random, servers: dict[str, Link], moods: Moods, spawn: Spawn) -> None:
        super().__init__()
        self.name = name
        self.dead = False
        self.doomed: tuple[frozenset[str], Callable[[str], None]] | None = None
        """Crash points, and what happens when this life passes the first of them."""
        self.links = {server: Link() for server in servers}
        self._servers = servers
        self._chance = chance
        self._moods = moods
        self._spawn = spawn
        self._lanes: list[_Lanes] = []

    def __str__(self) -> str:
        return self.name

    def passes(self, place: str) -> None:
        """A crash point of the engine: it ends here if it is to."""
        if self.doomed is not None and place in self.doomed[0]:
            (_, happens), self.doomed = self.doomed, None
            happens(place)

    def around(self, server: str, inner: Any) -> Any:
        """`inner` as seen through this life."""
        return _Seen(server, inner, self)

    def world(self, world: World) -> World:
        """The world of the steps as seen through this life: commands go by the broker, the history is the store's."""
        servers = {"commands": BROKER, "chronicle": STORE}
        ports = {part.name: getattr(world, part.name) for part in fields(world)}
        return World(**{name: self.around(servers.get(name, WORLD), port) for name, port in ports.items()})

    async def call(self, server: str, name: str, found: Callable[..., Any], given: tuple[Any, ...], more: Any) -> Any:
        """One request and its answer."""
        cuts = self._cuts(server)
        try:
            await self._travels(server, cuts)
        except Unavailable:
            self._perhaps_late(server, name, lambda: found(*given, **more))
            raise
        mood = self._chance.random() if server == STORE and name not in WAITS else 1.0
        if mood < self._moods.refused:
            self._moods.suffered += 1
            raise Transient(f"{name}: deadlock detected")
        answer = await found(*given, **more)
        if mood > 1.0 - self._moods.lost:
            self._moods.suffered += 1
            raise Unavailable(server, f"{name}: the connection was lost before its answer")
        await self._travels(server, cuts)
        return answer

    async def _travels(self, server: str, cuts: int) -> None:
        """Raises Unavailable when the way was or is cut; when packets vanish, after the client gave up."""
        late = self._chance.random()
        if late < LATE:
            await asyncio.sleep(late / LATE * LATENCY)
        if self.dead:
            raise Unavailable("the world", "this replica has died")
        link = self.links[server]
        if not link.up and link.hangs:
            await asyncio.sleep(GIVES_UP)
            raise Unavailable(server, "it did not answer in time")
        if not link.up or self._cuts(server) != cuts or not self._servers[server].up:
            raise Unavailable(server, "the connection was lost")

    def _cuts(self, server: str) -> int:
        return self.links[server].cuts + self._servers[server].cuts

    def _perhaps_late(self, server: str, name: str, request: Callable[[], Awaitable[Any]]) -> None:
        """What was sent before the way was cut may still be on it."""
        hung = not self.dead and self.links[server].hangs
        if server != STORE or name not in ONE_WAY or not hung or self._chance.random() > 0.3:
            return
        pause = self._chance.random() * 3 * GIVES_UP

        async def arrive() -> None:
            await asyncio.sleep(pause)
            if self._servers[server].up:
                try:
                    await request()
                except RelightError:
                    return

        Context().run(self._spawn, arrive())

    # --- the broker's channels

    def cut_off(self, server: str, *, hangs: bool) -> None:
        """The way to a server is cut, for this replica alone."""
        self.links[server].cut(hangs=hangs)
        if server == BROKER:
            for lanes in self._lanes:
                lanes.deaf = True
                if not hangs:
                    lanes.inner.lose()

    def dropped(self) -> None:
        """The broker has missed this replica's heartbeats: its channels are closed, others get what they held."""
        for lanes in self._lanes:
            lanes.inner.lose()

    def mended(self, server: str) -> None:
        self.links[server].up = True
        for lanes in self._lanes if server == BROKER else ():
            lanes.inner.lose()
            lanes.deaf = False
            if self._servers[server].up:
                lanes.inner.open()

    @asynccontextmanager
    async def lanes(self, opened: AbstractAsyncContextManager[MemoryLanes]) -> AsyncGenerator["_Lanes", None]:
        async with opened as inner:
            seen = _Lanes(inner, self)
            if not self.links[BROKER].up:
                inner.lose()
                seen.deaf = True
            self._lanes.append(seen)
            try:
                yield seen
            finally:
                self._lanes.remove(seen)


class _Seen:
    """A port through a life: each method that is awaited is one call to its server."""

    def __init__(self, server: str, inner: Any, life: Life) -> None:
        self._server, self._inner, self._life = server, inner, life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        life, server = self._life, self._server
        seen: Any = found
        if name == "lanes":
            seen = lambda shard: life.lanes(found(shard))  # noqa: E731  # named by the port
        elif name == "publisher":
            seen = self._publisher(found)
        elif name == "available":
            seen = lambda: {way: up and life.links[server].up for way, up in found().items()}  # noqa: E731  # the same
        elif inspect.isasyncgenfunction(found):
            seen = self._stream(name, found)
        elif asyncio.iscoroutinefunction(found):

            async def seen(*given: Any, **more: Any) -> Any:
                return await life.call(server, name, found, given, more)

        self.__dict__[name] = seen
        return seen

    def _stream(self, name: str, found: Callable[..., AsyncGenerator[Any, None]]) -> Any:
        """A stream begins with one call, and is cut with the way to its server."""
        life, server = self._life, self._server

        async def begins() -> None:
            return None

        async def stream(*given: Any, **more: Any) -> AsyncGenerator[Any, None]:
            await life.call(server, name, begins, (), {})
            async for one in found(*given, **more):
                yield one
            await life.call(server, name, begins, (), {})

        return stream

    def _publisher(self, open_: Callable[[], AbstractAsyncContextManager[Any]]) -> Any:
        @asynccontextmanager
        async def opened() -> AsyncGenerator[Any, None]:
            async with open_() as inner:
                yield self._life.around(self._server, inner)

        return opened


class _Lanes:
    """The port Lanes through a life: while it is `deaf` nothing arrives, and no ack does."""

    def __init__(self, inner: MemoryLanes, life: Life) -> None:
        self.inner, self._life = inner, life
        self.deaf = False

    async def opened(self, timeout: float) -> None:
        await (asyncio.sleep(timeout) if self.deaf or self._life.dead else self.inner.opened(timeout))

    async def wait(self, timeout: float) -> None:
        await (asyncio.sleep(timeout) if self.deaf or self._life.dead else self.inner.wait(timeout))

    def waiting(self) -> int:
        return 0 if self.deaf or self._life.dead else self.inner.waiting()

    def take(self, limit: int) -> tuple[Delivery, ...]:
        return () if self.deaf or self._life.dead else self.inner.take(limit)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        if not (self.deaf or self._life.dead):
            await self.inner.ack(deliveries)

    def pause(self) -> None:
        self.inner.pause()

    def resume(self) -> None:
        self.inner.resume()
