"""What every broker behind the ports must do, told against the one in memory and against a real RabbitMQ."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiormq
import pytest
from aiormq import spec

from schemas.events import Lane
from service.adapters.memory.broker import MemoryBroker
from service.adapters.rabbitmq import RabbitBroker, RabbitStatusReader
from service.clock import SystemClock
from service.errors import Unavailable
from service.ports import Delivery, Lanes, OutMessage, Publisher, Sent
from service.simulation import virtual
from service.simulation.virtual import VirtualClock

SOON = 10.0
"""Seconds for something that must happen; a busy machine takes a few."""
NEVER = 0.3
"""Seconds without something that must not happen."""


class Bench(Protocol):
    """A broker under test and what strangers do to it."""

    broker: Any
    status: Any
    user: str

    async def tell(self, routing_key: str, body: str = "{}") -> None:
        """Publishes to relight.events as `user`."""
        ...

    async def participant(self, binding: str) -> list[str]:
        """Binds a participant; the bodies it receives."""
        ...

    async def fill(self) -> None:
        """Binds a full queue to the status exchange."""
        ...

    async def cut(self) -> None:
        """Loses every connection."""
        ...


@dataclass
class InMemory:
    broker: MemoryBroker
    user: str = "tester"

    @property
    def status(self) -> MemoryBroker:
        return self.broker

    async def tell(self, routing_key: str, body: str = "{}") -> None:
        self.broker.put(routing_key, body.encode(), user=self.user)

    async def participant(self, binding: str) -> list[str]:
        received: list[str] = []
        self.broker.participant(binding, lambda _, body: received.append(body))
        return received

    async def fill(self) -> None:
        self.broker.full.add("relight.status")

    async def cut(self) -> None:
        self.broker.cut()


@dataclass
class OnRabbit:
    broker: RabbitBroker
    url: str
    stranger: aiormq.abc.AbstractChannel
    ids: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def user(self) -> str:
        return urlsplit(self.url).username or ""

    @property
    def status(self) -> RabbitStatusReader:
        return RabbitStatusReader(self.url, clock=SystemClock())

    async def tell(self, routing_key: str, body: str = "{}") -> None:
        properties = spec.Basic.Properties(user_id=self.user, content_type="application/cloudevents+json")
        await self.stranger.basic_publish(
            body.encode(), exchange="relight.events", routing_key=routing_key, properties=properties
        )

    async def participant(self, binding: str) -> list[str]:
        received: list[str] = []
        queue = (await self.stranger.queue_declare(exclusive=True)).queue or ""
        await self.stranger.queue_bind(queue, "relight.commands", binding)

        async def receive(message: aiormq.abc.DeliveredMessage) -> None:
            received.append(message.body.decode())

        await self.stranger.basic_consume(queue, receive, no_ack=True)
        return received

    async def fill(self) -> None:
        full = {"x-max-length": 0, "x-overflow": "reject-publish"}
        queue = (await self.stranger.queue_declare(exclusive=True, arguments=full)).queue or ""  # type: ignore[arg-type]
        await self.stranger.queue_bind(queue, "relight.status", "#")

    async def cut(self) -> None:
        await asyncio.gather(self.broker._consuming.cut(), self.broker._publishing.cut())


@pytest.fixture(params=["memory", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where the real one is; None for the one in memory. Not async itself, so that it may ask for an async fixture."""
    found: str | None = request.getfixturevalue("amqp_url") if request.param == "rabbitmq" else None
    return found


@pytest.fixture
async def bench(url: str | None) -> AsyncIterator[Bench]:
    if url is None:
        memory = InMemory(MemoryBroker(SystemClock(), prefetch=50))
        await memory.broker.declare(["metrics", "trading"], {"metrics": 0, "trading": 1})
        yield memory
        return
    broker = RabbitBroker(url, clock=SystemClock(), prefetch=50)
    await broker.start()
    await broker.declare(["metrics", "trading"], {"metrics": 0, "trading": 1})
    stranger = await aiormq.connect(url)
    yield OnRabbit(broker, url, await stranger.channel())
    await stranger.close()
    await broker.stop()


async def collect(lanes: Lanes, number: int, limit: int = 1000) -> list[Delivery]:
    """The next `number` deliveries."""
    got: list[Delivery] = []
    async with asyncio.timeout(SOON):
        while len(got) < number:
            await lanes.wait(1)
            got.extend(lanes.take(limit))
    return got


async def nothing_comes(lanes: Lanes) -> bool:
    await lanes.wait(NEVER)
    return lanes.take(10) == ()


async def insist(publisher: Publisher, messages: list[OutMessage]) -> tuple[Sent, ...]:
    """Publishes again until the broker is back, as the outbox does."""
    async with asyncio.timeout(SOON):
        while True:
            with contextlib.suppress(Unavailable):
                return await publisher.publish(messages)
            await asyncio.sleep(0.05)


def bodies(deliveries: list[Delivery]) -> list[str]:
    return [delivery.body.decode() for delivery in deliveries]


def transition(number: int, key: str = "metrics.lifecycle.operational") -> OutMessage:
    return OutMessage("relight.status", key, f"id-{number}", f'{{"n": {number}}}')


# --- events in


async def test_known_event_arrives_in_its_lane_with_the_user_the_broker_verified(bench: Bench) -> None:
    async with bench.broker.lanes(0) as lanes:
        await bench.tell("metrics.restart.requested", '{"a": 1}')
        (event,) = await collect(lanes, 1)
    assert event.lane is Lane.CONTROL
    assert (event.queue, event.routing_key) == ("relight.intake.control.0", "metrics.restart.requested")
    assert (event.body, event.user, event.redelivered) == (b'{"a": 1}', bench.user, False)
    assert event.content_type == "application/cloudevents+json"


async def test_who_listens_knows_when_both_lanes_consume(bench: Bench) -> None:
    await bench.tell("metrics.restart.requested", "{}")
    async with bench.broker.lanes(0) as lanes:
        await lanes.opened(SOON)
        async with asyncio.timeout(SOON):
            while not lanes.waiting():
                # Nobody asked for a delivery: it is sent because the lane consumes.
                await asyncio.sleep(0.01)


async def test_each_shard_hears_its_own_systems_only(bench: Bench) -> None:
    async with bench.broker.lanes(0) as first, bench.broker.lanes(1) as second:
        await bench.tell("trading.metric.observed")
        (event,) = await collect(second, 1)
        assert (event.lane, event.queue) == (Lane.METRICS, "relight.intake.metrics.1")
        assert await nothing_comes(first)


@pytest.mark.parametrize("key", ["nobody.restart.requested", "metrics.no.such.type", "metrics.timer.fired", "x"])
async def test_unknown_system_unknown_type_and_engine_raised_type_are_heard_by_shard_0(bench: Bench, key: str) -> None:
    async with bench.broker.lanes(1) as other, bench.broker.lanes(0) as lanes:
        await bench.tell(key)
        (event,) = await collect(lanes, 1)
        assert (event.lane, event.queue, event.routing_key) == (Lane.CONTROL, "relight.unrouted", key)
        await lanes.ack([event])
        assert await nothing_comes(other)


async def test_control_overtakes_metrics_and_the_limit_cuts_a_prefix(bench: Bench) -> None:
    for number in range(6):
        await bench.tell("metrics.metric.observed", f"m{number}")
    await bench.tell("metrics.restart.cancelled", "cancel")
    async with bench.broker.lanes(0) as lanes:
        async with asyncio.timeout(SOON):
            while len(arrived(lanes)) < 7:
                await asyncio.sleep(0.01)
        assert bodies(list(lanes.take(3))) == ["cancel", "m0", "m1"]
        assert bodies(list(lanes.take(3))) == ["m2", "m3", "m4"]


def arrived(lanes: Lanes) -> list[Delivery]:
    """What is in the buffers, without taking it."""
    return [delivery for lane in lanes._lanes for delivery in lane.buffer]  # type: ignore[attr-defined]


async def test_unacknowledged_events_come_again_marked_and_in_order_once_the_lanes_end(bench: Bench) -> None:
    for number in range(5):
        await bench.tell("metrics.metric.observed", f"m{number}")
    async with bench.broker.lanes(0) as lanes:
        taken = await collect(lanes, 5)
        await lanes.ack(taken[:2])
    async with bench.broker.lanes(0) as lanes:
        again = await collect(lanes, 3)
    assert bodies(again) == ["m2", "m3", "m4"]
    assert all(event.redelivered for event in again)
    assert not any(event.redelivered for event in taken)


async def test_one_ack_of_a_batch_settles_both_lanes_and_every_queue(bench: Bench) -> None:
    for key in ("metrics.metric.observed", "metrics.restart.requested", "nobody.knows.it", "metrics.metric.observed"):
        await bench.tell(key)
    async with bench.broker.lanes(0) as lanes:
        await lanes.ack(await collect(lanes, 4))
    async with bench.broker.lanes(0) as lanes:
        assert await nothing_comes(lanes)


async def test_ack_on_a_lost_channel_is_passed_over_and_the_event_comes_again(bench: Bench) -> None:
    await bench.tell("metrics.restart.requested", "before")
    async with bench.broker.lanes(0) as lanes:
        first = await collect(lanes, 1)
        await bench.cut()
        (again,) = await collect(lanes, 1)
        assert (again.body, again.redelivered) == (b"before", True)
        assert again.channel != first[0].channel
        await lanes.ack(first)
        await bench.tell("metrics.restart.requested", "after")
        await collect(lanes, 1)
    async with bench.broker.lanes(0) as lanes:
        # The late ack must not have settled anything on the new channel, whose tags begin at 1 again.
        assert bodies(await collect(lanes, 2)) == ["before", "after"]


async def test_buffered_events_of_a_lost_channel_are_thrown_away_not_handed_out_twice(bench: Bench) -> None:
    for number in range(3):
        await bench.tell("metrics.metric.observed", f"m{number}")
    async with bench.broker.lanes(0) as lanes:
        await lanes.wait(SOON)
        await bench.cut()
        # Nobody may have noticed yet: nothing that died with the channel may be counted on.
        counted, got = lanes.waiting(), list(lanes.take(1000))
        assert len(got) == counted
        got += await collect(lanes, 3 - len(got))
        assert bodies(got) == ["m0", "m1", "m2"]
        assert await nothing_comes(lanes)


async def test_second_owner_is_served_when_the_first_has_closed_its_channels(bench: Bench) -> None:
    async with bench.broker.lanes(0) as first:
        await bench.tell("metrics.metric.observed", "m0")
        taken = await collect(first, 1)
        async with bench.broker.lanes(0) as second:
            await bench.tell("metrics.metric.observed", "m1")
            assert bodies(await collect(first, 1)) == ["m1"]
            assert await nothing_comes(second)
            await first.ack(taken)
    async with bench.broker.lanes(0) as third:
        assert bodies(await collect(third, 1)) == ["m1"]


async def test_paused_lanes_hand_out_nothing_and_lose_nothing(bench: Bench) -> None:
    async with bench.broker.lanes(0) as lanes:
        lanes.pause()
        await bench.tell("metrics.restart.requested", "held")
        assert await nothing_comes(lanes)
        lanes.resume()
        assert bodies(await collect(lanes, 1)) == ["held"]


async def test_lanes_count_what_they_could_give_and_nothing_while_they_pause(bench: Bench) -> None:
    async with bench.broker.lanes(0) as lanes:
        assert lanes.waiting() == 0
        for key in ("metrics.metric.observed", "metrics.restart.requested", "metrics.metric.observed"):
            await bench.tell(key)
        async with asyncio.timeout(SOON):
            while lanes.waiting() < 3:
                await asyncio.sleep(0.01)
        lanes.pause()
        assert lanes.waiting() == 0
        lanes.resume()
        assert lanes.waiting() == 3
        lanes.take(2)
        assert lanes.waiting() == 1


async def test_no_more_than_the_prefetch_is_held_without_an_ack(bench: Bench) -> None:
    for number in range(60):
        await bench.tell("metrics.metric.observed", f"m{number}")
    async with bench.broker.lanes(0) as lanes:
        held = await collect(lanes, 50)
        assert await nothing_comes(lanes)
        await lanes.ack(held)
        assert bodies(await collect(lanes, 10)) == [f"m{number}" for number in range(50, 60)]


async def test_system_that_moves_to_another_shard_is_heard_there_only(bench: Bench) -> None:
    await bench.broker.declare(["metrics", "trading"], {"metrics": 1, "trading": 0})
    async with bench.broker.lanes(0) as old, bench.broker.lanes(1) as new:
        await bench.tell("metrics.restart.requested")
        (event,) = await collect(new, 1)
        assert event.queue == "relight.intake.control.1"
        assert await nothing_comes(old)


async def test_waiting_ends_at_its_timeout_when_nothing_comes(bench: Bench) -> None:
    async with bench.broker.lanes(0) as lanes:
        before = asyncio.get_running_loop().time()
        await lanes.wait(0.2)
        assert 0.15 < asyncio.get_running_loop().time() - before < SOON


# --- notifications out


async def test_notifications_are_confirmed_watched_live_and_replayed_in_order(bench: Bench) -> None:
    async with bench.broker.publisher() as publisher, bench.status.watching("metrics.#") as live:
        sent = [transition(n) for n in range(20)]
        stranger = transition(99, "trading.lifecycle.operational")
        assert await publisher.publish([*sent, stranger]) == (Sent.CONFIRMED,) * 21
        seen = [await asyncio.wait_for(anext(live), SOON) for _ in sent]
    expected = [(message.routing_key, message.body.encode()) for message in sent]
    assert seen == expected
    replayed = [notification async for notification in bench.status.replay("first")]
    assert replayed == [*expected, (stranger.routing_key, stranger.body.encode())]


async def test_strangers_full_queue_nacks_and_the_status_log_still_takes_it_directly(bench: Bench) -> None:
    await bench.fill()
    async with bench.broker.publisher() as publisher:
        assert await publisher.publish([transition(1), transition(2)]) == (Sent.NACKED, Sent.NACKED)
        direct = OutMessage("", "relight.status.log", "id-1", "direct")
        assert await publisher.publish([direct]) == (Sent.CONFIRMED,)
    assert b"direct" in [body async for _, body in bench.status.replay()]


async def test_only_the_unroutable_of_a_batch_are_returned_even_with_one_message_id(bench: Bench) -> None:
    heard = await bench.participant("metrics.calculator.*")
    lost = OutMessage("relight.commands", "metrics.nobody.pause", "same", "lost")
    found = OutMessage("relight.commands", "metrics.calculator.pause", "same", "found")
    async with bench.broker.publisher() as publisher:
        verdicts = await publisher.publish([lost, found, lost, lost, found, transition(1)], mandatory=True)
        assert verdicts == (Sent.RETURNED, Sent.CONFIRMED, Sent.RETURNED, Sent.RETURNED, Sent.CONFIRMED, Sent.CONFIRMED)
        assert await publisher.publish([lost]) == (Sent.CONFIRMED,), "without mandatory an unroutable one is confirmed"
    async with asyncio.timeout(SOON):
        while len(heard) < 2:
            await asyncio.sleep(0.01)
    assert heard == ["found", "found"]


async def test_operation_finds_the_queue_of_a_system_with_a_gate_and_comes_back_from_all_others(bench: Bench) -> None:
    await bench.broker.declare(["metrics", "trading"], {"metrics": 0, "trading": 1}, ["metrics"])
    operations = [
        OutMessage("relight.operations", f"{name}.orders.submit", "1", "{}") for name in ("metrics", "trading")
    ]
    straight = OutMessage("", "relight.operations.metrics", "1", "{}")
    async with bench.broker.publisher() as publisher:
        verdicts = await publisher.publish([*operations, straight], mandatory=True)
    assert verdicts == (Sent.CONFIRMED, Sent.RETURNED, Sent.CONFIRMED)


async def test_publisher_goes_on_after_its_connection_was_lost(bench: Bench) -> None:
    async with bench.broker.publisher() as publisher:
        await publisher.publish([transition(1)])
        await bench.cut()
        assert await insist(publisher, [transition(2)]) == (Sent.CONFIRMED,)


async def test_empty_batch_asks_nothing_of_the_broker(bench: Bench) -> None:
    async with bench.broker.publisher() as publisher:
        assert await publisher.publish([]) == ()


# --- commands


async def test_command_says_whether_a_participant_is_bound(bench: Bench) -> None:
    async with bench.broker.commands() as commands:
        assert await commands.send("metrics.calculator.pause", "c1", '{"data": {}}') is False
        heard = await bench.participant("metrics.calculator.#")
        assert await commands.send("metrics.calculator.pause", "c1", '{"data": {}}') is True
    async with asyncio.timeout(SOON):
        while not heard:
            await asyncio.sleep(0.01)
    assert heard == ['{"data": {}}']


async def test_both_connections_are_reported_available(bench: Bench) -> None:
    async with bench.broker.publisher() as publisher:
        await publisher.publish([transition(1)])
    assert dict(bench.broker.available()) == {"consuming": True, "publishing": True}


# --- what only the broker in memory can do, for simulations: in virtual time, the same way every time


def late(routing_key: str) -> float:
    return 3600.0 if "metric" in routing_key.split(".")[1] else 0.0


def test_late_events_arrive_when_they_are_due_and_not_before() -> None:
    async def story() -> None:
        clock = VirtualClock()
        broker = MemoryBroker(clock)
        await broker.declare(["metrics"], {"metrics": 0})
        broker.delay = late
        async with broker.lanes(0) as lanes:
            broker.put("metrics.metric.observed", b"late")
            broker.put("metrics.restart.requested", b"now")
            await lanes.wait(10)
            assert bodies(list(lanes.take(10))) == ["now"]
            await lanes.wait(1800)
            assert (clock.monotonic(), lanes.take(10)) == (1800.0, ())
            await lanes.wait(86_400)
            assert (clock.monotonic(), bodies(list(lanes.take(10)))) == (3600.0, ["late"])

    virtual.run(story())


def test_doubled_and_shuffled_events_are_the_same_for_the_same_seed() -> None:
    async def story(seed: int) -> list[str]:
        broker = MemoryBroker(VirtualClock())
        await broker.declare(["metrics"], {"metrics": 0})
        for number in range(8):
            broker.put("metrics.metric.observed", f"m{number}".encode())
        assert broker.duplicate("relight.intake.metrics.0")
        broker.shuffle("relight.intake.metrics.0", random.Random(seed).shuffle)
        async with broker.lanes(0) as lanes:
            return bodies(list(lanes.take(100)))

    first = virtual.run(story(1))
    assert sorted(first) == sorted([*(f"m{number}" for number in range(8)), "m0"])
    assert first == virtual.run(story(1))
    assert first != virtual.run(story(2))


def test_connection_cut_in_mid_batch_leaves_a_part_published_and_the_publisher_uncertain() -> None:
    async def story() -> None:
        broker = MemoryBroker(VirtualClock())
        async with broker.publisher() as publisher:
            broker.cut_publish_after = 2
            with pytest.raises(Unavailable):
                await publisher.publish([transition(n) for n in range(5)])
            assert [logged.body for logged in broker.log] == [b'{"n": 0}', b'{"n": 1}']
            assert await publisher.publish([transition(n) for n in range(5)]) == (Sent.CONFIRMED,) * 5
        assert len(broker.log) == 7

    virtual.run(story())


def test_broker_that_is_away_answers_nobody_and_keeps_everything() -> None:
    async def story() -> None:
        broker = MemoryBroker(VirtualClock())
        await broker.declare(["metrics"], {"metrics": 0})
        async with broker.lanes(0) as lanes, broker.publisher() as publisher, broker.commands() as commands:
            broker.put("metrics.restart.requested", b"held")
            assert bodies(list(lanes.take(1))) == ["held"]
            broker.away = True
            assert dict(broker.available()) == {"consuming": False, "publishing": False}
            await lanes.wait(5)
            assert lanes.take(1) == ()
            with pytest.raises(Unavailable):
                await publisher.publish([transition(1)])
            with pytest.raises(Unavailable):
                await commands.send("metrics.calculator.pause", "c", "{}")
            broker.away = False
            (again,) = lanes.take(1)
            assert (again.body, again.redelivered) == (b"held", True)

    virtual.run(story())
