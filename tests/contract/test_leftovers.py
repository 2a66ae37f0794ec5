"""What could not be taken in or delivered stays until a person settles it, and what they did stays with it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from service.adapters.postgres import PostgresStore
from service.ports import DeadLetter, Settled
from tests.contract.conftest import Kept
from tests.contract.rows import NOW, event, inbox, out

LETTER = DeadLetter("relight.intake.control.0", "metrics.x", ("why",), b"\xff{", "svc", "e1", "ana", 3, NOW)


async def test_dead_letters_are_listed_newest_first_and_found_by_their_id(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.batch(dead=(LETTER, replace(LETTER, event_id="e2"))))
    newer, older = await kept.store.dead()
    assert (older.letter, newer.letter.event_id, newer.settled) == (LETTER, "e2", None)
    assert newer.id > older.id
    assert await kept.store.dead(1) == (newer,)
    assert await kept.store.dead(only=older.id) == (older,)
    assert await kept.store.dead(only=newer.id + 1000) == ()


async def test_settled_letter_leaves_the_list_and_keeps_who_did_what_and_why(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.batch(dead=(LETTER, LETTER)))
    second, first = await kept.store.dead()
    assert await kept.store.settle_dead(first.id, Settled.DROPPED, "ana (local)", "a test's leftover \x00")
    assert not await kept.store.settle_dead(first.id, Settled.REPLAYED, "eve (local)", "too late")
    assert not await kept.store.settle_dead(second.id + 1000, Settled.DROPPED, "eve (local)", "not there")
    assert await kept.store.dead() == (second,)
    assert (await kept.store.counts())["dead"] == 1
    [found] = [row for row in await kept.store.dead(settled=True) if row.settled is not None]
    assert found.settled is not None
    assert (found.id, found.settled.how, found.settled.by) == (first.id, Settled.DROPPED, "ana (local)")
    assert found.settled.why.startswith("a test's leftover")


async def test_undelivered_notification_is_kept_whole_until_it_is_settled(kept: Kept) -> None:
    owner = await kept.owner()
    first, second = await kept.store.commit(owner.batch(outbox=(out("stuck"), out("too"))))
    for row in (first, second):
        await kept.store.undeliverable(0, owner.lease.token, row, "a stranger's queue is full")
    newer, older = await kept.store.undelivered()
    assert (older.message, older.why, older.settled) == (out("stuck"), "a stranger's queue is full", None)
    assert await kept.store.undelivered(only=older.id) == (older,)
    assert await kept.store.settle_undelivered(older.id, Settled.REPLAYED, "ana (local)", "they made room")
    assert not await kept.store.settle_undelivered(older.id, Settled.REPLAYED, "ana (local)", "again")
    assert await kept.store.undelivered() == (newer,)
    assert (await kept.store.counts())["undelivered"] == 1
    assert len(await kept.store.undelivered(settled=True)) == 2


async def test_outcomes_of_an_event_are_known_once_it_was_taken_in(kept: Kept) -> None:
    owner = await kept.owner()
    assert await kept.store.outcomes(event("a")) is None
    await kept.store.commit(owner.batch(inbox=(inbox("a", "refused"),)))
    assert await kept.store.outcomes(event("a")) == {"lifecycle/metrics": "refused"}


async def test_what_was_settled_long_ago_is_forgotten_and_what_was_not_stays(kept: Kept) -> None:
    if not isinstance(kept.store, PostgresStore):
        pytest.skip("the memory store does not live for a month")
    owner = await kept.owner()
    await kept.store.commit(owner.batch(dead=(LETTER, LETTER)))
    second, first = await kept.store.dead()
    await kept.store.settle_dead(first.id, Settled.DROPPED, "ana (local)", "x")
    await kept.store.prune(NOW)
    assert len(await kept.store.dead(settled=True)) == 2
    [settled] = [row.settled for row in await kept.store.dead(settled=True) if row.settled]
    await kept.store.prune(settled.at + timedelta(days=31))
    assert await kept.store.dead(settled=True) == (second,)
