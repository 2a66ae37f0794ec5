"""A signal that waits while owners come and go: it stays, its attempts go on counting, and its burial is one batch."""

from service.ports import DeadLetter, EventKey, NewSignal
from tests.contract.conftest import Kept
from tests.contract.rows import NOW
from tests.contract.test_store import METRICS_SHARD


async def test_attempts_at_a_signal_go_on_with_the_next_owner_until_it_is_buried_at_once(kept: Kept) -> None:
    await kept.store.signal([NewSignal("metrics", body) for body in ("guilty", "innocent")])
    for attempt in (1, 2, 3):
        owner = await kept.owner(METRICS_SHARD)
        signals, _ = await kept.store.pending(METRICS_SHARD, NOW, 10)
        assert [signal.body for signal in signals] == ["guilty", "innocent"]
        key = EventKey("relight.signals", str(signals[0].id))
        assert await kept.store.count_attempt(METRICS_SHARD, owner.lease.token, key) == attempt
        await kept.store.release(owner.lease)
    owner = await kept.owner(METRICS_SHARD, name="b")
    letter = DeadLetter("signals", "", ("tried alone",), b"guilty", "relight/cli", "g", None, 3, NOW)
    await kept.store.commit(owner.batch(signals_done=(signals[0].id,), dead=(letter,)))
    left, _ = await kept.store.pending(METRICS_SHARD, NOW, 10)
    assert [signal.body for signal in left] == ["innocent"]
    assert [(found.queue, found.body, found.attempts) for found in await kept.store.dead_letters()] == [
        ("signals", b"guilty", 3)
    ]
