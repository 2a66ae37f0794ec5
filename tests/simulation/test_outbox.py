"""The outbox above its bound, and the numbers that are counted on an event's way. In virtual time."""

import asyncio
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import service
from service import metrics
from service.adapters.memory.broker import MemoryBroker
from service.adapters.memory.store import MemoryStore
from service.engine import outbox as module
from service.engine.outbox import Outbox
from service.errors import Transient
from service.ports import Batch, OutMessage, Ownership, Sent
from service.simulation import virtual
from service.simulation.virtual import VirtualClock
from tests.simulation.test_poison import told


class Slow:
    """A publisher that confirms one window and then hangs."""

    def __init__(self) -> None:
        self.sent = 0

    async def publish(self, messages: Sequence[OutMessage], **_: Any) -> tuple[Sent, ...]:
        if self.sent:
            await asyncio.sleep(3600)
        self.sent += len(messages)
        return (Sent.CONFIRMED,) * len(messages)


async def owned() -> tuple[VirtualClock, MemoryStore, Ownership]:
    """A store whose only shard is owned for longer than any story here lasts."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    ownership = await store.acquire(0, "one", timedelta(hours=2))
    assert ownership is not None
    return clock, store, ownership


def test_queues_stay_paused_while_the_table_holds_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOUND", 3)
    monkeypatch.setattr(module, "WINDOW", 2)

    async def story() -> bool:
        clock, store, ownership = await owned()
        rows = tuple(OutMessage("relight.status", "metrics.x", str(n), "{}") for n in range(9))
        await store.commit(Batch(0, ownership.token, clock.now(), outbox=rows))
        outbox = Outbox(store, Slow(), ownership, clock)
        task = asyncio.create_task(outbox.run())
        await asyncio.sleep(5)
        full = outbox.full
        task.cancel()
        return full

    assert virtual.run(story())


def test_what_a_commit_brings_while_unsent_rows_are_in_doubt_counts_up_to_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few rows in doubt must not stop the queues; many must, though nobody can read them again."""
    monkeypatch.setattr(module, "BOUND", 3)

    async def story() -> None:
        clock, store, ownership = await owned()
        outbox = Outbox(store, Slow(), ownership, clock)

        async def commit(count: int) -> None:
            rows = tuple(OutMessage("relight.status", "metrics.x", str(number), "{}") for number in range(count))
            outbox.offer(await store.commit(Batch(0, ownership.token, clock.now(), outbox=rows)), rows)
            await asyncio.sleep(1)

        await commit(1)
        assert not outbox.full, "it is in doubt from its beginning"
        task = asyncio.create_task(outbox.run())
        await asyncio.sleep(1)
        await commit(1)
        # From here on the publisher hangs.
        outbox.doubt()
        await commit(2)
        assert not outbox.full
        await commit(1)
        assert outbox.full
        task.cancel()

    virtual.run(story())


def test_what_is_deleted_while_the_table_is_read_is_not_said_again() -> None:
    """The read began before the rows were deleted, and brings them when its answer comes."""

    class Noting:
        def __init__(self) -> None:
            self.said: list[str] = []

        async def publish(self, messages: Sequence[OutMessage], **_: Any) -> tuple[Sent, ...]:
            self.said += [one.message_id for one in messages]
            return (Sent.CONFIRMED,) * len(messages)

    async def story() -> list[str]:
        publisher = Noting()
        clock, store, ownership = await owned()
        unsent = store.unsent

        async def slow(shard: int, limit: int) -> Any:
            rows = await unsent(shard, limit)
            await asyncio.sleep(2)
            return rows

        store.unsent = slow  # type: ignore[method-assign]
        rows = tuple(OutMessage("relight.status", "metrics.x", name, "{}") for name in "ab")
        await store.commit(Batch(0, ownership.token, clock.now(), outbox=rows))
        outbox = Outbox(store, publisher, ownership, clock)
        task = asyncio.create_task(outbox.run())
        await asyncio.sleep(3)
        sent = outbox.take_sent()
        outbox.doubt()
        await asyncio.sleep(1)
        await store.commit(Batch(0, ownership.token, clock.now(), sent=sent))
        outbox.deleted(sent)
        await asyncio.sleep(5)
        task.cancel()
        return publisher.said

    assert virtual.run(story()) == ["a", "b"]


class Unwilling:
    """Takes nothing on the exchange of operations: each verdict is `verdict`. The queue takes it, once it is there."""

    def __init__(self, verdict: Sent) -> None:
        self.verdict = verdict
        self.queue_is_there = False
        self.published: list[tuple[str, str, str, bool]] = []

    async def publish(self, messages: Sequence[OutMessage], *, mandatory: bool = False) -> tuple[Sent, ...]:
        self.published += [(one.exchange, one.routing_key, one.message_id, mandatory) for one in messages]
        if messages[0].exchange == "relight.operations":
            return (self.verdict,) * len(messages)
        there = messages[0].exchange or self.queue_is_there
        return (Sent.CONFIRMED if there else Sent.RETURNED,) * len(messages)


@pytest.mark.parametrize("verdict", [Sent.NACKED, Sent.RETURNED])
def test_operation_that_nobody_takes_waits_in_order_until_its_own_queue_has_it(verdict: Sent) -> None:
    async def story() -> None:
        clock, store, ownership = await owned()
        said = OutMessage("relight.status", "metrics.x", "said", "{}")
        operations = [OutMessage("relight.operations", "metrics.orders.submit", name, "{}") for name in ("a", "b")]
        rows = (said, *operations, OutMessage("relight.status", "metrics.y", "later", "{}"))
        await store.commit(Batch(0, ownership.token, clock.now(), outbox=rows))
        publisher = Unwilling(verdict)
        outbox = Outbox(store, publisher, ownership, clock)
        task = asyncio.create_task(outbox.run())
        await asyncio.sleep(5)
        assert ("relight.status", "metrics.y", "later", False) not in publisher.published
        assert len(outbox.take_sent()) == 1
        publisher.queue_is_there = True
        await asyncio.sleep(5)
        task.cancel()
        straight = [one for one in publisher.published if one[0] == ""]
        assert straight[-2:] == [("", "relight.operations.metrics", name, True) for name in ("a", "b")]
        assert all(
            mandatory is (key == "relight.operations" or not key) for key, _, _, mandatory in publisher.published
        )
        assert len(outbox.take_sent()) == 3
        assert store.tables.undelivered == {}

    virtual.run(story())


def test_every_number_is_counted_somewhere() -> None:
    sources = "".join(path.read_text() for path in Path(service.__file__).parent.rglob("*.py"))
    names = [name for name in vars(metrics) if name.isupper() and hasattr(getattr(metrics, name), "_name")]
    assert names
    assert [name for name in names if not re.search(rf"metrics\.{name}\b", sources)] == []


def test_numbers_of_an_events_way_move() -> None:
    def value(name: str, **labels: str) -> float:
        return metrics.REGISTRY.get_sample_value(name, labels) or 0.0

    names = (
        ("relight_prepare_seconds_count", {}),
        ("relight_publish_seconds_count", {}),
        ("relight_published_total", {"result": "confirmed"}),
        ("relight_dead_total", {"queue": "relight.intake.metrics.0"}),
    )
    before = [value(name, **labels) for name, labels in names]

    async def story(desk: Any) -> None:
        desk.put("good")
        desk.put("bad", data={"metric": "memory", "value": "many"})
        await desk.serve()

    told(story)
    assert all(value(name, **labels) > was for (name, labels), was in zip(names, before, strict=True))


def test_each_row_is_counted_by_its_own_verdict_up_to_the_one_that_waits() -> None:
    class Choosy:
        """Refuses `b` and `d`; the straight way is open to `b` alone."""

        async def publish(self, messages: Sequence[OutMessage], **_: Any) -> tuple[Sent, ...]:
            refused = {"relight.status": "bd", "": "d"}
            return tuple(Sent.NACKED if one.message_id in refused[one.exchange] else Sent.CONFIRMED for one in messages)

    def counted() -> dict[str, float]:
        return {
            verdict: metrics.REGISTRY.get_sample_value("relight_published_total", {"result": verdict}) or 0.0
            for verdict in ("confirmed", "nacked", "returned")
        }

    before = counted()

    async def story() -> int:
        clock, store, ownership = await owned()
        rows = tuple(OutMessage("relight.status", "metrics.x", name, "{}") for name in "abcde")
        ids = await store.commit(Batch(0, ownership.token, clock.now(), outbox=rows))
        outbox = Outbox(store, Choosy(), ownership, clock)
        task = asyncio.create_task(outbox.run())
        await asyncio.sleep(0.5)
        task.cancel()
        assert outbox.take_sent() == (ids[0], ids[2])
        return len(store.tables.undelivered)

    assert virtual.run(story()) == 1
    assert {name: value - before[name] for name, value in counted().items()} == {
        "confirmed": 2, "nacked": 2, "returned": 0,
    }  # fmt: skip


@pytest.mark.parametrize("call", ["unsent", "undeliverable"])
def test_outbox_waits_when_the_database_refuses_in_passing(call: str) -> None:
    """Found by `relight simulate --seed 22`: the owner broke and gave its shard up."""

    async def story() -> tuple[int, int]:
        clock, store, ownership = await owned()
        broker = MemoryBroker(clock)
        rows = tuple(OutMessage("relight.status", "metrics.x", str(n), "{}") for n in range(3))
        await store.commit(Batch(0, ownership.token, clock.now(), outbox=rows))
        broker.full.add("relight.status")
        store.fail_next(call, Transient("deadlock detected"))
        async with broker.publisher() as publisher:
            task = asyncio.create_task(Outbox(store, publisher, ownership, clock).run())
            await asyncio.sleep(5)
            assert not task.done()
            task.cancel()
        return len(store.tables.undelivered), len(store.tables.outbox)

    assert virtual.run(story()) == (3, 0)
