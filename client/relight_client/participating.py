"""Taking part in a restart: commands in, handlers called once for each, answers out. What a handler does is yours.

The rules of docs/participants.md are kept here: a lower token and an expired command are refused, a command that comes
again is answered again and not done again (a report is always fresh), a pause ends by itself when its lease does and is
renewed without asking any handler.
"""

import asyncio
import contextlib
import inspect
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aio_pika.abc import AbstractIncomingMessage

from relight_client.errors import Away, ClientError, Forbidden, Refused
from relight_client.events import Event
from relight_client.session import COMMANDS, LOOK, Session, asked, session

AGAIN_AFTER = 1.0
"""Seconds until the next attempt to reach a broker that is away, to send an answer, or to end a pause."""
REMEMBERED = 200
"""Commands whose answers are kept, for when they come again."""
DETAIL = 2000
"""Characters of an answer's `detail` that Relight takes."""

log = logging.getLogger("relight_client")


@dataclass(frozen=True, slots=True)
class Command:
    """What Relight asks for: `pause`, `flush`, `report`, `disconnect`, `resume`, with its arguments.

    A pause has `arguments["lease"]`, the seconds after which `resume` is called by itself; then `commandid` is empty.
    """

    command: str
    commandid: str = ""
    token: int = 0
    expires: datetime | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, body: bytes) -> "Command":
        """From the wire. Raises ValueError for what is no command."""
        try:
            data = json.loads(body)["data"]
            expires = datetime.fromisoformat(data["expires"])
            if expires.tzinfo is None:
                raise ValueError("expires has no time zone")
            arguments = data.get("arguments") or {}
            return cls(str(data["command"]), str(data["commandid"]), int(data["token"]), expires, arguments)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no command of Relight: {error!r}") from error

    @property
    def lease(self) -> timedelta | None:
        """How long a pause may last without being renewed."""
        seconds = self.arguments.get("lease")
        return timedelta(seconds=float(seconds)) if seconds else None

    @property
    def renews(self) -> bool:
        """Whether this prolongs the pause that holds; it begins none."""
        return self.command == "pause" and self.arguments.get("renews") is True


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler did. `digest`: SHA-256 (hex) of what was flushed to, or loaded from, the URL `where`.

    `values`: what the component measures of itself, and what must be the same after the restart.
    """

    detail: str = ""
    digest: str | None = None
    where: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """As the event's data has it: only what was said."""
        said = {"detail": self.detail[:DETAIL], "digest": self.digest, "where": self.where, "values": dict(self.values)}
        return {name: value for name, value in said.items() if value}


Handler = Callable[[Command], Awaitable[Answer | None] | Answer | None]
"""Called once for each command id. Raises Refused to refuse; any other exception is told as `failed`."""


class Participant:
    """One component's ear and mouth, until it is cancelled. Handlers run one after another, never side by side."""

    def __init__(self, url: str, system: str, component: str, handlers: Mapping[str, Handler]) -> None:
        self._url = url
        self._system, self._component = system, component
        self._handlers = handlers
        self._token = 0
        self._heard: asyncio.Queue[Command] = asyncio.Queue()
        self._done: dict[str, dict[str, Any]] = {}
        self._unsent: dict[str, Event] = {}
        self._stirred = asyncio.Event()
        self._lease_ends: float | None = None
        self._has_listened = False
        self._turns: list[str] = []
        """The pause or resume that holds now, by its id."""

    async def run(self) -> None:
        """Never returns. Raises Forbidden when the broker does not let this user listen for these commands."""
        work = asyncio.create_task(self._work())
        listen = asyncio.create_task(self._stay())
        try:
            await asyncio.wait({work, listen}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            listen.cancel()
            ended = await asyncio.gather(work, listen, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    # ---- the broker

    async def _stay(self) -> None:
        said = ""
        while True:
            try:
                async with session(self._url, "taking part", 1) as opened:
                    await self._listen(opened)
            except ClientError as error:
                if isinstance(error, Forbidden) and not self._has_listened:
                    raise
                if said != (said := str(error)):
                    log.warning("%s.%s: not at the broker: %s", self._system, self._component, error)
            await asyncio.sleep(AGAIN_AFTER)

    async def _listen(self, opened: Session) -> None:
        """One connection, until it is lost; then raises Away."""
        # The queue is this process's own and goes with it, so that Relight sees at once whether anybody listens.
        name = f"{self._system}.{self._component}.{uuid.uuid4()}"
        queue = await asked(opened.channel.declare_queue(name, exclusive=True, auto_delete=True))
        await asked(queue.bind(COMMANDS, f"{self._system}.{self._component}.*"))

        async def hear(message: AbstractIncomingMessage) -> None:
            try:
                command = Command.read(message.body)
                if command.renews:
                    # At once, beside a handler that is at work: a long flush must not cost the pause it needs.
                    self._say(command, self._renewed(command))
                else:
                    await self._heard.put(command)
            except ValueError as error:
                log.warning("%s.%s: passed over: %s", self._system, self._component, error)
            with contextlib.suppress(Away, Forbidden):
                # Before it is done: nobody else could take it, and a long handler must not cost the channel.
                await asked(message.ack())

        await asked(queue.consume(hear))
        self._has_listened = True
        log.info("%s.%s: listening for commands", self._system, self._component)
        look_at = time.monotonic() + LOOK
        while True:
            self._stirred.clear()
            for commandid, event in list(self._unsent.items()):
                await opened.publish(event)
                if self._unsent.get(commandid) is event:
                    del self._unsent[commandid]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, look_at - time.monotonic())):
                    await self._stirred.wait()
            if opened.lost.is_set():
                raise Away("the connection was lost")
            if time.monotonic() >= look_at:
                await opened.still_heard(queue)
                look_at = time.monotonic() + LOOK

    # ---- the commands

    async def _work(self) -> None:
        while True:
            command = await self._next()
            if command is None:
                await self._end_pause()
            else:
                self._say(command, await self._answer(command))

    async def _next(self) -> Command | None:
        """The next command; None when the lease of a pause has ended first."""
        while self._lease_ends is not None:
            left = self._lease_ends - time.monotonic()
            if left <= 0:
                return None
            # When it is over the pause may have been renewed.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    return await self._heard.get()
        return await self._heard.get()

    def _renewed(self, command: Command) -> dict[str, Any]:
        # Its token counts for nothing, as a report's: it may overtake another command, and changes nothing but the end.
        if command.expires is not None and command.expires <= datetime.now(UTC):
            return {"outcome": "refused", "detail": f"the command was void after {command.expires.isoformat()}"}
        if self._lease_ends is None or self._lease_ends <= time.monotonic():
            return {"outcome": "refused", "detail": f"{self._component} is not paused (any more): nothing to renew"}
        if command.commandid not in self._done and command.lease is not None:
            self._lease_ends = time.monotonic() + command.lease.total_seconds()
            self._done[command.commandid] = {"outcome": "done", "detail": "the pause is renewed"}
            self._turns.append(command.commandid)
        return self._done.get(command.commandid, {"outcome": "refused", "detail": "it names no lease"})

    async def _answer(self, command: Command) -> dict[str, Any]:
        # A report changes nothing, and two checks may ask side by side, in whatever order they arrive.
        if command.token < self._token and command.command != "report":
            return {"outcome": "refused", "detail": f"token {command.token} is lower than {self._token}"}
        if command.expires is not None and command.expires <= datetime.now(UTC):
            return {"outcome": "refused", "detail": f"the command was void after {command.expires.isoformat()}"}
        self._token = max(self._token, command.token)
        if command.commandid in self._done and command.command != "report":
            return self._done[command.commandid]
        handler = self._handlers.get(command.command)
        if handler is None:
            return {"outcome": "refused", "detail": f"{self._component} knows no command {command.command!r}"}
        try:
            answer = await _call(handler, command)
        except Refused as why:
            return {"outcome": "refused", "detail": str(why)[:DETAIL]}
        except Exception as error:  # whatever went wrong here, the other side must hear of it
            log.exception("%s.%s: %s failed", self._system, self._component, command.command)
            return {"outcome": "failed", "detail": f"{type(error).__name__}: {error}"[:DETAIL]}
        if command.command in ("pause", "resume"):
            lease = command.lease if command.command == "pause" else None
            self._lease_ends = time.monotonic() + lease.total_seconds() if lease is not None else None
            self._forget_pause(unless=command.commandid)
        self._done[command.commandid] = {"outcome": "done", **answer.data()}
        while len(self._done) > REMEMBERED:
            del self._done[next(iter(self._done))]
        return self._done[command.commandid]

    async def _end_pause(self) -> None:
        """Relight has not come back in time: the component goes on, and the pause that lapsed is known no more."""
        log.warning("%s.%s: the lease of the pause has ended; resuming", self._system, self._component)
        self._lease_ends = None
        self._forget_pause()
        handler = self._handlers.get("resume")
        if handler is None:
            return
        try:
            await _call(handler, Command("resume", arguments={"lapsed": True}))
        except Exception:  # nobody hears it; only trying again keeps the component from standing still for ever
            log.exception("%s.%s: resume failed", self._system, self._component)
            self._lease_ends = time.monotonic() + AGAIN_AFTER

    def _forget_pause(self, unless: str = "") -> None:
        # The answer to an earlier pause or resume would be a lie by now; should it come again, it is done again.
        for commandid in [known for known in self._turns if known != unless]:
            self._done.pop(commandid, None)
        self._turns = [unless] if unless else []

    def _say(self, command: Command, said: Mapping[str, Any]) -> None:
        about = {"component": self._component, "commandid": command.commandid, "token": command.token}
        self._unsent[command.commandid] = Event("participant.answered", self._system, {**said, **about})
        self._stirred.set()


async def _call(handler: Handler, command: Command) -> Answer:
    said = handler(command)
    answer = await said if inspect.isawaitable(said) else said
    return answer if answer is not None else Answer()
