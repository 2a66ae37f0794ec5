"""Following the status topic with the client: live, from the stream, and without gaps whatever is cut meanwhile."""

import asyncio

import aio_pika
import pytest

from relight_client import Away, Forbidden, Relight
from relight_client import following as knobs
from service.embedded import RabbitServer
from service.embedded.ports import free_port
from tests.client.desk import SOON, Desk, places, stranger, take
from tests.integration.proxy import Mode, proxied


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay of so few has caught up sooner."""
    monkeypatch.setattr(knobs, "AGAIN_AFTER", 0.2)


async def test_what_is_said_after_the_beginning_is_heard(desk: Desk) -> None:
    await desk.transition(1)
    async with Relight(desk.url).subscribe("metrics.lifecycle.#") as said:
        await desk.say("other.lifecycle.operational", "x", {})
        await desk.transition(2)
        (found,) = await take(said, 1)
    assert (found.instance, found.status, found.system) == ("lifecycle/metrics", "Up", "metrics")
    assert found.place == ("lifecycle/metrics", 1, 2)


async def test_repetitions_are_dropped(desk: Desk) -> None:
    async with Relight(desk.url).subscribe("metrics.#") as said:
        for seq in (1, 2, 2, 1, 3):
            await desk.transition(seq)
        assert places(await take(said, 3)) == [(1, 1), (1, 2), (1, 3)]


async def test_cut_connection_costs_nothing_and_repeats_nothing(desk: Desk) -> None:
    async with proxied(desk.url) as (proxy, url), Relight(url).subscribe("metrics.#") as said:
        await desk.transition(1)
        await desk.transition(2)
        assert places(await take(said, 2)) == [(1, 1), (1, 2)]
        # Bytes stand still, so that the broker hears nothing of the cut before it happens.
        proxy.mode = Mode.HANG
        for seq in (3, 4, 5):
            await desk.transition(seq)
        await desk.say("metrics.lifecycle._step", "step-1", {"instance": "lifecycle/metrics", "entry": 3})
        proxy.cut()
        proxy.mode = Mode.PASS
        missed = await take(said, 4)
        assert places(missed) == [(1, 3), (1, 4), (1, 5)]
        assert missed[3].id == "step-1"
        await desk.transition(6)
        assert places(await take(said, 1)) == [(1, 6)]


async def test_every_cut_of_many_is_survived_in_order(desk: Desk) -> None:
    async with proxied(desk.url) as (proxy, url), Relight(url).subscribe("#") as said:

        async def speak() -> None:
            for seq in range(1, 121):
                await desk.transition(seq)
                if seq % 30 == 0:
                    proxy.cut()
                await asyncio.sleep(0.01)

        speaking = asyncio.create_task(speak())
        async with asyncio.timeout(2 * SOON):
            found = [await anext(said) for _ in range(120)]
        await speaking
    assert places(found) == [(1, seq) for seq in range(1, 121)]


async def test_what_only_the_stream_got_is_fetched_from_it(desk: Desk) -> None:
    async with Relight(desk.url).subscribe("#") as said:
        await desk.transition(1)
        # A stranger's full queue made the exchange refuse it: the stream alone has it, under its own name.
        await desk.transition(2, stream_only=True)
        await desk.transition(3)
        assert places(await take(said, 3)) == [(1, 1), (1, 2), (1, 3)]


async def test_what_even_the_stream_has_not_is_named_and_waited_for_no_longer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(knobs, "QUIET", 0.5)
    async with Relight(desk.url).subscribe("metrics.#") as said:
        for seq in (1, 4, 5):
            await desk.transition(seq)
        assert places(await take(said, 3)) == [(1, 1), (1, 4), (1, 5)]
    assert "lifecycle/metrics: 2 to 3 of epoch 1" in caplog.text


async def test_part_of_an_instance_has_no_gaps(desk: Desk) -> None:
    async with Relight(desk.url).subscribe("*.lifecycle.operational") as said:
        for seq in (4, 9):
            await desk.transition(seq)
        await desk.transition(9)
        await desk.transition(11)
        async with asyncio.timeout(1.5):  # nothing is looked for in the stream
            assert places(await take(said, 3)) == [(1, 4), (1, 9), (1, 11)]


async def test_late_subscriber_begins_in_the_stream_and_goes_on_live(desk: Desk) -> None:
    for seq in (1, 2, 3):
        await desk.transition(seq)
    async with Relight(desk.url).subscribe("metrics.#", since="first") as said:
        assert places(await take(said, 3)) == [(1, 1), (1, 2), (1, 3)]
        await desk.transition(4)
        assert places(await take(said, 1)) == [(1, 4)]


async def test_replay_ends_where_the_stream_ends(desk: Desk) -> None:
    for seq in (1, 2):
        await desk.transition(seq)
    await desk.transition(1, instance="alert/metrics/memory")
    async with asyncio.timeout(SOON):
        found = [n async for n in Relight(desk.url).replay("metrics.lifecycle.#")]
    assert places(found) == [(1, 1), (1, 2)]


async def test_what_is_no_notification_is_passed_over(desk: Desk) -> None:
    async with Relight(desk.url).subscribe("#") as said:
        exchange = await desk.channel.get_exchange("relight.status", ensure=False)
        await exchange.publish(aio_pika.Message(b"no json"), "metrics.lifecycle.x")
        await desk.transition(1)
        assert places(await take(said, 1)) == [(1, 1)]


async def test_who_does_not_iterate_gets_everything_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "READY", 3)
    async with Relight(desk.url).subscribe("#") as said:
        for seq in range(1, 31):
            await desk.transition(seq)
        await asyncio.sleep(0.3)
        assert places(await take(said, 30)) == [(1, seq) for seq in range(1, 31)]


async def test_broker_that_is_away_and_user_without_rights_are_said(desk: Desk, rabbit_server: RabbitServer) -> None:
    with pytest.raises(Away, match=r"within 0.5 s: \w+Error"):
        async with Relight(f"amqp://ana:x@127.0.0.1:{free_port()}/").subscribe("#", within=0.5):
            raise AssertionError("nobody is there")
    with pytest.raises(Forbidden, match=r"relight\.status"):
        async with Relight(await stranger(rabbit_server, desk, read="^amq.*")).subscribe("#"):
            raise AssertionError("it may not listen")
