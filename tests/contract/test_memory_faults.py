"""The memory store fails when it is told to, before or after the effect, and is otherwise at home in virtual time."""

from datetime import timedelta

import pytest

from service.adapters.memory.store import MemoryStore
from service.errors import Conflict, Unavailable
from service.simulation.virtual import VirtualClock, VirtualLoop
from tests.contract.conftest import LEASE, HandClock
from tests.contract.rows import LIFECYCLE, NOW, Owner

AWAY = Unavailable("PostgreSQL", "so it was asked for")


async def owned() -> tuple[MemoryStore, Owner]:
    store = MemoryStore(HandClock())
    ownership = await store.acquire(0, "a", LEASE)
    assert ownership is not None
    return store, Owner(ownership)


async def test_a_failure_before_the_effect_leaves_nothing_and_is_over_with_the_next_call() -> None:
    store, owner = await owned()
    store.fail_next("commit", AWAY)
    with pytest.raises(Unavailable):
        await store.commit(owner.moved(1))
    assert await store.history(LIFECYCLE) == ()
    await store.commit(owner.moved(1))


async def test_a_lost_answer_is_found_by_the_retry() -> None:
    store, owner = await owned()
    store.fail_next("commit", AWAY, after=True)
    with pytest.raises(Unavailable):
        await store.commit(owner.moved(1))
    assert len(await store.history(LIFECYCLE)) == 1
    with pytest.raises(Conflict):
        await store.commit(owner.moved(1))


async def test_failures_come_in_the_order_they_were_asked_for_and_never_where_there_is_no_method() -> None:
    store, _ = await owned()
    store.fail_next("pending", AWAY)
    store.fail_next("pending", Conflict("second"))
    with pytest.raises(Unavailable):
        await store.pending(0, NOW, 1)
    with pytest.raises(Conflict):
        await store.pending(0, NOW, 1)
    assert await store.pending(0, NOW, 1) == ((), ())
    with pytest.raises(AttributeError):
        store.fail_next("comit", AWAY)


def test_waiting_takes_virtual_time_only() -> None:
    loop = VirtualLoop()

    async def story() -> timedelta:
        clock = VirtualClock()
        began = clock.now()
        await MemoryStore(clock).wait_for_signal(0, 3600)
        return clock.now() - began

    try:
        assert loop.run_until_complete(story()) == timedelta(hours=1)
    finally:
        loop.close()
