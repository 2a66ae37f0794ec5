"""RabbitMQ as far as a client's cost goes: a connection of aiormq's without a socket, for measurements in one process.

It answers what opens a connection and its channels; what is delivered and confirmed on it is fed in as bytes.
"""

import asyncio
import struct
from collections.abc import Sequence
from typing import Any, cast

import aiormq
import pamqp.frame
from aiormq import TransportFactory
from aiormq.abc import AbstractConnection
from pamqp import commands
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from yarl import URL

from service.adapters.rabbitmq.connection import Link, say_to_log
from service.adapters.rabbitmq.tap import Tap
from service.clock import SystemClock

FRAME_MAX = 131_072
_HEAD = struct.Struct(">BHI")
_PROTOCOL = b"AMQP"
_ABILITIES: dict[str, Any] = {"capabilities": {"publisher_confirms": True, "basic.nack": True}}

ANSWERS: dict[type, Frame] = {
    commands.Connection.StartOk: commands.Connection.Tune(channel_max=2047, frame_max=FRAME_MAX, heartbeat=60),
    commands.Connection.Open: commands.Connection.OpenOk(),
    commands.Connection.Close: commands.Connection.CloseOk(),
    commands.Channel.Open: commands.Channel.OpenOk(),
    commands.Channel.Close: commands.Channel.CloseOk(),
    commands.Confirm.Select: commands.Confirm.SelectOk(),
    commands.Basic.Qos: commands.Basic.QosOk(),
    commands.Basic.Consume: commands.Basic.ConsumeOk(consumer_tag="one"),
}


class Wire(TransportFactory):
    """Both ends of a socket that is none: what aiormq writes is answered at once."""

    def __init__(self) -> None:
        self.tap = Tap()
        self.transport = self
        self.consumed: dict[str, int] = {}
        """The channel that consumes each queue."""

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self.tap, cast("asyncio.StreamWriter", self)

    def write(self, data: bytes) -> None:
        """As StreamWriter's."""
        if data.startswith(_PROTOCOL):
            self._answer(0, commands.Connection.Start(server_properties=_ABILITIES, mechanisms="PLAIN"))
            return
        at = 0
        while at < len(data):
            _, channel, size = _HEAD.unpack_from(data, at)
            _, _, frame = pamqp.frame.unmarshal(data[at : at + size + 8])
            if isinstance(frame, commands.Basic.Consume):
                self.consumed[frame.queue] = channel
            if (answer := ANSWERS.get(type(frame))) is not None:
                self._answer(channel, answer)
            at += size + 8

    def _answer(self, channel: int, frame: Frame) -> None:
        self.tap.feed_data(pamqp.frame.marshal(frame, channel))

    async def drain(self) -> None:
        """Everything is taken."""

    async def wait_closed(self) -> None:
        """At once."""

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.tap.at_eof()

    def close(self) -> None:
        self.tap.feed_eof()

    def abort(self) -> None:
        """Of the transport, which this is as well."""
        self.tap.feed_eof()


class WiredLink(Link):
    """A link over a wire."""

    def __init__(self) -> None:
        super().__init__("measured", "amqp://bench@127.0.0.1", clock=SystemClock(), heartbeat=60, say=say_to_log)
        self.wire = Wire()

    async def _connect(self) -> AbstractConnection:
        connection = aiormq.Connection("amqp://bench:bench@127.0.0.1?heartbeat=60", transport_factory=self.wire)
        await connection.connect()
        self.tap = self.wire.tap
        return connection


def delivered(channel: int, tag: int, queue: str, key: str, message_id: str, user: str, body: bytes) -> bytes:
    """A message as RabbitMQ delivers it to a consumer whose tag is the queue's name."""
    properties = commands.Basic.Properties(
        content_type="application/cloudevents+json", delivery_mode=2, message_id=message_id, user_id=user
    )
    frames = (
        commands.Basic.Deliver(queue, tag, False, "relight.events", key),
        ContentHeader(body_size=len(body), properties=properties),
        ContentBody(body),
    )
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)


def confirmed(channel: int, first: int, share: Sequence[int]) -> list[bytes]:
    """Confirms of the messages from number `first`: one for each of `share`, of so many messages."""
    found, last = [], first - 1
    for count in share:
        last += count
        found.append(pamqp.frame.marshal(commands.Basic.Ack(delivery_tag=last, multiple=count > 1), channel))
    return found
