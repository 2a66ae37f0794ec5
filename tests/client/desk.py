"""Relight's side of the broker, for the client's tests: its topology, what it says, what it asks. No test here."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from relight_client import Notification, Subscription
from service.adapters.rabbitmq import RabbitBroker
from service.clock import SystemClock
from service.embedded import RabbitServer
from tests.servers import unique

SOON = 20.0
"""Seconds for what must happen; a busy machine takes a few."""
INSTANCE = "lifecycle/metrics"


@dataclass
class Desk:
    """Speaks and listens as Relight does. `answers`: data of each `participant.answered` that arrived."""

    url: str
    channel: AbstractChannel
    heard: list[AbstractIncomingMessage] = field(default_factory=list)
    token: int = 0

    async def transition(self, seq: int, *, epoch: int = 1, instance: str = INSTANCE, stream_only: bool = False) -> str:
        """Says that `instance` moved; to the stream alone where the exchange had refused it. The notification's id."""
        machine, system = instance.split("/")[:2]
        data = {"system": system, "machine": machine, "instance": instance, "epoch": epoch, "seq": seq, "status": "Up"}
        return await self.say(f"{system}.{machine}.operational", f"{epoch}:{instance}:{seq}", data, stream_only)

    async def say(self, key: str, ident: str, data: dict[str, Any], stream_only: bool = False) -> str:
        """One notification."""
        event = {
            "specversion": "1.0", "id": ident, "source": "relight", "type": "relight.transition",
            "subject": key.partition(".")[0], "time": datetime.now(UTC).isoformat(), "data": data,
        }  # fmt: skip
        message = aio_pika.Message(json.dumps(event).encode(), delivery_mode=2)
        name = "" if stream_only else "relight.status"
        exchange = self.channel.default_exchange if not name else await self.channel.get_exchange(name, ensure=False)
        await exchange.publish(message, "relight.status.log" if stream_only else key)
        return ident

    async def command(
        self, command: str, commandid: str, *, token: int | None = None, expires: float = 30, **arguments: Any
    ) -> bool:
        """Sends a command to metrics.calculator; False when nobody listens."""
        self.token = self.token + 1 if token is None else token
        data = {
            "system": "metrics", "component": "calculator", "command": command, "commandid": commandid,
            "token": self.token, "expires": (datetime.now(UTC) + timedelta(seconds=expires)).isoformat(),
            "arguments": arguments,
        }  # fmt: skip
        commands = await self.channel.get_exchange("relight.commands", ensure=False)
        body = json.dumps({"specversion": "1.0", "id": commandid, "data": data}).encode()
        try:
            await commands.publish(aio_pika.Message(body), f"metrics.calculator.{command}")
        except aio_pika.exceptions.DeliveryError:
            return False
        return True

    async def asked(self, command: str, commandid: str, **more: Any) -> dict[str, Any]:
        """Sends a command once somebody listens, and waits for the answer to it."""
        before = len(self.answers)
        async with asyncio.timeout(SOON):
            while not await self.command(command, commandid, **more):
                await asyncio.sleep(0.05)
            while True:
                for answer in self.answers[before:]:
                    if answer["commandid"] == commandid and answer["token"] == self.token:
                        return answer
                await asyncio.sleep(0.02)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event that arrived, as its CloudEvent."""
        return [json.loads(message.body) for message in self.heard]

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [event["data"] for event in self.events if event["type"] == "relight.participant.answered"]

    async def until_heard(self, number: int) -> None:
        async with asyncio.timeout(SOON):
            while len(self.heard) < number:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def at_desk(url: str, *, declared: bool = False) -> AsyncIterator[Desk]:
    """Relight's exchanges and queues on this vhost, with an ear on everything that is published to relight.events."""
    if not declared:
        async with RabbitBroker(url, clock=SystemClock()) as broker:
            await broker.declare(["metrics"], {"metrics": 0})
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(on_return_raises=True)
        desk = Desk(url, channel)

        async def hear(message: AbstractIncomingMessage) -> None:
            desk.heard.append(message)

        queue = await channel.declare_queue(exclusive=True)
        await queue.bind("relight.events", "#")
        await queue.consume(hear, no_ack=True)
        yield desk


async def stranger(server: RabbitServer, desk: Desk, *, read: str = "^$") -> str:
    """The URL of a user of this vhost who may read what matches, and nothing else but make queues."""
    vhost, name = desk.url.rsplit("/", 1)[1], unique("stranger")
    await server.add_user(name, "secret", vhost=vhost)
    await server.set_permissions(name, vhost=vhost, configure="^amq.*|^metrics.*", write="^amq.*|^metrics.*", read=read)
    return server.url_for(vhost, name, "secret")


async def take(said: Subscription, number: int) -> list[Notification]:
    """The next so many notifications."""
    async with asyncio.timeout(SOON):
        return [await anext(said) for _ in range(number)]


def places(found: list[Notification]) -> list[tuple[int, int]]:
    """(epoch, seq) of each."""
    return [notification.place[1:] for notification in found if notification.place is not None]
