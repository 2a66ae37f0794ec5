"""AMQP 0-9-1 content as bytes: messages packed for one write, deliveries read without trusting them. No I/O.

Reading is by hand because it must survive anything a publisher may put into a message: pamqp raises on a routing key
that is not UTF-8 and on a timestamp beyond the calendar, and a raise there would end the whole connection, again and
again, on the same message. Source of the layout: AMQP 0-9-1 specification, sections 2.3.5 and 4.2.
"""

import struct
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
_HEAD_AND_CONTENT = struct.Struct(">BHIHHQH")
_SHORT, _LONG = struct.Struct(">H"), struct.Struct(">I")
_TAG = struct.Struct(">QBB")
"""Delivery tag, redelivered, and the length of the exchange's name."""

# Flags of the properties, which follow each other in the order of these.
_TYPE, _MODE, _EXPIRATION, _ID, _USER, _APP = 1 << 15, 1 << 12, 1 << 8, 1 << 7, 1 << 4, 1 << 3
_NAME, _TABLE = 0, -1
_BETWEEN = tuple(zip(range(14, 4, -1), (_NAME, _TABLE, 1, 1, _NAME, _NAME, _NAME, _NAME, 8, _NAME), strict=True))
"""What may stand between content_type and user_id: by the bit of its flag, how many bytes it has."""


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
_APP_AND_END = _short("relight") + END
_ALWAYS = _CONTENT.size + len(_APP_AND_END) - len(END)
"""Bytes that each content header has beside its other properties."""


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
) -> list[bytes]:
    """One message as frames, in pieces: a batch is joined once, and its bodies are copied once.

    `frame_max` is the negotiated frame size in bytes, `expiration` in milliseconds. Raises ValueError for a name that
    AMQP cannot carry.
    """
    flags, properties = _TYPE | _MODE | _ID | _APP, _TYPE_AND_MODE
    if expiration is not None:
        flags |= _EXPIRATION
        properties += _short(str(expiration))
    properties += _short(message_id)
    head = _HEAD_AND_CONTENT.pack(HEADER, channel, _ALWAYS + len(properties), 60, 0, len(body), flags)
    parts = [_publish(channel, exchange, routing_key, mandatory), head, properties, _APP_AND_END]
    size = frame_max - FRAME_OVERHEAD
    # Nearly every body is one frame, and then it is not copied; an empty one is none.
    pieces = (body,) if 0 < len(body) <= size else [body[at : at + size] for at in range(0, len(body), size)]
    for piece in pieces:
        parts += (_HEAD.pack(BODY, channel, len(piece)), piece, END)
    return parts


Delivered = tuple[str, int, bool, str]
"""Of a basic.deliver: consumer tag, delivery tag, whether it is redelivered, routing key."""
Content = tuple[int, str | None, str | None]
"""Of a content header: size of the body in bytes, content_type, user_id."""


@lru_cache(maxsize=4096)
def _text(data: bytes) -> str:
    # What is read here repeats: consumer tags, routing keys, users; each has 255 bytes at most. Bytes that are no UTF-8
    # stay visible and can be stored, logged and published: `a\\xffb`.
    return data.decode("utf-8", "backslashreplace")


def read_deliver(payload: bytes) -> Delivered:
    """A basic.deliver from a method frame's payload (class and method first)."""
    at = 5 + payload[4]
    tag, redelivered, exchange = _TAG.unpack_from(payload, at)
    key = at + _TAG.size + exchange
    return _text(payload[5:at]), tag, redelivered & 1 == 1, _text(payload[key + 1 : key + 1 + payload[key]])


@lru_cache(maxsize=256)
def _passed(flags: int) -> tuple[int, ...]:
    # Publishers set the same few properties in all that they send.
    return tuple(width for bit, width in _BETWEEN if flags & 1 << bit)


def read_content(payload: bytes) -> Content:
    """A content header frame's payload; everything but content_type and user_id is passed over unread."""
    _, _, size, flags = _CONTENT.unpack_from(payload)
    content_type, at, word = None, _CONTENT.size, flags
    while word & 1:
        (word,) = _SHORT.unpack_from(payload, at)
        at += 2
    if flags & _TYPE:
        end = at + 1 + payload[at]
        content_type, at = _text(payload[at + 1 : end]), end
    if not flags & _USER:
        return size, content_type, None
    for width in _passed(flags):
        if width == _NAME:
            at += 1 + payload[at]
        elif width == _TABLE:
            at += 4 + _LONG.unpack_from(payload, at)[0]
        else:
            at += width
    return size, content_type, _text(payload[at + 1 : at + 1 + payload[at]])
