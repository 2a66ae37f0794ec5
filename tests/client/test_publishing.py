"""Publishing with the client: confirmed, as the user the broker verifies, one event however often it is sent."""

import asyncio

import pytest

from relight_client import Away, Event, Forbidden, Relight
from schemas import envelope
from schemas.envelope import read
from service.embedded import RabbitServer
from service.embedded.ports import free_port
from tests.client.desk import Desk, stranger
from tests.integration.proxy import Mode, proxied


async def test_published_event_is_what_relight_reads(desk: Desk) -> None:
    event = Event("restart.requested", "metrics", {"reason": "release 1.4"})
    async with Relight(desk.url) as relight:
        await relight.publish(event)
    await desk.until_heard(1)
    (message,) = desk.heard
    assert message.routing_key == "metrics.restart.requested"
    found = read(message.body, message.routing_key)
    assert isinstance(found, envelope.Read)
    assert (found.envelope.id, found.data.model_dump()["reason"]) == (event.id, "release 1.4")
    assert (message.message_id, message.content_type) == (event.id, envelope.CONTENT_TYPE)
    assert message.user_id == found.envelope.source
    assert message.delivery_mode == 2


async def test_retry_after_a_lost_confirm_is_the_same_event(desk: Desk) -> None:
    async with proxied(desk.url) as (proxy, url):
        relight = Relight(url)
        await relight.publish(Event("restart.cancelled", "metrics", {"reason": "warm"}))
        proxy.mode = Mode.LOSE_ANSWER
        event = Event("restart.requested", "metrics", {"reason": "x"})
        publishing = asyncio.create_task(relight.publish(event))
        await desk.until_heard(2)
        proxy.mode = Mode.PASS
        async with asyncio.timeout(30):
            await publishing
        await desk.until_heard(3)
        await relight.close()
    first, second = desk.heard[1:3]
    assert first.body == second.body
    assert first.message_id == second.message_id == event.id


async def test_cut_connection_is_made_again_for_the_next_event(desk: Desk) -> None:
    async with proxied(desk.url) as (proxy, url), Relight(url) as relight:
        for number in range(3):
            await relight.publish(Event("restart.requested", "metrics", {"reason": str(number)}))
            proxy.cut()
    await desk.until_heard(3)
    assert {event["data"]["reason"] for event in desk.events} == {"0", "1", "2"}


async def test_many_at_once_share_one_connection(desk: Desk) -> None:
    async with Relight(desk.url) as relight:
        await asyncio.gather(
            *(relight.publish(Event("metric.observed", "metrics", {"metric": "cpu", "value": n})) for n in range(100))
        )
    await desk.until_heard(100)
    assert {event["data"]["value"] for event in desk.events} == set(range(100))


async def test_broker_that_is_away_is_said_after_the_time_given() -> None:
    relight = Relight(f"amqp://ana:x@127.0.0.1:{free_port()}/")
    with pytest.raises(Away, match=r"restart.requested .* is not confirmed after 1 s"):
        await relight.publish(Event("restart.requested", "metrics", {"reason": "x"}), within=1)


async def test_vhost_where_relight_never_served_is_said(amqp_url: str) -> None:
    async with Relight(amqp_url) as relight:
        with pytest.raises(Away, match="has Relight served"):
            await relight.publish(Event("restart.requested", "metrics", {"reason": "x"}), within=1)


async def test_user_without_rights_is_told_at_once(desk: Desk, rabbit_server: RabbitServer) -> None:
    url = await stranger(rabbit_server, desk)
    async with Relight(url) as relight:
        with pytest.raises(Forbidden, match=r"ACCESS_REFUSED|refused"):
            await relight.publish(Event("restart.requested", "metrics", {"reason": "x"}))
    wrong = Relight(url.replace("secret", "wrong"))
    with pytest.raises(Forbidden, match="does not let this user in"):
        await wrong.publish(Event("restart.requested", "metrics", {"reason": "x"}))


async def test_data_that_is_no_json_is_never_sent(desk: Desk) -> None:
    async with Relight(desk.url) as relight:
        with pytest.raises(ValueError, match="Out of range"):
            await relight.publish(Event("metric.observed", "metrics", {"metric": "cpu", "value": float("nan")}))
    assert desk.heard == []
