"""What every store must know of its own past: what it lacks, who may work on it, and how a loss is kept."""

from dataclasses import replace
from datetime import timedelta

import pytest

from machines.model import InstanceId, StepStatus
from schemas.sharding import shard_of
from service.errors import LostLease
from service.ports import Loss, Ownership, Publication, epoch_of
from tests.contract.conftest import LEASE, Kept
from tests.contract.rows import LIFECYCLE, NOW, log, says, step

SHARD = 0
OTHER = InstanceId("lifecycle/trading")


def told(seq: int, **changes: object) -> Publication:
    """The publication of the row that `rows.log(seq)` is."""
    row = log(seq)
    one = Publication("metrics", LIFECYCLE, 1, seq, row.at, row.event, row.event_type, row.state_to, seq)
    return replace(one, **changes)  # type: ignore[arg-type]


async def claims(kept: Kept) -> list[str]:
    return [row.key.name for row in await kept.store.claim("w", ["local"], NOW, LEASE, 10)]


async def test_what_was_published_and_has_no_row_is_missing_and_another_row_in_its_place_is_too(kept: Kept) -> None:
    owner = await kept.owner(SHARD)
    await kept.store.commit(owner.moved(1))
    assert await kept.store.missing([]) == ()
    later = told(1, at=NOW + timedelta(seconds=1))
    other = told(1, event=replace(log(1).event, id="another"))
    sought = [told(1), told(2), other, told(1, epoch=2), told(1, instance=OTHER), later]
    assert await kept.store.missing(sought) == tuple(sought[1:])


async def test_loss_raises_the_epoch_once_ends_the_lease_and_is_not_found_again(kept: Kept) -> None:
    one, two = await kept.owner(SHARD), await kept.owner(1)
    for owner, system in ((one, "metrics"), (two, "trading")):
        await kept.store.lose(owner.lease, 2, [system], [Loss(system, "rows 2 and 3", says("lost", system).body)])
    for owner in (one, two):
        with pytest.raises(LostLease):
            await kept.store.commit(owner.moved(1))
    again = await kept.owner(SHARD)
    assert epoch_of(again.lease.token) == 2
    assert again.lease.token > max(one.lease.token, two.lease.token)
    assert await kept.store.missing([told(2), told(3)]) == ()
    assert await kept.store.missing([told(2, epoch=2)]) == (told(2, epoch=2),)
    assert await kept.store.missing([told(2, system="research")]) == (told(2, system="research"),)


async def test_nobody_without_the_lease_can_say_that_anything_is_lost_or_clear(kept: Kept) -> None:
    before = await kept.owner(SHARD)
    await kept.owner(SHARD)
    with pytest.raises(LostLease):
        await kept.store.lose(before.lease, 2, ["metrics"], [])
    with pytest.raises(LostLease):
        await kept.store.clear(before.lease, ["metrics"], compared=True)
    assert epoch_of((await kept.owner(SHARD)).lease.token) == 1


async def test_signals_of_a_loss_come_before_all_that_waits(kept: Kept) -> None:
    shard = shard_of("metrics", kept.store.shards)
    owner = await kept.owner(shard)
    systems = [f"metrics{suffix}" for suffix in ("", "-a", "-b")]
    await kept.store.signal([says("restored")])
    losses = [Loss(name, None, says(f"lost {name}", name).body) for name in systems]
    await kept.store.lose(owner.lease, 2, systems, losses)
    signals, _ = await kept.store.pending(shard, NOW, 10)
    assert [one.body for one in signals] == [*(loss.signal for loss in losses), says("restored").body]
    assert not any(one.local or one.user for one in signals[:-1])


async def test_steps_that_somebody_may_have_been_at_are_unknown_after_a_loss(kept: Kept) -> None:
    owner = await kept.owner(SHARD)
    rows = [step(str(status), status) for status in StepStatus]
    elsewhere = replace(step("elsewhere"), system="trading")
    await kept.store.commit(owner.moved(1, steps_new=(*rows, elsewhere)))
    await kept.store.lose(owner.lease, 2, ["metrics"], [])
    stored = {row.key.name: row for row in await kept.store.steps(LIFECYCLE)}
    doubtful = {StepStatus.READY, StepStatus.RUNNING, StepStatus.WAITING, StepStatus.UNKNOWN}
    for status in StepStatus:
        assert stored[str(status)].status is (StepStatus.UNKNOWN if status in doubtful else status)
    assert "restored" in (stored["running"].error or "")
    assert stored["elsewhere"].status is StepStatus.READY


async def test_steps_are_handed_out_only_while_an_owner_has_cleared_their_system(kept: Kept) -> None:
    owner = await kept.owner(SHARD)
    await kept.store.commit(owner.moved(1, steps_new=(step("one"), replace(step("other"), system="trading"))))
    await kept.store.clear(owner.lease, ["metrics"], compared=True)
    taken_over = await kept.owner(SHARD)
    assert await claims(kept) == ["other"], "its shard has never been cleared, so nothing is known against it"
    await kept.store.clear(taken_over.lease, ["metrics"], compared=False)
    assert await claims(kept) == ["one"]
    await kept.store.commit(taken_over.batch(steps_new=(step("two"),)))
    await kept.store.release(taken_over.lease)
    assert await claims(kept) == [], "nobody owns it"


async def test_how_far_the_log_is_known_to_be_whole_moves_on_only_for_who_has_looked(kept: Kept) -> None:
    first = (await kept.owner(SHARD)).lease
    assert (first.compared_until, first.compared) == (None, False)
    await kept.store.clear(first, ["metrics"], compared=True)
    second = (await kept.owner(SHARD)).lease
    assert second.compared
    await kept.pass_time(0.02)
    await kept.store.renew(second, LEASE)
    third = (await kept.owner(SHARD)).lease
    assert third.compared_until == second.compared_until, "the second owner did not look"
    await kept.store.clear(third, ["metrics"], compared=True)
    await kept.pass_time(0.02)
    await kept.store.renew(third, LEASE)
    fourth = (await kept.owner(SHARD)).lease
    assert known(fourth) > known(third)
    await kept.store.clear(fourth, ["metrics"], compared=False)
    fifth = (await kept.owner(SHARD)).lease
    assert (fifth.compared_until, fifth.compared) == (fourth.compared_until, False), "the fourth went on without"


def known(lease: Ownership) -> float:
    assert lease.compared_until is not None
    return lease.compared_until.timestamp()
