"""What the status log holds up to now, read to its end: against the broker in memory and a real RabbitMQ."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from service.errors import Unavailable
from tests.contract.test_broker import SOON, Bench, bench, transition, url

__all__ = ["bench", "url"]


async def told(bench: Bench, since: datetime | None = None) -> list[tuple[str, str]]:
    async with asyncio.timeout(SOON):
        return [(key, body.decode()) async for key, body in bench.broker.told(since)]


async def test_all_that_was_said_is_told_in_order_and_then_it_ends(bench: Bench) -> None:
    assert await told(bench) == []
    said = [transition(number) for number in range(1500)]
    async with bench.broker.publisher() as publisher:
        await publisher.publish(said)
        expected = [(one.routing_key, one.body) for one in said]
        assert await told(bench) == expected
        await publisher.publish([transition(1500)])
        assert await told(bench) == [*expected, (transition(1500).routing_key, transition(1500).body)]


async def test_looks_are_seen_by_no_subscriber(bench: Bench) -> None:
    async with bench.status.watching("#") as notifications, bench.broker.publisher() as publisher:
        await told(bench)
        await publisher.publish([transition(1)])
        async with asyncio.timeout(SOON):
            assert await anext(notifications) == (transition(1).routing_key, transition(1).body.encode())


async def test_since_a_moment_what_came_later_is_told(bench: Bench) -> None:
    async with bench.broker.publisher() as publisher:
        await publisher.publish([transition(1)])
        assert (await told(bench, datetime.now(UTC) - timedelta(minutes=1)))[-1][1] == transition(1).body
        assert await told(bench, datetime.now(UTC) + timedelta(minutes=1)) == []


async def test_many_who_look_at_once_each_come_to_their_end(bench: Bench) -> None:
    async with bench.broker.publisher() as publisher:
        await publisher.publish([transition(1)])
        async with asyncio.timeout(SOON):
            found = await asyncio.gather(*(told(bench) for _ in range(4)))
    for one in found:
        assert one[0] == (transition(1).routing_key, transition(1).body)


async def test_look_that_is_cut_off_says_so(bench: Bench) -> None:
    async with bench.broker.publisher() as publisher:
        await publisher.publish([transition(number) for number in range(3000)])
        with pytest.raises(Unavailable):
            await cut_in_the_middle(bench)


async def cut_in_the_middle(bench: Bench) -> None:
    async with asyncio.timeout(30):
        async for _ in bench.broker.told(None):
            await bench.cut()
            if hasattr(bench.broker, "away"):
                bench.broker.away = True
