"""The batch publisher and the tap against a real RabbitMQ: many at once, odd ones, and what no message may break."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

import aiormq
import pamqp.frame
import pytest
from aiormq import spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from service.adapters.rabbitmq import RabbitBroker, publish_event
from service.adapters.rabbitmq.frames import pack, read_content, read_deliver
from service.clock import SystemClock
from service.errors import Unavailable
from service.ports import Delivery, Lanes, OutMessage, Sent

SOON = 15.0


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[RabbitBroker]:
    async with RabbitBroker(amqp_url, clock=SystemClock()) as broker:
        await broker.declare(["metrics"], {"metrics": 0})
        yield broker


@pytest.fixture
async def stranger(amqp_url: str) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    async with aiormq.connect(amqp_url) as connection:
        yield await connection.channel()


async def collect(lanes: Lanes, number: int) -> list[Delivery]:
    got: list[Delivery] = []
    async with asyncio.timeout(SOON):
        while len(got) < number:
            await lanes.wait(1)
            got.extend(lanes.take(1000))
    return got


def numbered(number: int, key: str = "metrics.lifecycle.operational", exchange: str = "relight.status") -> OutMessage:
    return OutMessage(exchange, key, f"id-{number}", f"body {number}")


# --- out


async def test_nothing_is_published_on_a_new_connection_before_its_bindings_are_back(
    broker: RabbitBroker, stranger: aiormq.abc.AbstractChannel
) -> None:
    """Whatever a broker confirms that has lost them, as after a kill, would be missing in the status log."""
    async with broker.publisher() as publisher:
        await publisher.publish([numbered(0)])
        await stranger.queue_unbind("relight.status.log", "relight.status", "#")
        await broker._publishing.cut()
        async with asyncio.timeout(SOON):
            while True:
                with contextlib.suppress(Unavailable):
                    assert await publisher.publish([numbered(1), numbered(2)]) == (Sent.CONFIRMED, Sent.CONFIRMED)
                    break
                await asyncio.sleep(0.05)
    await stranger.basic_qos(prefetch_count=10)
    kept: list[str | None] = []
    found = asyncio.Event()

    async def receive(message: aiormq.abc.DeliveredMessage) -> None:
        kept.append(message.header.properties.message_id)
        if len(kept) == 3:
            found.set()

    await stranger.basic_consume("relight.status.log", receive, arguments={"x-stream-offset": "first"})
    async with asyncio.timeout(SOON):
        await found.wait()
    assert kept == ["id-0", "id-1", "id-2"]


async def test_five_hundred_at_once_arrive_in_order_each_with_its_properties(
    broker: RabbitBroker, stranger: aiormq.abc.AbstractChannel
) -> None:
    queue = (await stranger.queue_declare(exclusive=True)).queue or ""
    await stranger.queue_bind(queue, "relight.status", "#")
    received: list[aiormq.abc.DeliveredMessage] = []

    async def receive(message: aiormq.abc.DeliveredMessage) -> None:
        received.append(message)

    await stranger.basic_consume(queue, receive, no_ack=True)
    async with broker.publisher() as publisher:
        assert await publisher.publish([numbered(n) for n in range(500)]) == (Sent.CONFIRMED,) * 500
    async with asyncio.timeout(SOON):
        while len(received) < 500:
            await asyncio.sleep(0.01)
    assert [message.body for message in received] == [f"body {n}".encode() for n in range(500)]
    properties = received[7].header.properties
    assert properties.message_id == "id-7"
    assert properties.content_type == "application/cloudevents+json"
    assert (properties.delivery_mode, properties.app_id, properties.timestamp) == (2, "relight", None)


async def test_each_of_five_hundred_gets_its_own_verdict(
    broker: RabbitBroker, stranger: aiormq.abc.AbstractChannel
) -> None:
    """Confirmed, nacked and returned ones mixed, message ids shared across them."""
    full = await stranger.queue_declare(exclusive=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    await stranger.queue_bind(full.queue or "", "relight.status", "metrics.lifecycle.halted")
    nacked = OutMessage("relight.status", "metrics.lifecycle.halted", "same", "n")
    returned = OutMessage("relight.commands", "metrics.nobody.stop", "same", "r")
    confirmed = OutMessage("relight.status", "metrics.lifecycle.operational", "same", "c")
    kinds = {nacked: Sent.NACKED, returned: Sent.RETURNED, confirmed: Sent.CONFIRMED}
    messages = [(nacked, returned, confirmed)[(n * n + n // 7) % 3] for n in range(500)]
    assert set(messages) == set(kinds)
    async with broker.publisher() as publisher:
        verdicts = await publisher.publish(messages, mandatory=True)
    assert verdicts == tuple(kinds[message] for message in messages)


async def test_publishers_side_by_side_on_one_channel_each_get_their_own_verdicts(broker: RabbitBroker) -> None:
    async with broker.publisher() as publisher:
        lost = [numbered(n, "no.such.component", "relight.commands") for n in range(100)]
        kept = [numbered(n) for n in range(100)]
        results = await asyncio.gather(*(publisher.publish(kind, mandatory=True) for kind in (kept, lost, kept, lost)))
    assert [set(verdicts) for verdicts in results] == [{Sent.CONFIRMED}, {Sent.RETURNED}] * 2


async def test_batch_larger_than_the_window_is_sent_in_parts(broker: RabbitBroker) -> None:
    async with broker.publisher() as publisher:
        publisher._window = 100
        assert await publisher.publish([numbered(n) for n in range(950)]) == (Sent.CONFIRMED,) * 950


async def test_body_larger_than_a_frame_arrives_whole_and_an_empty_one_too(broker: RabbitBroker) -> None:
    large = "ä" * 200_000
    async with broker.publisher() as publisher, broker.lanes(0) as lanes:
        to_lane = [OutMessage("", "relight.intake.metrics.0", "1", text) for text in (large, "", large[:-1], "end")]
        assert await publisher.publish(to_lane) == (Sent.CONFIRMED,) * 4
        got = await collect(lanes, 4)
    assert [delivery.body.decode() for delivery in got] == [large, "", large[:-1], "end"]


async def test_publish_that_is_cancelled_leaves_the_next_one_right(broker: RabbitBroker) -> None:
    async with broker.publisher() as publisher:
        await publisher.publish([numbered(0)])
        going = asyncio.create_task(publisher.publish([numbered(n) for n in range(300)]))
        await asyncio.sleep(0)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        lost = numbered(1, "no.such.component", "relight.commands")
        assert await publisher.publish([numbered(1), lost], mandatory=True) == (Sent.CONFIRMED, Sent.RETURNED)


async def test_name_that_amqp_cannot_carry_is_refused_and_nothing_is_miscounted(broker: RabbitBroker) -> None:
    async with broker.publisher() as publisher:
        with pytest.raises(ValueError, match="255"):
            await publisher.publish([numbered(1), OutMessage("relight.status", "x", "i" * 300, "{}")])
        lost = numbered(1, "no.such.component", "relight.commands")
        assert await publisher.publish([lost, numbered(2)], mandatory=True) == (Sent.RETURNED, Sent.CONFIRMED)


async def test_expired_command_is_dropped_by_the_broker(
    broker: RabbitBroker, stranger: aiormq.abc.AbstractChannel
) -> None:
    queue = (await stranger.queue_declare(exclusive=True)).queue or ""
    await stranger.queue_bind(queue, "relight.commands", "#")
    async with broker.commands() as commands:
        assert await commands.send("metrics.c.pause", "1", '{"data": {"expires": "2020-01-01T00:00:00Z"}}')
        assert await commands.send("metrics.c.pause", "2", '{"data": {"expires": "2999-01-01T00:00:00Z"}}')
    left = await stranger.basic_get(queue, no_ack=True)
    assert left.header.properties.message_id == "2"
    assert isinstance((await stranger.basic_get(queue)).delivery, spec.Basic.GetEmpty)


# --- in: what no message may break


async def test_long_pause_gives_the_channels_back_and_resuming_opens_new_ones(
    broker: RabbitBroker, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the broker would close the channel every half hour and count each time against the messages."""
    monkeypatch.setattr("service.adapters.rabbitmq.lanes.LONG_PAUSE", 0.2)
    await publish_event(amqp_url, "metrics.restart.requested", b"held", "1")
    async with contextlib.AsyncExitStack() as opened:
        paused = await opened.enter_async_context(broker.lanes(0))
        (held,) = await collect(paused, 1)
        other = await opened.enter_async_context(broker.lanes(0))
        paused.pause()
        (given,) = await collect(other, 1)
        assert (given.body, given.redelivered) == (b"held", True)
        await paused.ack([held])
        paused.resume()
        await publish_event(amqp_url, "metrics.restart.requested", b"next", "2")
        assert [delivery.body for delivery in await collect(other, 1)] == [b"next"], "the late ack settled nothing"
        other.pause()
        assert [delivery.body for delivery in await collect(paused, 2)] == [b"held", b"next"]


async def publish_raw(channel: aiormq.abc.AbstractChannel, key: bytes, properties: bytes, body: bytes) -> None:
    """Publishes bytes that no client library would make."""
    method = struct.pack(">HHH", 60, 40, 0) + b"\x0erelight.events" + bytes([len(key)]) + key + b"\x00"
    header = struct.pack(">HHQ", 60, 0, len(body)) + properties
    frames = b"".join(
        struct.pack(">BHI", kind, channel.number, len(payload)) + payload + b"\xce"
        for kind, payload in ((1, method), (2, header), (3, body))
    )
    await channel.write_queue.put(aiormq.abc.ChannelFrame(frames, should_close=False))


async def test_message_that_breaks_the_client_library_reaches_intake_like_any_other(
    broker: RabbitBroker, amqp_url: str
) -> None:
    """A routing key, a content type and a timestamp on which pamqp raises; the ones behind must not suffer."""
    async with aiormq.connect(amqp_url) as connection, broker.lanes(0) as lanes:
        channel = await connection.channel(publisher_confirms=False)
        beyond_the_calendar = struct.pack(">H", 1 << 6) + b"\xff" * 8
        await publish_raw(channel, b"metrics.\xff\xfe", struct.pack(">H", 0), b"key")
        await publish_raw(channel, b"metrics.restart.requested", beyond_the_calendar, b"timestamp")
        await publish_raw(channel, b"metrics.restart.requested", struct.pack(">H", 1 << 15) + b"\x02\xff\xfe", b"type")
        await publish_raw(channel, b"metrics.restart.requested", struct.pack(">H", 0), b"good")
        got = {delivery.body: delivery for delivery in await collect(lanes, 4)}
        await lanes.ack(list(got.values()))
    assert set(got) == {b"key", b"timestamp", b"type", b"good"}
    assert got[b"key"].routing_key == "metrics.\\xff\\xfe"
    assert got[b"type"].content_type == "\\xff\\xfe"
    assert {delivery.channel for delivery in got.values()} == {got[b"good"].channel}, "the channel must have lived on"


@pytest.mark.parametrize("user", [None, "svc-deploy"])
@pytest.mark.parametrize("size", [0, 70_000])
def test_content_header_is_read_whatever_other_properties_stand_around_the_user(user: str | None, size: int) -> None:
    properties = spec.Basic.Properties(
        content_type="text/plain",
        content_encoding="gzip",
        headers={"a": [1, {"b": "c"}], "x": 5},
        delivery_mode=2,
        priority=3,
        correlation_id="corr",
        reply_to="r",
        expiration="60000",
        message_id="id",
        message_type="t",
        user_id=user,
        app_id="app",
    )
    content = read_content(ContentHeader(body_size=size, properties=properties).marshal())
    assert content == (size, "text/plain", user)


def test_packed_message_is_byte_for_byte_what_pamqp_would_send() -> None:
    body = b"x" * 100
    properties = spec.Basic.Properties(
        content_type="application/cloudevents+json",
        delivery_mode=2,
        expiration="1500",
        message_id="id",
        app_id="relight",
    )
    frames = [
        spec.Basic.Publish(exchange="relight.commands", routing_key="a.b.c", mandatory=True),
        ContentHeader(body_size=len(body), properties=properties),
        ContentBody(body[:92]),
        ContentBody(body[92:]),
    ]
    expected = b"".join(pamqp.frame.marshal(frame, 3) for frame in frames)
    packed = pack(3, 100, "relight.commands", "a.b.c", "id", body, mandatory=True, expiration=1500)
    assert b"".join(packed) == expected


def test_deliver_method_is_read_like_pamqp_reads_it() -> None:
    method = spec.Basic.Deliver("relight.unrouted", 2**40, True, "relight.events", "metrics.restart.requested")
    payload = pamqp.frame.marshal(method, 1)[7:-1]
    assert read_deliver(payload) == ("relight.unrouted", 2**40, True, "metrics.restart.requested")
