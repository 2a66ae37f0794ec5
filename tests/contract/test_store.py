"""What the engine may rely on from a store, told once for the memory double and for PostgreSQL."""

import asyncio
from datetime import timedelta

import pytest

from machines.model import InstanceId
from schemas.base import Json
from schemas.sharding import shard_of
from service.errors import Conflict, LostLease, Poison
from service.ports import DeadLetter, NewSignal, SnapshotWrite, Token, epoch_of
from tests.contract.conftest import LEASE, Kept
from tests.contract.rows import (
    ALERT,
    LIFECYCLE,
    MINUTE,
    NOW,
    event,
    inbox,
    log,
    out,
    says,
    snapshot,
    timer,
)

METRICS_SHARD = shard_of("metrics", 4)
BRIEF = timedelta(milliseconds=200)


async def test_a_shard_has_one_owner_until_it_is_released(kept: Kept) -> None:
    first = await kept.owner()
    assert await kept.store.acquire(0, "b", LEASE) is None
    assert (await kept.owner(shard=1, name="b")).lease.shard == 1
    await kept.store.release(first.lease)
    second = await kept.owner(name="b")
    assert second.lease.token > first.lease.token
    with pytest.raises(LostLease):
        await kept.store.renew(first.lease, LEASE)


async def test_a_lease_that_was_not_renewed_goes_to_another_owner(kept: Kept) -> None:
    first = await kept.owner(lease=BRIEF)
    await kept.pass_time(0.3)
    with pytest.raises(LostLease):
        await kept.store.renew(first.lease, LEASE)
    with pytest.raises(LostLease):
        await kept.store.commit(first.moved(1))
    second = await kept.owner(name="b")
    with pytest.raises(LostLease):
        await kept.store.commit(first.moved(1))
    await kept.store.release(first.lease)  # too late to end what another owns
    await kept.store.commit(second.moved(1))


async def test_a_renewed_lease_outlives_its_first_end(kept: Kept) -> None:
    owner = await kept.owner(lease=BRIEF)
    await kept.store.renew(owner.lease, LEASE)
    await kept.pass_time(0.3)
    assert await kept.store.acquire(0, "b", LEASE) is None
    await kept.store.commit(owner.moved(1))


async def test_an_owner_that_came_back_does_not_wait_for_itself(kept: Kept) -> None:
    before = await kept.owner()
    after = await kept.owner()
    assert after.lease.token > before.lease.token
    with pytest.raises(LostLease):
        await kept.store.commit(before.moved(1))


async def test_tokens_carry_the_epoch_and_come_from_one_sequence(kept: Kept) -> None:
    owner = await kept.owner()
    assert epoch_of(owner.lease.token) == 1
    other = await kept.owner(shard=1)
    assert other.lease.token == owner.lease.token + 1


async def test_a_batch_is_found_again_as_it_was_written(kept: Kept) -> None:
    owner = await kept.owner(METRICS_SHARD)
    new = snapshot(1, dwell_until=NOW + MINUTE, deadline_at=NOW + 2 * MINUTE)
    due = timer("dwell", NOW + MINUTE)
    ids = await kept.store.commit(owner.moved(1, snapshot=new, timers=(due,), outbox=(out("one"), out("two"))))
    found = await kept.store.prepare(
        METRICS_SHARD, [event(f"{LIFECYCLE}-1"), event("new")], [LIFECYCLE, ALERT], ["metrics"]
    )
    assert found.known == {event(f"{LIFECYCLE}-1"): inbox(f"{LIFECYCLE}-1")}
    assert found.instances[LIFECYCLE].snapshot == new
    assert found.instances[ALERT].snapshot is None
    assert await kept.store.history(LIFECYCLE) == (log(1),)
    rows = await kept.store.unsent(METRICS_SHARD, 10)
    assert [(row.id, row.message) for row in rows] == list(zip(ids, [out("one"), out("two")], strict=True))
    assert await kept.store.next_timer(METRICS_SHARD) == due.due_at
    assert await kept.store.pending(METRICS_SHARD, NOW, 10) == ((), ())
    assert await kept.store.pending(METRICS_SHARD, due.due_at, 10) == ((), (due,))
    assert await kept.store.pending(METRICS_SHARD + 1, due.due_at, 10) == ((), ())


async def test_an_empty_batch_is_only_a_look_at_the_lease(kept: Kept) -> None:
    owner = await kept.owner()
    assert await kept.store.commit(owner.batch()) == ()
    await kept.store.release(owner.lease)
    with pytest.raises(LostLease):
        await kept.store.commit(owner.batch())


async def test_a_snapshot_that_somebody_else_changed_stops_the_whole_batch(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.moved(1))
    stale = owner.batch(
        inbox=(inbox("stale"),),
        log=(log(1, ALERT), log(3)),
        snapshots=(SnapshotWrite(snapshot(1, ALERT), 0), SnapshotWrite(snapshot(3), 2)),
        outbox=(out("stale"),),
    )
    with pytest.raises(Conflict):
        await kept.store.commit(stale)
    with pytest.raises(Conflict):
        await kept.store.commit(owner.batch(snapshots=(SnapshotWrite(snapshot(1), 0),)))
    found = await kept.store.prepare(0, [event("stale")], [LIFECYCLE, ALERT], [])
    assert found.known == {}
    assert found.instances[ALERT].snapshot is None
    assert found.instances[LIFECYCLE].snapshot == snapshot(1)
    assert await kept.store.history(LIFECYCLE) == (log(1),)
    assert await kept.store.unsent(0, 10) == ()


async def test_an_event_has_its_outcome_once(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.moved(1))
    with pytest.raises(Conflict):
        await kept.store.commit(owner.moved(2, inbox=(inbox(f"{LIFECYCLE}-1"),)))
    with pytest.raises(Conflict):
        await kept.store.commit(owner.moved(2, inbox=(inbox("new"), inbox("new"))))
    await kept.store.commit(owner.moved(2))


async def test_a_new_and_a_known_instance_move_in_one_batch(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.moved(1))
    both = (SnapshotWrite(snapshot(1, ALERT), 0), SnapshotWrite(snapshot(4), 1))
    await kept.store.commit(owner.batch(log=(log(2), log(3), log(4), log(1, ALERT)), snapshots=both))
    found = await kept.store.prepare(0, [], [LIFECYCLE, ALERT], [])
    assert [found.instances[one].snapshot for one in (LIFECYCLE, ALERT)] == [snapshot(4), snapshot(1, ALERT)]
    assert [row.seq for row in await kept.store.history(LIFECYCLE, after_seq=1, limit=2)] == [2, 3]


async def test_a_row_keeps_a_time_that_is_not_the_batchs(kept: Kept) -> None:
    owner = await kept.owner()
    known, new = snapshot(1), snapshot(1, ALERT, entered_at=NOW - MINUTE)
    await kept.store.commit(owner.moved(1, snapshot=known))
    moved = snapshot(2, entered_at=NOW + MINUTE)
    both = (SnapshotWrite(moved, 1), SnapshotWrite(new, 0))
    rows = (log(2, at=NOW + MINUTE), log(1, ALERT, at=NOW - MINUTE))
    await kept.store.commit(owner.batch(log=rows, snapshots=both))
    found = await kept.store.prepare(0, [], [LIFECYCLE, ALERT], [])
    assert [found.instances[one].snapshot for one in (LIFECYCLE, ALERT)] == [moved, new]
    assert await kept.store.history(LIFECYCLE) == (log(1), rows[0])
    assert await kept.store.history(ALERT) == (rows[1],)


@pytest.mark.parametrize(
    "data",
    [
        {"since": None, "rows": [1.0, None, {"deep": True}]},
        {"count": 2**70, "largest": 2**64 - 1, "smallest": -(2**63)},
        {"note": "half \ud800 of a pair"},
        {"note": 'a\x00b "null" \x1b', "tiny": 5e-324, "large": 1e22},
    ],
    ids=["nulls", "large numbers", "a lone surrogate", "odd texts"],
)
async def test_data_comes_back_as_it_was(kept: Kept, data: dict[str, Json]) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.moved(1, snapshot=snapshot(1, data=data)))
    found = (await kept.store.prepare(0, [], [LIFECYCLE], [])).instances[LIFECYCLE].snapshot
    assert found == snapshot(1, data=data)
    assert found is not None
    assert [type(value) for value in found.data.values()] == [type(value) for value in data.values()]


@pytest.mark.parametrize("guilty", ["record", "data", "infinity", "event"])
async def test_what_no_column_takes_is_poison_and_writes_nothing(kept: Kept, guilty: str) -> None:
    owner = await kept.owner()
    batch = {
        "record": owner.moved(1, log=(log(1, record="a\x00b"),)),
        "data": owner.moved(1, snapshot=snapshot(1, data={"value": float("nan")})),
        "infinity": owner.moved(1, snapshot=snapshot(1, data={"since": None, "values": [1.5, float("-inf")]})),
        "event": owner.moved(1, inbox=(inbox("a\x00b"),)),
    }[guilty]
    with pytest.raises(Poison):
        await kept.store.commit(batch)
    assert (await kept.store.prepare(0, [], [LIFECYCLE], [])).instances[LIFECYCLE].snapshot is None
    assert await kept.store.history(LIFECYCLE) == ()
    await kept.store.commit(owner.moved(1))


async def test_a_dead_letter_keeps_every_byte_that_arrived(kept: Kept) -> None:
    owner = await kept.owner()
    letters = [
        DeadLetter("relight.intake.control.0", "metrics.x", ("not UTF-8",), b"\xff\x00{", None, None, "ana", n, NOW)
        for n in (1, 2)
    ]
    await kept.store.commit(owner.batch(dead=tuple(letters)))
    assert await kept.store.dead_letters() == (letters[1], letters[0])
    assert await kept.store.dead_letters(limit=1) == (letters[1],)


async def test_a_dead_letter_is_kept_whatever_its_texts_hold(kept: Kept) -> None:
    owner = await kept.owner()
    letter = DeadLetter("q", "a\x00b", ("no \x00", "no \ud800"), b"{}", "so\x00urce", "id\ud800", None, 3, NOW)
    await kept.store.commit(owner.batch(dead=(letter,)))
    [found] = await kept.store.dead_letters()
    assert (found.body, found.attempts, len(found.reasons)) == (b"{}", 3, 2)


async def test_sent_rows_leave_with_the_next_batch_and_order_stays(kept: Kept) -> None:
    owner, other = await kept.owner(0), await kept.owner(1)
    first = await kept.store.commit(owner.batch(outbox=tuple(out(str(n)) for n in range(5))))
    assert list(first) == sorted(first)
    [foreign] = await kept.store.commit(other.batch(outbox=(out("other"),)))
    await kept.store.commit(owner.batch(outbox=(out("last"),), sent=(*first[:3], foreign)))
    left = await kept.store.unsent(0, 10)
    assert [row.message for row in left] == [out("3"), out("4"), out("last")]
    assert [row.message for row in await kept.store.unsent(0, 1)] == [out("3")]
    assert [row.message for row in await kept.store.unsent(1, 10)] == [out("other")]


async def test_an_undeliverable_row_lets_later_ones_pass_and_is_kept(kept: Kept) -> None:
    owner = await kept.owner()
    first, _ = await kept.store.commit(owner.batch(outbox=(out("stuck"), out("next"))))
    await kept.store.undeliverable(0, owner.lease.token, first, "a stranger's queue is full")
    assert [row.message for row in await kept.store.unsent(0, 10)] == [out("next")]
    counts = await kept.store.counts()
    assert (counts["outbox"], counts["undelivered"]) == (1, 1)
    await kept.store.release(owner.lease)
    with pytest.raises(LostLease):
        await kept.store.undeliverable(0, owner.lease.token, first + 1, "too late")


async def test_signals_wait_in_order_until_a_batch_takes_them(kept: Kept) -> None:
    owner = await kept.owner(METRICS_SHARD)
    await kept.store.signal([says("one"), says("two")])
    await kept.store.signal([NewSignal("metrics", "three")])
    signals, _ = await kept.store.pending(METRICS_SHARD, NOW, 10)
    assert [(one.body, one.user, one.local) for one in signals] == [
        (says("one").body, "ana", True),
        (says("two").body, "ana", True),
        ("three", None, False),
    ]
    assert all(one.at.tzinfo is not None for one in signals)
    assert [one.body for one in (await kept.store.pending(METRICS_SHARD, NOW, 1))[0]] == [says("one").body]
    await kept.store.commit(owner.batch(signals_done=(signals[0].id, signals[2].id)))
    assert (await kept.store.pending(METRICS_SHARD, NOW, 10))[0] == (signals[1],)


async def test_signals_go_to_the_shard_of_their_system(kept: Kept) -> None:
    systems = [f"system{number}" for number in range(20)]
    await kept.store.signal([NewSignal(system, system) for system in systems])
    for shard in range(4):
        signals, _ = await kept.store.pending(shard, NOW, 100)
        assert [one.body for one in signals] == [name for name in systems if shard_of(name, 4) == shard]


async def test_a_signal_wakes_the_owner_of_its_shard_only(kept: Kept) -> None:
    loop = asyncio.get_running_loop()
    await kept.listens()
    mine = asyncio.create_task(kept.store.wait_for_signal(METRICS_SHARD, 5))
    other = asyncio.create_task(kept.store.wait_for_signal((METRICS_SHARD + 1) % 4, 0.6))
    await asyncio.sleep(0.05)
    began = loop.time()
    await kept.store.signal([says("hello")])
    await mine
    assert loop.time() - began < 0.5
    assert not other.done()
    await other


async def test_a_signal_that_came_before_the_wait_is_not_slept_over(kept: Kept) -> None:
    loop = asyncio.get_running_loop()
    await kept.listens()
    await kept.store.signal([says("early")])
    await asyncio.sleep(0.1)
    began = loop.time()
    await kept.store.wait_for_signal(METRICS_SHARD, 5)
    assert loop.time() - began < 0.5
    began = loop.time()
    await kept.store.wait_for_signal(METRICS_SHARD, 0.2)
    assert loop.time() - began > 0.15


async def test_a_timer_is_set_anew_by_its_kind_and_fires_only_as_it_stands(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.batch(timers=(timer("deadline"), timer("dwell", NOW + MINUTE))))
    await kept.store.commit(owner.batch(timers=(timer("deadline", NOW + 2 * MINUTE, entry=2),)))
    await kept.store.commit(owner.batch(timers_fired=(timer("deadline"), timer("dwell", NOW + MINUTE))))
    _, left = await kept.store.pending(0, NOW + 3 * MINUTE, 10)
    assert left == (timer("deadline", NOW + 2 * MINUTE, entry=2),)
    again = timer("deadline", NOW + 5 * MINUTE, entry=2)
    await kept.store.commit(owner.batch(timers_fired=left, timers=(again,)))
    assert await kept.store.next_timer(0) == again.due_at
    await kept.store.commit(owner.batch(timers_fired=(again,)))
    assert await kept.store.next_timer(0) is None


async def test_due_timers_come_in_the_order_of_their_times(kept: Kept) -> None:
    owner = await kept.owner()
    rows = tuple(timer(f"step:{n}", NOW + n * MINUTE) for n in (3, 1, 2))
    await kept.store.commit(owner.batch(timers=rows))
    assert (await kept.store.pending(0, NOW + 2 * MINUTE, 10))[1] == (rows[1], rows[2])
    assert (await kept.store.pending(0, NOW + 9 * MINUTE, 1))[1] == (rows[1],)


async def test_under_way_is_what_a_dwell_or_a_deadline_will_end(kept: Kept) -> None:
    owner = await kept.owner()
    run = InstanceId("database_failure/metrics/01J")
    waiting = snapshot(1, run, state="diagnosing", deadline_at=NOW + MINUTE)
    await kept.store.commit(owner.moved(1))
    await kept.store.commit(owner.moved(1, run, snapshot=waiting))
    found = await kept.store.prepare(0, [], [], ["metrics", "other"])
    assert found.live_runs == {"metrics": {run: "diagnosing"}, "other": {}}
    await kept.store.commit(owner.moved(2, run, snapshot=snapshot(2, run, state="verifying", dwell_until=NOW)))
    assert (await kept.store.prepare(0, [], [], ["metrics"])).live_runs["metrics"] == {run: "verifying"}
    await kept.store.commit(owner.moved(3, run, snapshot=snapshot(3, run, state="recovered")))
    assert (await kept.store.prepare(0, [], [], ["metrics"])).live_runs == {"metrics": {}}


async def test_attempts_at_an_event_are_counted_by_the_owner_only(kept: Kept) -> None:
    owner = await kept.owner()
    token = owner.lease.token
    assert [await kept.store.count_attempt(0, token, event("guilty")) for _ in range(3)] == [1, 2, 3]
    assert await kept.store.count_attempt(0, token, event("innocent")) == 1
    with pytest.raises(LostLease):
        await kept.store.count_attempt(0, Token(token - 1), event("guilty"))


async def test_configurations_stay_as_they_were_first_kept(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.keep_configurations({"c0ffee": '{"system":"metrics"}', "unused": "{}"})
    await kept.store.keep_configurations({"c0ffee": "changed"})
    await kept.store.commit(owner.moved(1))
    assert await kept.store.configurations_in_use() == {"c0ffee": '{"system":"metrics"}'}
    await kept.store.commit(owner.moved(1, ALERT, snapshot=snapshot(1, ALERT, config_hash="lost", machine_version=2)))
    assert await kept.store.configurations_in_use() == {"c0ffee": '{"system":"metrics"}', "lost": ""}
    assert await kept.store.machines_in_use() == {("lifecycle", 1): 1, ("alert", 2): 1}


async def test_people_see_instances_by_system(kept: Kept) -> None:
    owner = await kept.owner()
    other = InstanceId("lifecycle/trading")
    await kept.store.commit(owner.moved(1))
    await kept.store.commit(owner.moved(1, other))
    assert [view.snapshot for view in await kept.store.instances()] == [snapshot(1), snapshot(1, other)]
    assert [view.snapshot for view in await kept.store.instances("trading")] == [snapshot(1, other)]
    assert await kept.store.instances("nobody") == ()


async def test_old_events_are_forgotten_after_thirty_days(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.moved(1))
    assert await kept.store.prune(NOW + timedelta(days=29)) == 0
    assert await kept.store.prune(NOW + timedelta(days=31)) == 1
    assert (await kept.store.prepare(0, [event(f"{LIFECYCLE}-1")], [], [])).known == {}
