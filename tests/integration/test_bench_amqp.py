"""The benchmark's own AMQP client reads a stream to its end, however the broker's frames are cut into packets."""

import asyncio
import json
import time
from typing import Any

import pytest
from pamqp import commands

from benchmarks.amqp import MARK, Broker, F
from service.adapters.rabbitmq import RabbitBroker
from service.clock import SystemClock
from service.ports import OutMessage

LOG = "relight.status.log"
LONG = 0.3
"""Seconds in which the broker has said everything that it has to say to one question."""


class Slow(Broker):
    """Looks for an answer only when what follows the answer has come as well, as on a busy machine."""

    def _frame(self, wanted: type[F]) -> F:
        if wanted is commands.Basic.ConsumeOk:
            time.sleep(LONG)
        return super()._frame(wanted)


@pytest.mark.parametrize("kind", [Broker, Slow])
async def test_a_stream_is_read_from_where_it_was_left_to_its_end(amqp_url: str, kind: type[Broker]) -> None:
    async with RabbitBroker(amqp_url, clock=SystemClock()) as broker, broker.publisher() as publisher:
        await broker.declare(["s0"], {"s0": 0})

        async def tell(*bodies: str) -> None:
            await publisher.publish([OutMessage("relight.status", "s0.alert.m0", body, body) for body in bodies])

        await tell('"1"', '"2"', '"3"')
        *found, mark = await asyncio.to_thread(read, kind, amqp_url, 0)
        assert found == ["1", "2", "3"]
        assert mark["type"] == MARK
        await tell('"4"')
        *found, _ = await asyncio.to_thread(read, kind, amqp_url, 4)
        assert found == ["4"]
        *found, _ = await asyncio.to_thread(read, kind, amqp_url, 6)
        assert found == [], "there is nothing new"


def read(kind: type[Broker], amqp_url: str, offset: int) -> list[Any]:
    broker = kind(amqp_url)
    try:
        return [json.loads(body) for body in broker.read(LOG, offset)]
    finally:
        broker.close()


async def test_what_comes_behind_the_mark_is_left_for_the_next_reading(amqp_url: str) -> None:
    async with RabbitBroker(amqp_url, clock=SystemClock()) as broker, broker.publisher() as publisher:
        await broker.declare(["s0"], {"s0": 0})
        reader = await asyncio.to_thread(Slow, amqp_url)
        try:
            reading = asyncio.create_task(asyncio.to_thread(lambda: [json.loads(it) for it in reader.read(LOG, 0)]))
            told = 0
            while not reading.done():
                await publisher.publish([OutMessage("relight.status", "s0.alert.m0", "n", f'"{told}"')])
                told += 1
            *found, mark = await reading
        finally:
            reader.close()
        assert mark["type"] == MARK
        assert found == [str(number) for number in range(len(found))]
        assert len(found) < told
        *rest, _ = await asyncio.to_thread(read, Broker, amqp_url, len(found) + 1)
        assert rest == [str(number) for number in range(len(found), told)]


async def test_a_notification_that_comes_with_the_answer_is_not_left_lying(amqp_url: str) -> None:
    async with RabbitBroker(amqp_url, clock=SystemClock()) as broker, broker.publisher() as publisher:
        await broker.declare(["s0"], {"s0": 0})
        listener = await asyncio.to_thread(Slow, amqp_url)
        try:
            listening = asyncio.create_task(asyncio.to_thread(listener.listen, "relight.status", "*.alert.*"))
            while not listening.done():
                await publisher.publish([OutMessage("relight.status", "s0.alert.m0", "n", "{}")])
            await listening
            assert listener.notifications
        finally:
            listener.close()
