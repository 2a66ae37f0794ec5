"""A small blocking AMQP client for the load generator: packed publishes, counted confirms, notifications with a time.

It is no part of Relight, so that what makes the load shares no fault with what is measured, and it is fast enough not
to be what limits: a message is packed by hand and written together with its neighbours.
"""

import json
import select
import socket
import struct
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import pamqp.frame
from pamqp import commands
from pamqp.base import Frame

F = TypeVar("F", bound=Frame)

CHANNEL = 1
FRAME_MAX = 131_072
TIMEOUT = 30.0
"""Seconds of silence after which the broker counts as gone."""

AT_ONCE = 1_000
"""Messages of a stream on their way at once."""
MARK = "relight.mark"
"""Type of a message that only marks a place in the status log; Relight's readers pass over it."""

_HEAD = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQH")
_ACK, _NACK, _DELIVER = struct.pack(">HH", 60, 80), struct.pack(">HH", 60, 120), struct.pack(">HH", 60, 60)
_FLAGS = 1 << 15 | 1 << 12 | 1 << 7 | 1 << 4
"""content_type, delivery_mode, message_id, user_id: what a publisher to Relight has to set."""


class Broker:
    """One connection with one channel in confirm mode."""

    def __init__(self, url: str) -> None:
        """Connects. Raises OSError and ConnectionError."""
        parts = urlsplit(url)
        self.user = unquote(parts.username or "guest")
        self._socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5672), timeout=TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._raw = bytearray()
        self._methods: dict[tuple[str, str], bytes] = {}
        self._after_id = _short(self.user)
        self.sent = 0
        self._floor = 0
        self._singles: set[int] = set()
        self.notifications: list[tuple[float, bytes]] = []
        """When each arrived, by `time.perf_counter`, and its body."""
        self._open(unquote(parts.password or "guest"), unquote(parts.path[1:]) or "/")

    @property
    def confirmed(self) -> int:
        """How many of what was sent the broker has confirmed."""
        return self._floor + len(self._singles)

    # ---- publishing

    def pack(self, exchange: str, routing_key: str, message_id: str, body: bytes) -> bytes:
        """One persistent message as bytes, to be written as it is. Bodies are smaller than a frame."""
        method = self._methods.get((exchange, routing_key))
        if method is None:
            method = pamqp.frame.marshal(commands.Basic.Publish(exchange=exchange, routing_key=routing_key), CHANNEL)
            self._methods[exchange, routing_key] = method
        content = b"".join(
            (
                _CONTENT.pack(60, 0, len(body), _FLAGS),
                b"\x1capplication/cloudevents+json\x02",
                _short(message_id),
                self._after_id,
            )
        )
        return b"".join((method, _frame(2, content), _frame(3, body)))

    def write(self, packed: Sequence[bytes]) -> None:
        """Writes packed messages. What arrives meanwhile is taken in by the next `take`."""
        self._socket.sendall(b"".join(packed))
        self.sent += len(packed)

    def publish_all(self, messages: Iterable[bytes], window: int = 2_000, chunk: int = 100) -> None:
        """Writes them as fast as confirms come; returns when each is confirmed."""
        waiting: list[bytes] = []
        for message in messages:
            waiting.append(message)
            if len(waiting) == chunk:
                self.write(waiting)
                waiting = []
                while self.sent - self.confirmed > window:
                    self.take(TIMEOUT)
        if waiting:
            self.write(waiting)
        self.drain()

    def drain(self) -> None:
        """Waits until everything that was sent is confirmed."""
        while self.confirmed < self.sent:
            if not self.take(TIMEOUT):
                raise ConnectionError(f"no confirm within {TIMEOUT:.0f} s: {self.sent - self.confirmed} are missing")

    # ---- listening

    def listen(self, exchange: str, binding: str) -> None:
        """From now on notifications that match are collected in `notifications`."""
        declared = self._ask(commands.Queue.Declare(exclusive=True, auto_delete=True), commands.Queue.DeclareOk)
        name = str(declared.queue)
        self._ask(commands.Queue.Bind(queue=name, exchange=exchange, routing_key=binding), commands.Queue.BindOk)
        self._consume(commands.Basic.Consume(queue=name, no_ack=True))

    def consumers(self, queue: str) -> int:
        """How many consume from it."""
        declared = self._ask(commands.Queue.Declare(queue=queue, passive=True), commands.Queue.DeclareOk)
        return declared.consumer_count or 0

    def read(self, stream: str, offset: int) -> Iterator[bytes]:
        """The bodies that a stream holds from `offset` on, the last of which is a mark of type `MARK`.

        A stream does not say where its end is, so the mark is put there. Raises ConnectionError when it does not come.
        """
        identity = f"mark:{uuid.uuid4()}"
        mark = json.dumps({"type": MARK, "id": identity}).encode()
        self.publish_all([self.pack("", stream, identity, mark)])
        self._ask(commands.Basic.Qos(prefetch_count=AT_ONCE), commands.Basic.QosOk)
        self._consume(commands.Basic.Consume(queue=stream, arguments={"x-stream-offset": offset}))
        read = 0
        while True:
            while not self.notifications:
                if not self.take(TIMEOUT):
                    raise ConnectionError(f"{stream} fell silent for {TIMEOUT:.0f} s before its end")
            arrived, self.notifications = self.notifications, []
            for _, body in arrived:
                yield body
                if body == mark:
                    return
            read += len(arrived)
            self._send(commands.Basic.Ack(delivery_tag=read, multiple=True), CHANNEL)

    def take(self, seconds: float) -> bool:
        """Takes in what has arrived, waiting for it at most so long; whether anything had."""
        readable, _, _ = select.select([self._socket], [], [], max(0.0, seconds))
        if not readable:
            return False
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the broker closed the connection")
        self._raw += data
        self._cut(time.perf_counter())
        return True

    def close(self) -> None:
        self._socket.close()

    # ---- inside

    def _cut(self, now: float) -> None:
        raw, at, end = self._raw, 0, len(self._raw)
        while end - at >= 7:
            kind, _, size = _HEAD.unpack_from(raw, at)
            after = at + size + 8
            if after > end:
                break
            payload = bytes(raw[at + 7 : after - 1])
            if kind == 3:
                self.notifications.append((now, payload))
            elif kind == 1:
                self._method(payload)
            at = after
        del raw[:at]

    def _method(self, payload: bytes) -> None:
        if payload.startswith(_ACK):
            tag, multiple = struct.unpack_from(">QB", payload, 4)
            self._singles.add(tag)
            if multiple & 1:
                self._floor = max(self._floor, tag)
                self._singles = {one for one in self._singles if one > self._floor}
            while self._floor + 1 in self._singles:
                self._floor += 1
                self._singles.remove(self._floor)
        elif payload.startswith(_NACK):
            raise ConnectionError("the broker refused a message: a queue is full")
        elif not payload.startswith(_DELIVER):
            raise ConnectionError(f"unexpected method {struct.unpack_from('>HH', payload)}")

    def _open(self, password: str, vhost: str) -> None:
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._frame(commands.Connection.Start)
        login = f"\0{self.user}\0{password}"
        self._send(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), 0)
        tune = self._frame(commands.Connection.Tune)
        # No heartbeats: every wait here has a limit of its own.
        self._send(commands.Connection.TuneOk(tune.channel_max, tune.frame_max or FRAME_MAX, 0), 0)
        self._send(commands.Connection.Open(vhost), 0)
        self._frame(commands.Connection.OpenOk)
        self._ask(commands.Channel.Open(), commands.Channel.OpenOk)
        self._ask(commands.Confirm.Select(), commands.Confirm.SelectOk)

    def _ask(self, method: Frame, answer: type[F]) -> F:
        self._send(method, CHANNEL)
        return self._frame(answer)

    def _consume(self, method: commands.Basic.Consume) -> None:
        self._ask(method, commands.Basic.ConsumeOk)
        # Messages may have come in the same breath as the answer, and nothing after them that `take` would wake for.
        self._cut(time.perf_counter())

    def _send(self, method: Frame, channel: int) -> None:
        self._socket.sendall(pamqp.frame.marshal(method, channel))

    def _frame(self, wanted: type[F]) -> F:
        """The next frame, which has to be this one: nothing else is under way while something is asked."""
        while len(self._raw) < 7 or len(self._raw) < _HEAD.unpack_from(self._raw)[2] + 8:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the broker closed the connection")
            self._raw += data
        size = _HEAD.unpack_from(self._raw)[2] + 8
        _, _, frame = pamqp.frame.unmarshal(bytes(self._raw[:size]))
        del self._raw[:size]
        if not isinstance(frame, wanted):
            raise ConnectionError(f"expected {wanted.__name__}, the broker said {frame!r}")
        return frame


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data


def _frame(kind: int, payload: bytes) -> bytes:
    return b"".join((_HEAD.pack(kind, CHANNEL, len(payload)), payload, b"\xce"))
