"""Taking part in a restart over AMQP, in plain aio-pika: commands in, answers out. Copy it into a program of your own.

The rules it keeps, for any language: the queue is the process's own and goes with it, so that Relight sees at once
whether anybody listens; a command that has expired or whose token is lower than one seen is refused; a command seen
before is answered again and not done again (but a report is always fresh); an answer that could not be sent is sent
after the reconnect; the answer's user_id is the user that the broker knows.
"""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue

LOOK_AT_CONSUMER = 3.0
"""Seconds between two looks at whether the broker still knows our consumer: a client may miss that it was cancelled."""
AGAIN_AFTER = 1.0
"""Seconds until the next attempt to reach a broker that is away."""
WITHIN = 10.0
"""Seconds for one question to the broker."""
REMEMBERED = 200
"""Commands whose answers are kept, for when they come again."""
AWAY = (OSError, TimeoutError, aio_pika.exceptions.AMQPError)
"""What an absent broker looks like."""


class Refused(Exception):  # an answer, not an error
    """The command is understood and not obeyed, and why."""


Perform = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""(command, its arguments) to what is answered besides the outcome: `detail`, `digest`, `where`, `values`."""


class Participant:
    """Listens for `<system>.<component>.*` until it is cancelled, whatever becomes of the broker meanwhile."""

    def __init__(self, url: str, system: str, component: str, perform: Perform) -> None:
        self._url = url
        self._user = unquote(urlsplit(url).username or "")
        self._system, self._component = system, component
        self._perform = perform
        self._said = ""
        self._token = 0
        self._done: dict[str, dict[str, Any]] = {}
        self._unsent: dict[str, dict[str, Any]] = {}

    async def run(self) -> None:
        """Never returns; says on standard output when it lost the broker and when it has it again."""
        this = asyncio.current_task()
        while True:
            try:
                await self._listen()
            except AWAY as error:
                self._say(f"the broker is away: {type(error).__name__}")
            except asyncio.CancelledError:
                # The client's own: it cancels what waits on a connection that broke. Ours are counted.
                if this is None or this.cancelling():
                    raise
                self._say("the broker is away: cut off in the middle")
            await asyncio.sleep(AGAIN_AFTER)

    def _say(self, text: str) -> None:
        if text != self._said:
            print(text, flush=True)
        self._said = text

    async def _listen(self) -> None:
        """One connection, from its beginning to its end."""
        properties: dict[str, Any] = {"connection_name": self._user}
        connection = await aio_pika.connect(self._url, timeout=WITHIN, client_properties=properties)
        lost = asyncio.Event()
        connection.close_callbacks.add(lambda *_: lost.set())
        try:
            channel = await connection.channel()
            channel.close_callbacks.add(lambda *_: lost.set())
            await channel.set_qos(prefetch_count=1, timeout=WITHIN)
            # The exchanges are Relight's: used as they are, never declared from here.
            events = await channel.get_exchange("relight.events", ensure=False)
            name = f"{self._system}.{self._component}.{uuid.uuid4()}"
            queue = await channel.declare_queue(name, exclusive=True, auto_delete=True, timeout=WITHIN)
            await queue.bind("relight.commands", f"{self._system}.{self._component}.*", timeout=WITHIN)
            for commandid in list(self._unsent):
                await self._send(events, commandid)

            async def on_message(message: AbstractIncomingMessage) -> None:
                await self._on_message(message, events)

            await queue.consume(on_message, timeout=WITHIN)
            self._say("listening for commands")
            await self._until_deaf(channel, queue, lost)
        finally:
            with contextlib.suppress(*AWAY):
                async with asyncio.timeout(WITHIN):
                    await connection.close()

    async def _until_deaf(self, channel: AbstractChannel, queue: AbstractQueue, lost: asyncio.Event) -> None:
        """Returns when connection or channel are closed, or the broker has no consumer of ours any more."""
        while not lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AT_CONSUMER):
                    await lost.wait()
                    return
            known = await channel.declare_queue(queue.name, passive=True, timeout=WITHIN)
            if not known.declaration_result.consumer_count:
                return

    async def _on_message(self, message: AbstractIncomingMessage, events: AbstractExchange) -> None:
        async with message.process(ignore_processed=True):
            try:
                data = json.loads(message.body)["data"]
                commandid, command, token = str(data["commandid"]), str(data["command"]), int(data["token"])
                expires = datetime.fromisoformat(data["expires"])
            except (ValueError, KeyError, TypeError) as error:
                print(f"passed over what is no command: {error!r}", flush=True)
                return
            answer = await self._answer(commandid, command, token, expires, data.get("arguments") or {})
            self._unsent[commandid] = answer
            with contextlib.suppress(*AWAY):
                await self._send(events, commandid)

    async def _answer(
        self, commandid: str, command: str, token: int, expires: datetime, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        about = {"component": self._component, "commandid": commandid, "token": token}
        # A report changes nothing, and two checks may ask side by side, in whatever order they arrive. Nor does the
        # renewal of a pause, which may overtake another command.
        free = command == "report" or arguments.get("renews") is True
        if token < self._token and not free:
            return {**about, "outcome": "refused", "detail": f"token {token} is lower than {self._token}"}
        if expires <= datetime.now(UTC):
            return {**about, "outcome": "refused", "detail": f"the command was void after {expires.isoformat()}"}
        self._token = self._token if free else max(self._token, token)
        if commandid in self._done and command != "report":
            return {**self._done[commandid], **about}
        try:
            said = await self._perform(command, arguments)
        except Refused as why:
            return {**about, "outcome": "refused", "detail": str(why)}
        except Exception as error:  # noqa: BLE001  # whatever went wrong here, the other side must hear of it
            return {**about, "outcome": "failed", "detail": f"{type(error).__name__}: {error}"[:2000]}
        self._done[commandid] = {"outcome": "done", **said}
        while len(self._done) > REMEMBERED:
            del self._done[next(iter(self._done))]
        return {**self._done[commandid], **about}

    async def _send(self, events: AbstractExchange, commandid: str) -> None:
        """Published with a confirm; it stays among the unsent until then."""
        answer = self._unsent[commandid]
        eventid = str(uuid.uuid4())
        event = {
            "specversion": "1.0",
            "id": eventid,
            "source": self._user,
            "type": "relight.participant.answered",
            "subject": self._system,
            "time": datetime.now(UTC).isoformat(),
            "datacontenttype": "application/json",
            "data": answer,
        }
        message = aio_pika.Message(
            json.dumps(event).encode(),
            content_type="application/cloudevents+json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=eventid,
            user_id=self._user,
        )
        await events.publish(message, f"{self._system}.participant.answered", timeout=WITHIN)
        if self._unsent.get(commandid) is answer:
            del self._unsent[commandid]
