"""The gate, told as stories on the real `serve` and the example: what a shop asks for reaches the desk, in order.

One system lives through the whole file and is operational at the end of every story. Read is what the desk received.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import pytest
import pytest_asyncio
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from service.embedded import RabbitServer
from tests.acceptance.harness import INSTANCE, SYSTEM, House, moved_in
from tests.acceptance.heard import Heard, answers, ended, entered
from tests.acceptance.terminal import stands
from tests.faults.evidence import Notification
from tests.faults.load import Load
from tests.servers import Databases, reachable_directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150), pytest.mark.asyncio(loop_scope="module")]

PRESERVING, RESUMING = "preparing_for_restart.preserving", "preparing_for_restart.resuming"
HOLDS = 20
QUEUE = f"relight.operations.{SYSTEM}"
HELD = f'relight_held_operations{{system="{SYSTEM}"}}'


@dataclass
class Market:
    """The system, what is said of it, the shop that sends operations, and what the desk received of them."""

    house: House
    heard: Heard
    received: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    desk: AbstractConnection | None = None

    async def desk_opens(self) -> None:
        """The desk takes from its queue, on a connection of its own."""
        self.desk = await aio_pika.connect((self.house.users / "desk.url").read_text().strip(), timeout=10)
        queue = await (await self.desk.channel()).get_queue(QUEUE, ensure=False)
        await queue.consume(self.take)

    async def desk_closes(self) -> None:
        if self.desk is not None:
            await self.desk.close()

    @property
    def mark(self) -> int:
        return len(self.heard.notes)

    async def ask(self, **more: Any) -> str:
        """The shop's next operation, confirmed by the broker; the id of its event."""
        data = {"operation": "orders.submit", "payload": {"number": self.sent}, **more}
        event = await self.house.say("shop", "operation.requested", data)
        self.sent += 1
        return event

    async def take(self, message: AbstractIncomingMessage) -> None:
        self.received.append(json.loads(message.body))
        await message.ack()

    def once_each(self) -> list[dict[str, Any]]:
        """What the desk works on: each operation the first time it comes."""
        return list({event["id"]: event for event in reversed(self.received)}.values())[::-1]

    def numbers(self) -> list[int]:
        return [event["data"]["payload"]["number"] for event in self.once_each()]

    async def becomes(self, state: str, after: int) -> Notification:
        return await self.heard.until(f"{SYSTEM} is {state}", entered(state), after)

    async def holding(self) -> int:
        return int(await self.house.value("SELECT count(*) FROM relight.held"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def market(databases: Databases, rabbit_server: RabbitServer) -> AsyncIterator[Market]:
    with reachable_directory() as folder:

        def gated(described: dict[str, Any]) -> None:
            described["gate"] = {"holds": HOLDS, "expires": "5m", "from": ["shop"], "to": ["desk"]}
            described["restart"].pop("backup", None)

        async with moved_in(folder, databases, rabbit_server, gated) as house:
            house.people["shop"] = Load((house.users / "shop.url").read_text().strip(), SYSTEM, house.published)
            await house.opens()
            async with Heard(house.amqp_url, SYSTEM) as heard:
                await stands(house, "operational", within=60)
                for person in house.people.values():
                    await person.connect()
                made = Market(house, heard)
                await made.desk_opens()
                yield made
                await made.desk_closes()


@pytest.fixture
def begun(market: Market) -> Market:
    market.received.clear()
    market.sent = 0
    return market


async def _all(market: Market, count: int) -> None:
    """Waits for so many different operations at the desk."""

    async def there() -> bool:
        return len(market.once_each()) >= count

    await market.house.until(f"the desk has {count} operations, it has {market.numbers()}", there)


async def _held(market: Market, count: int) -> None:
    async def there() -> bool:
        return await market.holding() == count

    await market.house.until(f"the gate holds {count}", there)


async def test_operations_around_a_restart_with_a_killed_relight_reach_the_desk_in_order(begun: Market) -> None:
    house, mark = begun.house, begun.mark
    for _ in range(10):
        await begun.ask()
    await _all(begun, 10)
    await house.say("svc-deploy", "restart.requested", {"reason": "with work in the queue"})
    await begun.becomes(PRESERVING, mark)
    for _ in range(5):
        await begun.ask()
    await begun.becomes("shutting_down", mark)
    soon = datetime.now(UTC) + timedelta(seconds=1)
    short = await house.say(
        "shop", "operation.requested", {"operation": "orders.cancel", "expires": soon.isoformat(), "payload": {}}
    )
    await _held(begun, 6)
    assert house.process is not None
    house.process.kill()
    await house.died()
    shown = house.command("status").stdout
    assert "6 operations held since" in shown
    for _ in range(8):
        await begun.ask()
    while datetime.now(UTC) <= soon:
        await asyncio.sleep(0.05)
    await house.start()
    told = await begun.heard.until("the short one is told of", answers(short), mark)
    assert told.type == "refused"
    assert "it was not released" in told.data["reasons"][0]
    await begun.becomes("operational", mark)
    for _ in range(7):
        await begun.ask()
    await _all(begun, 30)
    assert begun.numbers() == list(range(30))
    late = [event["data"]["payload"]["number"] for event in begun.once_each() if "heldat" in event]
    assert set(range(10, 15)) <= set(late)
    assert not {*range(10), *range(23, 30)} & set(late)
    released = begun.heard.results(mark)["release"]
    assert released["expired"] == 1
    assert released["held"] - 1 == released["released"] >= 5
    assert "released in order, 1 expired" in house.command("report", INSTANCE).stdout
    assert await begun.holding() == 0


async def test_more_than_it_may_hold_is_refused_and_a_cancelled_restart_releases_the_others(begun: Market) -> None:
    house, mark = begun.house, begun.mark
    house.signal("calculator", signal.SIGSTOP)
    await house.say("svc-deploy", "restart.requested", {"reason": "which somebody takes back"})
    await begun.becomes(PRESERVING, mark)
    for _ in range(HOLDS):
        await begun.ask()
    one_more = await begun.ask()
    refused = await begun.heard.until("one too many is refused", answers(one_more), mark)
    assert refused.type == "refused"
    assert "(gate.holds)" in refused.data["reasons"][0]
    await house.until("/metrics counts them", lambda: _counted(house, HOLDS))
    assert begun.received == []
    house.signal("calculator", signal.SIGCONT)
    await house.say("ana", "restart.cancelled", {"reason": "not now"})
    await begun.becomes(RESUMING, mark)
    done = await begun.heard.until("the gate is released", ended("release"), mark)
    assert done.data["result"]["released"] == HOLDS
    await begun.becomes("operational", mark)
    await _all(begun, HOLDS)
    assert begun.numbers() == list(range(HOLDS))


async def _counted(house: House, count: int) -> bool:
    return await house.counted(HELD) == count


async def test_who_is_not_named_is_refused_and_a_deleted_queue_comes_back_with_what_was_sent(
    begun: Market, rabbit_server: RabbitServer
) -> None:
    house, mark = begun.house, begun.mark
    eve = await house.say("ana", "operation.requested", {"operation": "orders.submit"})
    refused = await begun.heard.until("ana is refused", answers(eve), mark)
    assert "gate.from names shop" in refused.data["reasons"][0]
    # Away while its queue is deleted: a client that consumes again by itself may hold the operation and not show it.
    await begun.desk_closes()
    async with await aio_pika.connect(house.amqp_url, timeout=10) as stranger:
        channel = await stranger.channel()
        await channel.queue_delete(QUEUE)
    await begun.ask()

    async def is_there() -> bool:
        async with await aio_pika.connect(house.amqp_url, timeout=10) as again:
            try:
                await (await again.channel()).declare_queue(QUEUE, passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return False
            return True

    await house.until("the queue is there again", is_there)
    await begun.desk_opens()
    await _all(begun, 1)
    assert begun.numbers() == [0]


async def test_without_a_gate_an_operation_is_refused_and_told_how_to_turn_it_on(begun: Market) -> None:
    house, mark = begun.house, begun.mark
    await house.stop()
    house.rewrite(lambda described: described.pop("gate"))
    await house.start()
    event = await begun.ask()
    refused = await begun.heard.until("it is refused", answers(event), mark)
    assert "`gate: {}` in the system's file" in refused.data["reasons"][0]
