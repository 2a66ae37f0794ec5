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
from service.adapters.memory.store import MemoryStore
from service.engine import outbox as module
from service.engine.outbox import Outbox
from service.ports import Batch, OutMessage, Sent
from tests.simulation import virtual
from tests.simulation.test_poison import told
from tests.simulation.virtual import VirtualClock


class Slow:
    """A publisher that confirms one window and then hangs."""

    def __init__(self) -> None:
        self.sent = 0

    async def publish(self, messages: Sequence[OutMessage], **_: Any) -> tuple[Sent, ...]:
        if self.sent:
            await asyncio.sleep(3600)
        self.sent += len(messages)
        return (Sent.CONFIRMED,) * len(messages)


def test_queues_stay_paused_while_the_table_holds_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOUND", 3)
    monkeypatch.setattr(module, "WINDOW", 2)

    async def story() -> bool:
        clock = VirtualClock()
        store = MemoryStore(clock)
        ownership = await store.acquire(0, "one", timedelta(seconds=10))
        assert ownership is not None
        rows = tuple(OutMessage("relight.status", "metrics.x", str(n), "{}") for n in range(9))
        await store.commit(Batch(0, ownership.token, clock.now(), outbox=rows))
        outbox = Outbox(store, Slow(), ownership, clock)
        task = asyncio.create_task(outbox.run())
        await asyncio.sleep(5)
        full = outbox.full
        task.cancel()
        return full

    assert virtual.run(story())


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
