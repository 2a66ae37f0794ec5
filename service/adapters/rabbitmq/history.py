"""What the status log holds up to now, with an end: what `Broker.told` promises. It is read, never judged, here.

A stream does not say where its end is. So a mark is put into it, past the exchange, that only readers of the stream can
see; where it comes by, everything that was published before the question has come by.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator
from datetime import datetime

import aiormq

from service.adapters.rabbitmq.connection import CALL_TIMEOUT, CONNECT_TIMEOUT, SERVER, Link, ask, explain
from service.adapters.rabbitmq.frames import Content, Delivered
from service.adapters.rabbitmq.names import MARK, STATUS_LOG
from service.adapters.rabbitmq.publisher import BatchPublisher
from service.adapters.rabbitmq.status import is_mark, opened_channel
from service.errors import Unavailable
from service.ports import Clock, OutMessage, Sent
from service.timeouts import time_limit

AT_ONCE = 1000
"""Notifications on their way to us at once; no more are ever in memory."""


async def told(
    link: Link, publisher: BatchPublisher, since: datetime | None, clock: Clock
) -> AsyncGenerator[tuple[str, bytes], None]:
    """(routing key, body) of what the stream holds since a moment (the broker's clock; it cuts the stream into chunks,
    so that some earlier ones come too), up to its end as of now. Raises Unavailable."""
    mark = _mark(clock.now())
    arriving: asyncio.Queue[tuple[int, str, bytes]] = asyncio.Queue()

    def receive(delivered: Delivered, content: Content, body: bytes) -> None:
        _, tag, _, routing_key = delivered
        arriving.put_nowait((tag, routing_key, body))

    async with opened_channel(link, await link.up(CONNECT_TIMEOUT), receive) as channel:
        try:
            await ask(channel.basic_qos(prefetch_count=AT_ONCE))
            offset = since if since is not None else "first"
            await ask(channel.basic_consume(STATUS_LOG, _never, arguments={"x-stream-offset": offset}))
        except aiormq.AMQPChannelError as error:
            raise Unavailable(SERVER, f"its status log cannot be read: {explain(error)}") from error
        # Afterwards, so that it comes by even where the moment is later than all that the stream holds.
        (verdict,) = await publisher.publish([mark])
        if verdict is not Sent.CONFIRMED:
            raise Unavailable(SERVER, f"its status log takes no mark ({verdict}), so that its end cannot be told")
        end = mark.body.encode()
        while True:
            try:
                async with time_limit(CALL_TIMEOUT):
                    tag, routing_key, body = await arriving.get()
            except TimeoutError:
                raise Unavailable(SERVER, "its status log fell silent before its end") from None
            if body == end:
                return
            if not is_mark(routing_key, body):
                yield routing_key, body
            if tag % (AT_ONCE // 2) == 0:
                await ask(channel.basic_ack(tag, multiple=True, wait=False))


def _mark(at: datetime) -> OutMessage:
    identity = f"mark:{uuid.uuid4()}"
    envelope = {
        "specversion": "1.0", "id": identity, "source": "relight", "type": MARK, "subject": "_none",
        "time": at.isoformat(), "datacontenttype": "application/json", "data": {},
    }  # fmt: skip
    return OutMessage("", STATUS_LOG, identity, json.dumps(envelope))


async def _never(_: aiormq.abc.DeliveredMessage) -> None:
    """Deliveries are taken by the tap; aiormq wants a callback all the same."""
