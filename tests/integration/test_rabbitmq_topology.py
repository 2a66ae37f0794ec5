"""What Relight declares on a real RabbitMQ, what it says when something else is there, and that it comes back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiormq
import pytest

from service.adapters.rabbitmq import RabbitBroker, limits_as_commands, publish_event, set_limits
from service.clock import SystemClock
from service.embedded import RabbitServer
from service.errors import Misconfigured, Unavailable
from service.ports import OutMessage, Sent

SOON = 15.0


class Told:
    """What the broker told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def __call__(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    def names(self) -> list[str]:
        return [event for event, _ in self.events]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def broker(amqp_url: str, told: Told) -> AsyncIterator[RabbitBroker]:
    async with RabbitBroker(amqp_url, clock=SystemClock(), on_event=told) as broker:
        yield broker


@pytest.fixture
async def stranger(amqp_url: str) -> AsyncIterator[aiormq.abc.AbstractConnection]:
    async with aiormq.connect(amqp_url) as connection:
        yield connection


def vhost_of(amqp_url: str) -> str:
    return amqp_url.rsplit("/", 1)[1]


async def described(server: RabbitServer, amqp_url: str, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = await server.management().get(f"/{kind}/{vhost_of(amqp_url)}/{quote(name, safe='')}")
    return found


async def test_queues_and_exchanges_are_what_the_wire_contract_says(
    broker: RabbitBroker, rabbit_server: RabbitServer, amqp_url: str
) -> None:
    await broker.declare(["metrics"], {"metrics": 0})
    for name in ("relight.intake.control.0", "relight.intake.metrics.0", "relight.unrouted"):
        arguments = (await described(rabbit_server, amqp_url, "queues", name))["arguments"]
        assert arguments == {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-dead-letter-exchange": "relight.dead",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
    stream = await described(rabbit_server, amqp_url, "queues", "relight.status.log")
    assert stream["arguments"] == {"x-queue-type": "stream", "x-max-age": "7D"}
    events = await described(rabbit_server, amqp_url, "exchanges", "relight.events")
    assert (events["type"], events["durable"]) == ("topic", True)
    assert events["arguments"] == {"alternate-exchange": "relight.unrouted"}
    api = rabbit_server.management()
    bound = {
        (one["routing_key"], one["destination"])
        for one in await api.get(f"/exchanges/{vhost_of(amqp_url)}/relight.events/bindings/source")
    }
    assert bound == {
        ("metrics.restart.requested", "relight.intake.control.0"),
        ("metrics.restart.cancelled", "relight.intake.control.0"),
        ("metrics.participant.answered", "relight.intake.control.0"),
        ("metrics.operator.acted", "relight.intake.control.0"),
        ("metrics.approval.given", "relight.intake.control.0"),
        ("metrics.approval.denied", "relight.intake.control.0"),
        ("metrics.checklist.signed", "relight.intake.control.0"),
        ("metrics.metric.observed", "relight.intake.metrics.0"),
        ("metrics.operation.requested", "relight.intake.metrics.0"),
    }


async def test_everything_that_is_there_but_different_is_told_at_once_and_left_alone(
    broker: RabbitBroker, stranger: aiormq.abc.AbstractConnection
) -> None:
    channel = await stranger.channel()
    await channel.queue_declare("relight.intake.control.0", durable=True)
    await channel.exchange_declare("relight.status", exchange_type="fanout", durable=True)
    await channel.basic_publish(b"theirs", routing_key="relight.intake.control.0")
    with pytest.raises(Misconfigured) as raised:
        await broker.declare(["metrics"], {"metrics": 0})
    exchange, queue = raised.value.problems
    assert "exchange 'relight.status'" in exchange
    assert "type" in exchange
    assert "fanout" in exchange
    assert "topic" in exchange
    assert "queue 'relight.intake.control.0'" in queue
    assert "x-queue-type" in queue or "x-single-active-consumer" in queue or "x-dead-letter" in queue
    assert "rabbitmqctl" in queue
    left = await channel.queue_declare("relight.intake.control.0", passive=True)
    assert left.message_count == 1


async def test_user_without_the_right_to_declare_is_told_which_right(
    rabbit_server: RabbitServer, amqp_url: str
) -> None:
    url = await rabbit_server.add_user("weak", "secret", vhost=vhost_of(amqp_url))
    await rabbit_server.set_permissions("weak", vhost=vhost_of(amqp_url), configure="^$")
    async with RabbitBroker(url, clock=SystemClock()) as broker:
        with pytest.raises(Misconfigured, match="configure, write and read"):
            await broker.declare(["metrics"], {"metrics": 0})
    await rabbit_server.delete_user("weak")


async def test_deleted_queue_is_declared_again_with_its_bindings_and_consumed(
    broker: RabbitBroker, stranger: aiormq.abc.AbstractConnection, told: Told, amqp_url: str
) -> None:
    await broker.declare(["metrics"], {"metrics": 0})
    channel = await stranger.channel()
    async with broker.lanes(0) as lanes:
        await publish_event(amqp_url, "metrics.restart.requested", b"first", "1")
        async with asyncio.timeout(SOON):
            while not (got := lanes.take(1)):
                await lanes.wait(1)
        await lanes.ack(got)
        await channel.queue_delete("relight.intake.control.0")
        async with asyncio.timeout(SOON):
            while "lane.back" not in told.names():
                await asyncio.sleep(0.05)
        await publish_event(amqp_url, "metrics.restart.requested", b"second", "2")
        async with asyncio.timeout(SOON):
            while not (got := lanes.take(1)):
                await lanes.wait(1)
        assert got[0].body == b"second"
        assert got[0].queue == "relight.intake.control.0"
    assert told.names() == ["lane.interrupted", "lane.back"]


async def test_lane_that_could_not_consume_at_first_begins_once_its_queue_is_declared(
    broker: RabbitBroker, told: Told, amqp_url: str
) -> None:
    async with broker.lanes(0) as lanes:
        async with asyncio.timeout(SOON):
            while told.names().count("lane.interrupted") < 2:
                await asyncio.sleep(0.05)
        await broker.declare(["metrics"], {"metrics": 0})
        await publish_event(amqp_url, "metrics.metric.observed", b"m", "1")
        async with asyncio.timeout(SOON):
            while not lanes.take(1):
                await lanes.wait(1)
            while told.names().count("lane.back") < 2:
                await asyncio.sleep(0.05)
    assert sorted(told.names()) == ["lane.back", "lane.back", "lane.interrupted", "lane.interrupted"]


async def test_deleted_status_exchange_is_made_again_for_the_next_publish(
    broker: RabbitBroker, stranger: aiormq.abc.AbstractConnection
) -> None:
    await broker.declare(["metrics"], {"metrics": 0})
    message = OutMessage("relight.status", "metrics.lifecycle.operational", "1", "{}")
    async with broker.publisher() as publisher:
        assert await publisher.publish([message]) == (Sent.CONFIRMED,)
        await (await stranger.channel()).exchange_delete("relight.status")
        with pytest.raises(Unavailable, match=r"relight\.status"):
            await publisher.publish([message] * 500)
        assert await publisher.publish([message]) == (Sent.CONFIRMED,)


async def test_publishing_before_relight_ever_ran_says_what_to_do(amqp_url: str) -> None:
    with pytest.raises(Misconfigured, match="relight serve"):
        await publish_event(amqp_url, "metrics.restart.requested", b"{}", "1")


async def test_event_nobody_could_be_bound_for_is_told_when_the_alternate_exchange_is_missing(
    amqp_url: str, stranger: aiormq.abc.AbstractConnection
) -> None:
    await (await stranger.channel()).exchange_declare("relight.events", exchange_type="topic", durable=True)
    with pytest.raises(Misconfigured, match="nobody takes"):
        await publish_event(amqp_url, "metrics.restart.requested", b"{}", "1")


async def test_wrong_password_is_unavailable_and_says_so(amqp_url: str) -> None:
    head, tail = amqp_url.split("@")
    with pytest.raises(Unavailable, match="user or password"):
        await publish_event(f"{head.rsplit(':', 1)[0]}:wrong@{tail}", "metrics.restart.requested", b"{}", "1")


async def test_limits_are_a_policy_over_the_management_api_or_a_command_to_print(
    broker: RabbitBroker, rabbit_server: RabbitServer, amqp_url: str
) -> None:
    await broker.declare(["metrics"], {"metrics": 0})
    vhost = vhost_of(amqp_url)
    await set_limits(rabbit_server.management_url, vhost)
    policies = await rabbit_server.management().get(f"/policies/{vhost}")
    assert [(one["name"], one["definition"], one["apply-to"]) for one in policies] == [
        ("relight-intake", {"delivery-limit": 1000}, "queues")
    ]
    async with asyncio.timeout(SOON):
        while (await described(rabbit_server, amqp_url, "queues", "relight.unrouted")).get(
            "policy"
        ) != "relight-intake":
            await asyncio.sleep(0.2)
    log = await described(rabbit_server, amqp_url, "queues", "relight.status.log")
    assert not log.get("policy")
    assert f"set_policy -p '{vhost}'" in limits_as_commands(vhost)
    with pytest.raises(Unavailable, match="By hand"):
        await set_limits(rabbit_server.management_url, "no-such-vhost")


async def test_shard_without_a_system_has_its_queues_too_and_nobody_complains(broker: RabbitBroker, told: Told) -> None:
    await broker.declare(["metrics"], {"metrics": 0})
    async with broker.lanes(1) as lanes:
        await lanes.wait(1.0)
    assert told.names() == []


async def test_queue_whose_node_is_not_up_yet_is_waited_for_and_no_fault_of_the_configuration(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(_: object, __: object) -> None:
        raise aiormq.ChannelNotFoundEntity("NOT_FOUND - home node 'x' of durable queue is down or inaccessible")

    monkeypatch.setattr("service.adapters.rabbitmq.topology._queue", down)
    with pytest.raises(Unavailable, match="not up yet"):
        await broker.declare(["metrics"], {"metrics": 0})
