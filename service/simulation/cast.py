"""The components of the simulated systems: participants that keep a record of what they really did, and answer as the
story wills: at once, late, twice, never."""

import json
import random
from contextvars import Context
from dataclasses import dataclass, field

from schemas.base import Json
from schemas.notifications import CommandData
from schemas.system import System
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.participants import MemoryParticipant
from service.adapters.memory.world import MemoryWorld
from service.simulation.trace import Trace
from service.simulation.virtual import VirtualLoop


@dataclass(frozen=True)
class Effect:
    """Something that really happened to a component: a command performed (`key`: its idempotency key, `token`: the
    fencing token it came with), or its process' `start` and `stop`."""

    system: str
    component: str
    what: str
    key: str | None = None
    pid: int | None = None
    token: int | None = None


@dataclass
class Cast:
    """All components of a story. `late`: seconds by which answers are late at most; `died`: those that ended by
    themselves, by name."""

    world: MemoryWorld
    broker: MemoryBroker
    loop: VirtualLoop
    chance: random.Random
    trace: Trace
    effects: list[Effect] = field(default_factory=list)
    late: float = 0.0
    died: list[str] = field(default_factory=list)
    _answers: int = 0
    _components: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _pids: dict[str, int] = field(default_factory=dict)

    def join(self, system: System) -> None:
        """The system's components can be started from now on; those that answer commands do."""
        self._components[system.system] = tuple(system.components)
        for name, component in system.components.items():
            if component.participant is not None:
                actor = _Actor(name, self.world.storage, self.world.clock)
                actor.cast, actor.system = self, system.system
                self.world.commands.participants[system.system, name] = actor

    def components(self, system: str) -> tuple[str, ...]:
        """The names of a system's components."""
        return self._components[system]

    def watch(self) -> None:
        """Keeps a record of every process that begins and ends; how its answers travel is the story's."""
        begins, ends = self.world.processes.on_start, self.world.processes.on_end

        def on_start(name: str, environment: object) -> None:
            self._pids[name] = self._pids.get(name, 0) + 1
            self.note(name, "start")
            begins(name, environment)  # type: ignore[arg-type]  # as it was given

        def on_end(name: str) -> None:
            self.note(name, "stop")
            ends(name)

        self.world.processes.on_start, self.world.processes.on_end = on_start, on_end
        self.world.commands.deliver = self._deliver

    def note(self, name: str, what: str, command: CommandData | None = None) -> None:
        """Something has happened to `<system>.<component>`."""
        pid, (system, component) = self._pids.get(name), name.split(".")
        key, token = (command.commandid, command.token) if command is not None else (None, None)
        self.effects.append(Effect(system, component, what, key, pid, token))
        self.trace.say(f"{name} {what} {key or ''}".rstrip())

    async def _deliver(self, system: str, component: str, data: dict[str, Json]) -> None:
        """An answer travels by the broker: perhaps twice, perhaps late, whatever becomes of who asked."""
        self._answers += 1
        body = {
            "specversion": "1.0",
            "id": f"a{self._answers}",
            "source": f"participant/{component}",
            "type": "relight.participant.answered",
            "subject": system,
            "data": data,
        }
        raw = json.dumps(body).encode()
        for _ in range(self.chance.choice([1, 1, 1, 2])):
            pause = self.chance.random() * self.late

            def put() -> None:
                self.broker.put(f"{system}.participant.answered", raw, user=f"{system}.{component}")

            self.loop.call_later(pause, put, context=Context())


class _Actor(MemoryParticipant):
    """A participant whose deeds are noted. A command that it knows it answers again, and does not do it again."""

    cast: Cast
    system: str

    def _do(self, data: CommandData) -> dict[str, Json]:
        self.cast.note(f"{self.system}.{self.component}", data.command, data)
        return super()._do(data)
