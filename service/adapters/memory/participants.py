"""Participants in memory, and the commands that reach them: they hold something and can lose it. No chance, no I/O."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pydantic_core import from_json

from schemas.base import Json
from schemas.events import PREFIX
from schemas.notifications import CommandData
from service.adapters.memory.storage import MemoryStorage
from service.errors import Permanent, Unavailable
from service.ports import Clock


@dataclass(slots=True)
class MemoryParticipant:
    """A component that counts in memory and answers commands like a real one: it flushes to storage, loads what it is
    started with, refuses lower tokens and expired commands, and answers a repeated command without doing it twice.

    `deaf` names commands it receives and never answers (`renew`: a pause that renews). `done` lists what it really did,
    in order; `lapsed` is the end of a pause that was not renewed.
    """

    component: str
    storage: MemoryStorage
    clock: Clock
    count: int = 0
    paused: bool = False
    lease_ends: float | None = None
    loaded: str | None = None
    token: int = 0
    deaf: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)
    answered: dict[str, dict[str, Json]] = field(default_factory=dict)

    def begin(self, environment: Mapping[str, str]) -> None:
        """A new process: memory is empty, unless it is told what to load."""
        self.count, self.token, self.loaded, self.answered = 0, 0, None, {}
        self.paused, self.lease_ends = environment.get("RELIGHT_START") == "paused", None
        if url := environment.get("RELIGHT_STATE"):
            content = self.storage.documents[url]
            self.count, self.loaded = json.loads(content)["count"], hashlib.sha256(content).hexdigest()

    def work(self) -> None:
        """One more, unless it is paused."""
        self.look()
        self.count += 0 if self.paused else 1

    def look(self) -> None:
        """Ends a pause whose lease has ended."""
        if self.paused and self.lease_ends is not None and self.clock.monotonic() >= self.lease_ends:
            self.paused, self.lease_ends = False, None
            self.done.append("lapsed")

    def hear(self, data: CommandData) -> dict[str, Json] | None:
        """The `ParticipantAnswered` to a command as JSON, None for silence."""
        self.look()
        renews = data.arguments.get("renews") is True
        if ("renew" if renews else data.command) in self.deaf:
            return None
        free = renews or data.command == "report"
        if (data.token < self.token and not free) or data.expires <= self.clock.now():
            return self._say(data, "refused", detail="the command is void: a lower token, or expired")
        if renews and not self.paused:
            return self._say(data, "refused", detail="the pause has ended by itself")
        self.token = self.token if free else max(self.token, data.token)
        if data.commandid not in self.answered or data.command == "report":
            self.answered[data.commandid] = self._do(data)
        return {**self.answered[data.commandid], "token": data.token}

    def _do(self, data: CommandData) -> dict[str, Json]:
        self.done.append(data.command)
        values: dict[str, Json] = {"count": self.count}
        match data.command:
            case "pause" | "resume":
                self.paused, lease = data.command == "pause", data.arguments.get("lease")
                held = self.paused and isinstance(lease, int | float)
                self.lease_ends = self.clock.monotonic() + float(str(lease)) if held else None
                return self._say(data, "done", values=values)
            case "flush":
                content = json.dumps({"count": self.count}).encode()
                where = f"file:///memory/{data.system}/{self.component}/{data.commandid.replace('/', '_')}"
                self.storage.documents[where] = content
                return self._say(data, "done", values=values, digest=hashlib.sha256(content).hexdigest(), where=where)
            case _:
                return self._say(data, "done", values=values, digest=self.loaded)

    def _say(self, data: CommandData, outcome: str, **more: Json) -> dict[str, Json]:
        about: dict[str, Json] = {"component": self.component, "commandid": data.commandid, "token": data.token}
        return {**about, "outcome": outcome, **more}


Deliver = Callable[[str, str, dict[str, Json]], Awaitable[None]]
"""(system, component, data of `relight.participant.answered`): how an answer comes back to Relight."""


class MemoryCommands:
    """Commands to participants by (system, component). `sent` keeps the bodies; answers go to `deliver`, or are kept in
    `answers` until somebody fetches them. `cut` makes sending fail for now."""

    def __init__(self) -> None:
        self.participants: dict[tuple[str, str], MemoryParticipant] = {}
        self.bound: set[tuple[str, str]] = set()
        self.sent: list[CommandData] = []
        self.answers: list[tuple[str, str, dict[str, Json]]] = []
        self.deliver: Deliver | None = None
        self.cut = False

    async def send(self, routing_key: str, command_id: str, body: str) -> bool:
        if self.cut:
            raise Unavailable("RabbitMQ", "so it was asked for")
        system, component, command = routing_key.split(".")
        if (system, component) not in self.bound:
            return False
        envelope = from_json(body)
        data = CommandData.model_validate(envelope["data"])
        expected = (f"{PREFIX}command.{command}", system, command_id, component, command)
        found = (envelope["type"], envelope["subject"], data.commandid, data.component, data.command)
        if found != expected:
            raise Permanent(f"the command {found} does not agree with where it was sent: {expected}")
        self.sent.append(data)
        answer = self.participants[system, component].hear(data)
        if answer is not None and self.deliver is not None:
            await self.deliver(system, component, answer)
        elif answer is not None:
            self.answers.append((system, component, answer))
        return True
