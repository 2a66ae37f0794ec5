"""RabbitMQ killed, stopped, blocked and restarted under a running broker: said once, survived, gone on by itself.

These stories have a server of their own, so that nobody else's connections die with theirs.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest

from service.adapters.rabbitmq import RabbitBroker, RabbitStatusReader, publish_event
from service.clock import SystemClock
from service.embedded import RabbitServer
from service.errors import Unavailable
from service.ports import Delivery, Lanes, OutMessage, Publisher, Sent
from tests.integration.proxy import Mode, proxied
from tests.servers import unique

SOON = 30.0
"""Seconds for a server to come back and be noticed."""

pytestmark = pytest.mark.slow


class Told:
    """What the broker told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def __call__(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    def about(self, connection: str) -> list[str]:
        return [event for event, fields in self.events if fields.get("connection") == connection]

    async def until(self, event: str, connection: str) -> None:
        async with asyncio.timeout(SOON):
            while event not in self.about(connection):
                await asyncio.sleep(0.05)


@pytest.fixture
async def own_url(rabbit_server: RabbitServer) -> AsyncIterator[str]:
    name = unique("test")
    yield await rabbit_server.add_vhost(name)
    await rabbit_server.delete_vhost(name)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def broker(own_url: str, told: Told) -> AsyncIterator[RabbitBroker]:
    async with RabbitBroker(own_url, clock=SystemClock(), on_event=told) as broker:
        await broker.declare(["metrics"], {"metrics": 0})
        yield broker


def numbered(number: int, body: str = "{}") -> OutMessage:
    return OutMessage("relight.status", "metrics.lifecycle.operational", f"id-{number}", body)


async def insist(publisher: Publisher, messages: list[OutMessage]) -> tuple[Sent, ...]:
    async with asyncio.timeout(SOON):
        while True:
            with contextlib.suppress(Unavailable):
                return await publisher.publish(messages)
            await asyncio.sleep(0.1)


async def collect(lanes: Lanes, number: int) -> list[Delivery]:
    got: list[Delivery] = []
    async with asyncio.timeout(SOON):
        while len(got) < number:
            await lanes.wait(1)
            got.extend(lanes.take(1000))
    return got


async def test_broker_killed_in_mid_batch_is_told_once_and_everything_goes_on_after_its_restart(
    broker: RabbitBroker, rabbit_server: RabbitServer, own_url: str, told: Told
) -> None:
    reader = RabbitStatusReader(own_url, clock=SystemClock(), on_event=told)
    async with broker.publisher() as publisher, broker.lanes(0) as lanes, reader.watching("metrics.#") as live:
        await publish_event(own_url, "metrics.restart.requested", b"unacknowledged", "1")
        (before,) = await collect(lanes, 1)
        assert await publisher.publish([numbered(0, "before")]) == (Sent.CONFIRMED,)
        assert (await asyncio.wait_for(anext(live), SOON))[1] == b"before"

        async def publish_until_cut() -> int:
            for count in range(100_000):
                try:
                    await publisher.publish([numbered(n, f"batch {count}") for n in range(500)])
                except Unavailable:
                    return count
            raise AssertionError("the broker survived")

        publishing = asyncio.create_task(publish_until_cut())
        await asyncio.sleep(1)
        await rabbit_server.kill()
        confirmed = await asyncio.wait_for(publishing, SOON)
        await told.until("broker.away", "consuming")
        with pytest.raises(Unavailable):
            await publisher.publish([numbered(1)])
        await asyncio.sleep(1)
        assert dict(broker.available()) == {"consuming": False, "publishing": False}

        await rabbit_server.start()
        assert await insist(publisher, [numbered(2, "after")]) == (Sent.CONFIRMED,)
        (again,) = await collect(lanes, 1)
        assert (again.body, again.redelivered) == (b"unacknowledged", True)
        await lanes.ack([before])
        await lanes.ack([again])

        seen: dict[bytes, int] = {}
        async with asyncio.timeout(SOON):
            while b"after" not in seen:
                _, body = await anext(live)
                seen[body] = seen.get(body, 0) + 1
        for count in range(confirmed):
            assert seen[f"batch {count}".encode()] >= 1, "a confirmed notification must reach a watcher after all"

    assert told.about("consuming") == ["broker.away", "broker.back"]
    assert told.about("publishing") == ["broker.away", "broker.back"]
    async with broker.lanes(0) as lanes:
        await lanes.wait(0.5)
        assert lanes.take(1) == ()


async def test_broker_that_is_away_at_start_is_waited_for(
    rabbit_server: RabbitServer, own_url: str, told: Told
) -> None:
    await rabbit_server.stop()
    async with RabbitBroker(own_url, clock=SystemClock(), on_event=told) as broker, broker.publisher() as publisher:
        await told.until("broker.away", "consuming")
        with pytest.raises(Unavailable):
            await publisher.publish([numbered(1)])
        with pytest.raises(Unavailable):
            await publish_event(own_url, "metrics.restart.requested", b"{}", "1", timeout=2)
        async with broker.lanes(0) as lanes:
            await lanes.wait(0.1)
            assert lanes.take(1) == ()
            await rabbit_server.start()
            await told.until("broker.back", "consuming")
            await broker.declare(["metrics"], {"metrics": 0})
            await publish_event(own_url, "metrics.restart.requested", b"hello", "1")
            assert [delivery.body for delivery in await collect(lanes, 1)] == [b"hello"]
        assert await insist(publisher, [numbered(2)]) == (Sent.CONFIRMED,)
    assert told.about("consuming") == ["broker.away", "broker.back"]


@pytest.mark.parametrize("word", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(64)])
async def test_listener_that_hangs_up_or_is_no_broker_is_waited_out(own_url: str, told: Told, word: bytes) -> None:
    """A balancer before a broker that is not up yet takes connections and ends them."""
    async with proxied(own_url) as (proxy, url):
        proxy.refuse(word)
        async with RabbitBroker(url, clock=SystemClock(), on_event=told) as broker:
            await told.until("broker.away", "consuming")
            await told.until("broker.away", "publishing")
            await asyncio.sleep(1)
            assert dict(broker.available()) == {"consuming": False, "publishing": False}
            proxy.mode = Mode.PASS
            await told.until("broker.back", "consuming")
            await told.until("broker.back", "publishing")
    assert told.about("consuming") == ["broker.away", "broker.back"]


async def test_connections_closed_by_an_operator_are_made_again(
    broker: RabbitBroker, rabbit_server: RabbitServer, own_url: str, told: Told
) -> None:
    async with broker.lanes(0) as lanes, broker.publisher() as publisher:
        await publisher.publish([numbered(1)])
        await rabbit_server.ctl("close_all_connections", "--global", "drill")
        await told.until("broker.back", "consuming")
        await told.until("broker.back", "publishing")
        await publish_event(own_url, "metrics.metric.observed", b"m", "1")
        assert [delivery.body for delivery in await collect(lanes, 1)] == [b"m"]
        assert await insist(publisher, [numbered(2)]) == (Sent.CONFIRMED,)
    away = [fields for event, fields in told.events if event == "broker.away"]
    assert all("drill" in str(fields["why"]) for fields in away)


async def test_lanes_of_a_frozen_broker_end_before_a_lease_would_and_another_takes_over(
    broker: RabbitBroker, rabbit_server: RabbitServer, own_url: str
) -> None:
    """An owner that cannot reach anybody must be gone in time; its messages go to the next one."""
    frozen: list[int] = []
    try:
        async with broker.lanes(0) as lanes:
            await publish_event(own_url, "metrics.restart.requested", b"held", "1")
            await collect(lanes, 1)
            frozen = rabbit_server.pids
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
        took = time.monotonic() - began
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert took < 6, "longer than a lease of ten seconds leaves room for"
    async with broker.lanes(0) as lanes:
        (again,) = await collect(lanes, 1)
    assert (again.body, again.redelivered) == (b"held", True)


async def test_memory_alarm_blocks_the_publisher_until_it_ends_and_never_the_lanes(
    broker: RabbitBroker, rabbit_server: RabbitServer, own_url: str, told: Told
) -> None:
    async with broker.publisher() as publisher, broker.lanes(0) as lanes:
        await publish_event(own_url, "metrics.metric.observed", b"m", "1")
        # The broker is entered once it can consume; publishing has a connection of its own, which may come later.
        await insist(publisher, [numbered(1)])
        await rabbit_server.ctl("set_vm_memory_high_watermark", "0.00001")
        try:
            await asyncio.sleep(0.5)
            waiting = asyncio.create_task(publisher.publish([numbered(n) for n in range(500)]))
            await told.until("broker.blocked", "publishing")
            assert not waiting.done()
            (event,) = await collect(lanes, 1)
            await lanes.ack([event])
            second = asyncio.create_task(publisher.publish([numbered(9)]))
            await asyncio.sleep(1.5)
            assert not waiting.done()
            assert not second.done()
        finally:
            await rabbit_server.ctl("set_vm_memory_high_watermark", "0.6")
        assert await asyncio.wait_for(waiting, SOON) == (Sent.CONFIRMED,) * 500
        assert await asyncio.wait_for(second, SOON) == (Sent.CONFIRMED,)
    assert told.about("publishing") == ["broker.blocked", "broker.unblocked"]
    assert told.about("consuming") == []
