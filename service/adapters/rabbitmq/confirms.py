"""A channel that numbers what it publishes and knows what became of each number. Nothing waits or writes here.

aiormq finds a returned message by its message_id, which two publishes may share: one of them would pass as confirmed.
Here returns and confirms find their message by its number, and a batch is one future instead of one a message.
"""

import asyncio
from collections.abc import Sequence
from itertools import takewhile

from aiormq.abc import AbstractConnection
from aiormq.channel import Channel
from pamqp import commands
from pamqp.header import ContentHeader

from service.adapters.rabbitmq.connection import next_number
from service.adapters.rabbitmq.frames import pack
from service.errors import Unavailable
from service.ports import OutMessage, Sent

FRAME_MAX = 131_072
"""Bytes of a frame when the broker names no limit."""

Confirmation = commands.Basic.Ack | commands.Basic.Nack | commands.Basic.Reject


class Waiting:
    """One batch on its way: its verdicts, and how many are still missing."""

    __slots__ = ("done", "messages", "missing", "verdicts")

    def __init__(self, messages: Sequence[OutMessage]) -> None:
        self.messages = messages
        self.verdicts = [Sent.CONFIRMED] * len(messages)
        self.missing = len(messages)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with the last verdict, or with Unavailable."""


class ConfirmChannel(Channel):
    """An aiormq channel in confirm mode with a ledger of its own."""

    def __init__(self, connection: AbstractConnection) -> None:
        super().__init__(connection, next_number(connection), publisher_confirms=True)
        connection.channels[self.number] = self
        self.settled = 0
        """Verdicts so far: grows while the broker works."""
        self.lost: asyncio.Future[Unavailable] = asyncio.get_running_loop().create_future()
        """Done when nothing more will be heard, with why."""
        self._sent = 0
        self._last_returned = 0
        self._outstanding: dict[int, tuple[Waiting, int]] = {}
        self._room: asyncio.Future[None] | None = None

    @property
    def outstanding(self) -> int:
        """Messages without a verdict."""
        return len(self._outstanding)

    def room(self) -> asyncio.Future[None]:
        """Done as soon as one more message has its verdict."""
        if self._room is None or self._room.done():
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    def number_and_pack(
        self, messages: Sequence[OutMessage], mandatory: bool, expiration: int | None
    ) -> tuple[Waiting, bytes]:
        """The batch to wait for and its bytes, which must be written before those of any later call.

        Raises ValueError for a name AMQP cannot carry; then nothing was numbered.
        """
        frame_max = self.connection.connection_tune.frame_max or FRAME_MAX
        parts: list[bytes] = []
        for message in messages:
            parts += pack(
                self.number,
                frame_max,
                message.exchange,
                message.routing_key,
                message.message_id,
                message.body.encode(),
                mandatory=mandatory,
                expiration=expiration,
            )
        waiting = Waiting(messages)
        first = self._sent + 1
        self._sent += len(messages)
        self._outstanding |= {first + index: (waiting, index) for index in range(len(messages))}
        return waiting, b"".join(parts)

    def give_up(self, why: Unavailable) -> None:
        """Nothing more will be heard: every waiting batch learns it."""
        if not self.lost.done():
            self.lost.set_result(why)
        outstanding, self._outstanding = self._outstanding, {}
        for waiting, _ in outstanding.values():
            if not waiting.done.done():
                waiting.done.set_exception(why)
                waiting.done.exception()  # a publisher that was cancelled meanwhile never asks

    async def _on_confirm_frame(self, frame: Confirmation) -> None:
        number = frame.delivery_tag or 0
        verdict = Sent.CONFIRMED if isinstance(frame, commands.Basic.Ack) else Sent.NACKED
        if getattr(frame, "multiple", False):
            last = number or self._sent
            for each in list(takewhile(last.__ge__, self._outstanding)):
                self._settle(each, verdict)
        else:
            self._settle(number, verdict)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _settle(self, number: int, verdict: Sent) -> None:
        found = self._outstanding.pop(number, None)
        if found is None:
            return
        self.settled += 1
        waiting, index = found
        if verdict is Sent.NACKED:
            waiting.verdicts[index] = verdict
        waiting.missing -= 1
        if waiting.missing == 0 and not waiting.done.done():
            waiting.done.set_result(None)

    async def _on_return_frame(self, frame: commands.Basic.Return) -> None:
        header = await self._get_frame()
        if not isinstance(header, ContentHeader):
            raise ValueError(f"unexpected frame {header!r} after a basic.return")
        await self._read_content(frame, header)
        returned = (header.properties.message_id, frame.exchange, frame.routing_key)
        # Returns come in the order of the publishes, before their confirms: the first match after the last is it.
        for number, (waiting, index) in self._outstanding.items():
            message = waiting.messages[index]
            if number > self._last_returned and returned == (message.message_id, message.exchange, message.routing_key):
                waiting.verdicts[index] = Sent.RETURNED
                self._last_returned = number
                return
