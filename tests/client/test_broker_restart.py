"""A broker that is killed and started again under the client: all three parts go on by themselves."""

import asyncio
import contextlib

import aio_pika
import pytest

from relight_client import Answer, Command, Event, Relight
from service.embedded import RabbitServer
from tests.client.desk import SOON, Desk, at_desk, places, take
from tests.servers import unique

pytestmark = pytest.mark.slow


async def test_publishing_following_and_taking_part_survive_a_killed_broker(rabbit_server: RabbitServer) -> None:
    told: list[str] = []

    async def flush(command: Command) -> Answer:
        told.append(command.commandid)
        return Answer("flushed")

    url = await rabbit_server.add_vhost(unique("test"))
    async with at_desk(url):
        relight = Relight(url)
    async with relight.subscribe("metrics.#") as said:
        taking_part = asyncio.create_task(relight.participate("metrics", "calculator", {"flush": flush}))
        async with at_desk(url) as desk:
            await desk.transition(1)
            assert places(await take(said, 1)) == [(1, 1)]
            assert (await desk.asked("flush", "c1"))["outcome"] == "done"
        await rabbit_server.kill()
        event = Event("restart.requested", "metrics", {"reason": "sent while it was away"})
        publishing = asyncio.create_task(relight.publish(event, within=60))
        await asyncio.sleep(1)
        await rabbit_server.start()
        await publishing
        async with at_desk(url, declared=True) as desk:
            await _goes_on(desk)
            assert places(await take(said, 1)) == [(1, 2)]
        taking_part.cancel()
    await relight.close()
    assert told == ["c1", "c2"]


async def _goes_on(desk: Desk) -> None:
    answer = await desk.asked("flush", "c1", token=50)
    assert (answer["outcome"], answer["detail"]) == ("done", "flushed")
    desk.token = 50
    assert (await desk.asked("flush", "c2"))["outcome"] == "done"
    # Relight's outbox sends again what the broker could not place yet.
    async with asyncio.timeout(SOON):
        while True:
            with contextlib.suppress(aio_pika.exceptions.DeliveryError):
                await desk.transition(2)
                return
            await asyncio.sleep(0.2)
