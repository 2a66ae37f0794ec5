"""Takes deliveries out of a connection's bytes before aiormq sees them, and gives aiormq the rest. It never writes.

aiormq reads each frame with three awaits, decodes all of it and starts a task a message; here a whole read of a socket
is cut into frames at once, and no content of a message can end the connection. Measured by `benchmarks.carrying`.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from aiormq import AMQPConnectionError, TransportFactory
from aiormq.connection import SSLContextProvider
from yarl import URL

from service.adapters.rabbitmq.frames import (
    BODY,
    DELIVER,
    FRAME_OVERHEAD,
    HEADER,
    METHOD,
    Content,
    Delivered,
    read_content,
    read_deliver,
)

READ_BYTES = 256 * 1024
"""How much is read from the socket at once."""

ALIVE = 0.5
"""Seconds after which aiormq is told again that the server lives; it gives up on one that was silent for three beats.
Telling it with every read would wake its task with every read."""

_HEAD = struct.Struct(">BHI")
_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_GREETING = b"AMQP"

OnMessage = Callable[[Delivered, Content, bytes], None]


class _Incoming:
    """The message that is arriving on one channel: its frames come in order, but other channels' come in between."""

    __slots__ = ("content", "delivered", "missing", "on_message", "pieces")

    def __init__(self, on_message: OnMessage) -> None:
        self.on_message = on_message
        self.delivered: Delivered | None = None
        self.content: Content | None = None
        self.pieces: list[bytes] = []
        self.missing = 0

    def take(self, kind: int, payload: bytes) -> bool:
        """Whether the frame belonged to a delivery; then nobody else needs it."""
        if kind == METHOD:
            if not payload.startswith(DELIVER):
                return False
            self.delivered, self.content = read_deliver(payload), None
            return True
        delivered = self.delivered
        if delivered is None:
            return False
        if kind == HEADER:
            self.content, self.pieces = read_content(payload), []
            self.missing = self.content[0]
        elif kind == BODY:
            self.missing -= len(payload)
            self.pieces.append(payload)
        if self.content is not None and self.missing <= 0:
            self.delivered = None
            self.on_message(delivered, self.content, b"".join(self.pieces))
        return True


class Tap(asyncio.StreamReader):
    """What aiormq reads from. Deliveries of the channels that are tapped never get there; all else does.

    They are taken while the loop hands over what the socket had, so that no task is woken for them.
    """

    def __init__(self) -> None:
        super().__init__(limit=READ_BYTES)
        self._channels: dict[int, _Incoming] = {}
        self._rest = bytearray()
        """The beginning of a frame that has not arrived whole."""
        self._wanted = _HEAD.size
        """How many bytes the rest must have before it says more."""
        self._told = float("-inf")
        """When aiormq last heard of a delivery."""

    def listen(self, channel: int, on_message: OnMessage) -> None:
        """From now on the deliveries of this channel go to `on_message`, which must not raise."""
        self._channels[channel] = _Incoming(on_message)

    def forget(self, channel: int) -> None:
        """The channel is closed; its number may be used again."""
        self._channels.pop(channel, None)

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # a loop hands over nothing but bytes
        """Called with each read of the socket."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        if through := data if data.startswith(_GREETING) else self._cut(data):
            super().feed_data(through)

    def feed_eof(self) -> None:
        """Called when the peer has closed. Half a frame is for aiormq, which says that the end was unexpected."""
        if self._rest:
            super().feed_data(bytes(self._rest))
            self._rest.clear()
        super().feed_eof()

    def _cut(self, raw: bytes) -> bytes | bytearray:
        """Sorts the whole frames that have arrived; what is left for aiormq."""
        channels, unpack, head = self._channels, _HEAD.unpack_from, _HEAD.size
        through, tapped = bytearray(), False
        at, end, self._wanted = 0, len(raw), head
        while end - at >= head:
            kind, channel, size = unpack(raw, at)
            after = at + size + FRAME_OVERHEAD
            if after > end:
                self._wanted = after - at
                break
            incoming = channels.get(channel)
            if incoming is not None and incoming.take(kind, raw[at + head : after - 1]):
                tapped = True
            else:
                through += raw[at:after]
            at = after
        self._rest += raw[at:]
        # By the loop's time, as aiormq counts the silence.
        if tapped and (now := asyncio.get_running_loop().time()) >= self._told + ALIVE:
            # aiormq judges by the frames it sees whether the connection lives, and a server that delivers all
            # the time sends no heartbeats of its own.
            self._told = now
            through += _HEARTBEAT
        return through


class TappedTransport(TransportFactory):
    """Opens the socket as aiormq would, TLS or not, with a Tap for what it reads."""

    def __init__(self) -> None:
        self.tap: Tap | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises AMQPConnectionError."""
        loop, tap = asyncio.get_running_loop(), Tap()
        protocol = asyncio.StreamReaderProtocol(tap)
        tls: SSLContextProvider = kwargs.pop("ssl_context_provider")
        context = await tls.get_context() if url.scheme == "amqps" else None
        host, port = url.host or "localhost", url.port or 5672  # aiormq has put a port there for either scheme
        try:
            transport, _ = await loop.create_connection(lambda: protocol, host, port, ssl=context, **kwargs)
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self.tap, self._writer = tap, asyncio.StreamWriter(transport, protocol, tap, loop)
        return tap, self._writer

    def abort(self) -> None:
        """Cuts the socket, whatever is still to be written."""
        if self._writer is not None:
            self._writer.transport.abort()
