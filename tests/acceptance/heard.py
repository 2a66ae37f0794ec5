"""An ear on the status topic: what was said, in order, and what a story does the moment it hears it. No judging."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from tests.faults.evidence import Notification, notification

Match = Callable[[Notification], bool]

PATIENCE = 60.0
"""Seconds until something that should be said counts as not said: a step's limits and a busy machine fit in."""


def entered(state: str) -> Match:
    """The instance has come into this state from another one."""
    return lambda note: note.type == "transition" and note.data["to"] == state != note.data["from"]


def ended(step: str, outcome: str = "done") -> Match:
    """A step had this outcome."""
    return lambda note: note.type == "step" and (note.data["step"], note.data["outcome"]) == (step, outcome)


def answers(event: str) -> Match:
    """What became of the event with this id: a transition or a refusal."""
    return lambda note: note.type in ("transition", "refused") and note.data["event"]["id"] == event


class Heard:
    """Everything about one system's lifecycle, each notification once, from the moment the block is entered."""

    def __init__(self, amqp_url: str, system: str) -> None:
        self.notes: list[Notification] = []
        self._url, self._system = amqp_url, system
        self._known: set[str] = set()
        self._reactions: list[tuple[Match, Callable[[Notification], Any]]] = []
        self._more = asyncio.Condition()
        self._connection: AbstractConnection | None = None

    async def __aenter__(self) -> Self:
        self._connection = await aio_pika.connect(self._url, timeout=10)
        channel = await self._connection.channel()
        queue = await channel.declare_queue(exclusive=True, auto_delete=True, timeout=10)
        await queue.bind("relight.status", f"{self._system}.lifecycle.#", timeout=10)
        await queue.consume(self._take, no_ack=True, timeout=10)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close()

    def once(self, match: Match, act: Callable[[Notification], Any]) -> None:
        """Calls `act` at the first notification from now on that matches, before anything else is heard."""
        self._reactions.append((match, act))

    def forget(self) -> None:
        """Drops the reactions that were not called: they belonged to a story that is over."""
        self._reactions.clear()

    def since(self, mark: int) -> Sequence[Notification]:
        return self.notes[mark:]

    async def until(self, what: str, match: Match, after: int, within: float = PATIENCE) -> Notification:
        """The first that matches from position `after` on. Raises AssertionError with what was said instead."""

        def found() -> Notification | None:
            return next((note for note in self.notes[after:] if match(note)), None)

        async with self._more:
            try:
                async with asyncio.timeout(within):
                    await self._more.wait_for(found)
            except TimeoutError:
                raise AssertionError(f"not said within {within:.0f} s: {what}. Said:\n{self.tell(after)}") from None
        note = found()
        assert note is not None
        return note

    def moves(self, after: int) -> list[str]:
        """The states that were entered, in order."""
        return [note.data["to"] for note in self.notes[after:] if note.type == "transition"]

    def results(self, after: int) -> dict[str, dict[str, Any]]:
        """The result of each step that was done, by name; of several entries the last."""
        steps = (note.data for note in self.notes[after:] if note.type == "step" and note.data["outcome"] == "done")
        return {data["step"]: data["result"] for data in steps}

    def errors(self, after: int) -> dict[str, str]:
        """The error of each step that failed or was retried, by name."""
        steps = (note.data for note in self.notes[after:] if note.type == "step" and note.data["error"])
        return {data["step"]: data["error"] for data in steps}

    def tell(self, after: int) -> str:
        """For a failure: one line each."""
        return "\n".join(_line(note) for note in self.notes[after:]) or "(nothing)"

    async def _take(self, message: AbstractIncomingMessage) -> None:
        note = notification(message.routing_key or "", message.body)
        if note.id in self._known:
            return
        self._known.add(note.id)
        for reaction in [one for one in self._reactions if one[0](note)]:
            self._reactions.remove(reaction)
            reaction[1](note)
        async with self._more:
            self.notes.append(note)
            self._more.notify_all()


def _line(note: Notification) -> str:
    data = note.data
    match note.type:
        case "transition":
            return f"{data['seq']:>4} {data['from']} → {data['to']}: {data['reason']}"
        case "refused":
            return f"{data['seq'] or '-':>4} refused {(data['event'] or {}).get('type')}: {'; '.join(data['reasons'])}"
        case "step":
            return f"       {data['step']} {data['outcome']} {data['error'] or ''}"
        case _:
            return f"       {note.type} {data.get('step') or ''} for {data.get('whom')}"
