"""AMQP 0-9-1 content as bytes: messages packed for one write, deliveries read without trusting them. No I/O.

Reading is by hand because it must survive anything a publisher may put into a message: pamqp raises on a routing key
that is not UTF-8 and on a timestamp beyond the calendar, and a raise there would end the whole connection, again and
again, on the same message. Source of the layout: AMQP 0-9-1 specification, sections 2.3.5 and 4.2.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache

import pamqp.frame
from pamqp import commands

METHOD, HEADER, BODY = 1, 2, 3
"""Frame types."""
DELIVER = struct.pack(">HH", 60, 60)
"""The first four bytes of a basic.deliver."""
END = b"\xce"
FRAME_OVERHEAD = 8
"""Bytes of a frame around its payload: type, channel, size before it, the end mark after it."""
CONTENT_TYPE = "application/cloudevents+json"
PERSISTENT = 2

_HEAD = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQH")
_SHORT, _LONG, _TAG = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">QB")

# Property flags in the order the properties follow each other, with what must be skipped to pass one.
_TYPE, _DELIVERY_MODE, _EXPIRATION, _ID, _USER, _APP = 1 << 15, 1 << 12, 1 << 8, 1 << 7, 1 << 4, 1 << 3
_TABLES, _OCTETS, _STAMPS = frozenset({13}), frozenset({12, 11}), frozenset({6})


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"".join((_HEAD.pack(kind, channel, len(payload)), payload, END))


def _short(text: str) -> bytes:
    data = text.encode()
    if len(data) > 255:
        raise ValueError(f"{text[:40]!r}… has {len(data)} bytes; AMQP allows 255 here")
    return bytes((len(data),)) + data


@lru_cache(maxsize=4096)
def _publish(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    # Routing keys repeat (they name machines and states), and this is the costliest part of packing.
    method = commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    return pamqp.frame.marshal(method, channel)


_TYPE_AND_MODE = _short(CONTENT_TYPE) + bytes((PERSISTENT,))
_RELIGHT = _short("relight")


def pack(
    channel: int,
    frame_max: int,
    exchange: str,
    routing_key: str,
    message_id: str,
    body: bytes,
    *,
    mandatory: bool,
    expiration: int | None = None,
) -> bytes:
    """One message as frames. `frame_max` is the negotiated frame size in bytes, `expiration` in milliseconds.

    Raises ValueError for a name that AMQP cannot carry.
    """
    flags = _TYPE | _DELIVERY_MODE | _ID | _APP
    expires = b""
    if expiration is not None:
        flags |= _EXPIRATION
        expires = _short(str(expiration))
    content = _CONTENT.pack(60, 0, len(body), flags) + _TYPE_AND_MODE + expires + _short(message_id) + _RELIGHT
    parts = [_publish(channel, exchange, routing_key, mandatory), _frame(HEADER, channel, content)]
    size = frame_max - FRAME_OVERHEAD
    parts.extend(_frame(BODY, channel, body[at : at + size]) for at in range(0, len(body), size))
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The parts of a basic.deliver that Relight uses."""

    consumer: str
    tag: int
    redelivered: bool
    routing_key: str


@dataclass(frozen=True, slots=True)
class Content:
    """The parts of a content header that Relight uses. `size` is the body's, in bytes."""

    size: int
    content_type: str | None
    user: str | None


def _text(data: bytes) -> str:
    # Bytes that are no UTF-8 stay visible and can be stored, logged and published: `a\\xffb`.
    return data.decode("utf-8", "backslashreplace")


def read_deliver(payload: bytes) -> Delivered:
    """A basic.deliver from a method frame's payload (class and method first)."""
    at = 5 + payload[4]
    tag, redelivered = _TAG.unpack_from(payload, at)
    consumer = _text(payload[5:at])
    at += _TAG.size
    at += 1 + payload[at]  # the exchange
    return Delivered(consumer, tag, bool(redelivered & 1), _text(payload[at + 1 : at + 1 + payload[at]]))


def read_content(payload: bytes) -> Content:
    """A content header frame's payload; everything but content_type and user_id is passed over unread."""
    _, _, size, flags = _CONTENT.unpack_from(payload)
    if not flags & (_TYPE | _USER):
        return Content(size, None, None)
    at, word = _CONTENT.size, flags
    while word & 1:
        (word,) = _SHORT.unpack_from(payload, at)
        at += 2
    content_type: str | None = None
    for bit in range(15, 3, -1):
        if not flags & (1 << bit):
            continue
        if bit in _OCTETS:
            at += 1
        elif bit in _STAMPS:
            at += 8
        elif bit in _TABLES:
            at += 4 + _LONG.unpack_from(payload, at)[0]
        else:
            text = payload[at + 1 : at + 1 + payload[at]]
            at += 1 + payload[at]
            if bit == 15:
                content_type = _text(text)
            elif bit == 4:
                return Content(size, content_type, _text(text))
    return Content(size, content_type, None)
