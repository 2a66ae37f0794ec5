"""What the runner may rely on from a store's steps, told once for the memory double and for PostgreSQL."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from machines.model import StepStatus
from schemas.base import Json
from schemas.sharding import shard_of
from service.errors import LostLease, Poison
from service.ports import SILENT, Loaded, SnapshotWrite, StepChange, StepRow
from tests.contract.conftest import LEASE, Kept
from tests.contract.rows import LIFECYCLE, MINUTE, NOW, Owner, log, says, snapshot, step, timer

SHARD = shard_of("metrics", 4)
BRIEF = timedelta(milliseconds=200)
ANSWER: dict[str, Json] = {"component": "calculator", "outcome": "done", "values": {"pnl": 1.25, "ratio": 0.1}}
WAITING = frozenset({StepStatus.WAITING})
ASKED = frozenset({StepStatus.WAITING, StepStatus.RUNNING})


async def planned(kept: Kept, *rows: StepRow) -> Owner:
    """The instance stands in state entry 1 with these steps."""
    owner = await kept.owner(SHARD)
    await kept.store.commit(owner.moved(1, steps_new=rows))
    return owner


async def claimed(kept: Kept, limit: int = 10, lease: timedelta = LEASE, worker: str = "w1") -> tuple[StepRow, ...]:
    return await kept.store.claim(worker, ["local"], NOW, lease, limit)


async def stored(kept: Kept, name: str = "pause") -> StepRow:
    [row] = [row for row in await kept.store.steps(LIFECYCLE) if row.key.name == name]
    return row


async def test_a_step_is_found_again_as_it_was_planned(kept: Kept) -> None:
    rows = (step("flush", StepStatus.PLANNED, position=1), step("pause", ready_at=NOW))
    await planned(kept, *rows)
    assert await kept.store.steps(LIFECYCLE) == (rows[1], rows[0])
    found = await kept.store.prepare(SHARD, [], [LIFECYCLE], [])
    assert found.instances[LIFECYCLE] == Loaded(snapshot(1), (rows[1], rows[0]))
    assert (await kept.store.instances())[0].steps == (rows[1], rows[0])
    assert await kept.store.steps(LIFECYCLE, first_entry=2) == ()


async def test_only_ready_steps_of_served_places_are_claimed(kept: Kept) -> None:
    await planned(
        kept,
        step("now", ready_at=NOW),
        step("later", ready_at=NOW + MINUTE),
        step("planned", StepStatus.PLANNED),
        step("elsewhere", place="m2"),
        step("failed", StepStatus.FAILED),
    )
    [row] = await claimed(kept)
    assert (row.key.name, row.status, row.attempt, row.worker, row.error) == ("now", StepStatus.RUNNING, 1, "w1", None)
    assert row.token is not None
    assert row.lease_until is not None
    assert await stored(kept, "now") == row
    assert await claimed(kept) == ()
    [later] = await kept.store.claim("w1", ["local"], NOW + MINUTE, LEASE, 10)
    assert later.key.name == "later"
    [elsewhere] = await kept.store.claim("w2", ["m2"], NOW, LEASE, 10)
    assert elsewhere.token is not None
    assert elsewhere.token > row.token


async def test_workers_that_claim_at_once_never_share_a_step(kept: Kept) -> None:
    await planned(kept, *(step(f"step{n}") for n in range(12)))
    hauls = await asyncio.gather(*(claimed(kept, limit=4, worker=f"w{n}") for n in range(6)))
    names = [row.key.name for haul in hauls for row in haul]
    assert len(names) == len(set(names))
    assert all(len(haul) <= 4 for haul in hauls)
    rest = await claimed(kept, limit=12)
    assert len(names) + len(rest) == 12


async def test_an_interrupted_step_comes_back_as_the_same_attempt_and_fences_the_first_worker(kept: Kept) -> None:
    await planned(kept, step("pause"))
    [first] = await claimed(kept, lease=BRIEF)
    assert await claimed(kept) == ()
    await kept.pass_time(0.3)
    [second] = await claimed(kept, worker="w2")
    assert (second.status, second.error, second.attempt) == (StepStatus.RUNNING, "interrupted", 1)
    assert second.token != first.token
    with pytest.raises(LostLease):
        await kept.store.finish(first, StepStatus.DONE, {}, None, None, says("late"))
    with pytest.raises(LostLease):
        await kept.store.renew_claim(first, LEASE)
    with pytest.raises(LostLease):
        await kept.store.wait(first, NOW, says("late"))
    await kept.store.finish(second, StepStatus.DONE, {"paused": True}, None, None, says("done"))
    signals, _ = await kept.store.pending(SHARD, NOW, 10)
    assert [one.body for one in signals] == [says("done").body]


async def test_a_renewed_claim_is_not_taken_away(kept: Kept) -> None:
    await planned(kept, step("pause"))
    [row] = await claimed(kept, lease=BRIEF)
    await kept.store.renew_claim(row, LEASE)
    await kept.pass_time(0.3)
    assert await claimed(kept, worker="w2") == ()


async def test_a_result_that_is_known_counts_even_after_the_lease_if_nobody_followed(kept: Kept) -> None:
    await planned(kept, step("pause"))
    [row] = await claimed(kept, lease=BRIEF)
    await kept.pass_time(0.3)
    await kept.store.finish(row, StepStatus.DONE, {"paused": True}, None, None, says("done"))
    assert (await stored(kept)).status is StepStatus.DONE


async def test_a_finished_step_carries_its_evidence_and_tells_intake(kept: Kept) -> None:
    await planned(kept, step("pause"))
    [row] = await claimed(kept)
    await kept.store.finish(row, StepStatus.DONE, {"digest": "9f3c", "seconds": 0.2}, None, None, says("done"))
    found = await stored(kept)
    assert (found.status, found.result, found.worker) == (StepStatus.DONE, {"digest": "9f3c", "seconds": 0.2}, None)
    signals, _ = await kept.store.pending(SHARD, NOW, 10)
    assert [(one.body, one.user, one.local) for one in signals] == [(says("done").body, "ana", True)]
    with pytest.raises(LostLease):
        await kept.store.finish(row, StepStatus.FAILED, {}, "twice", None, says("twice"))


async def test_evidence_that_no_column_takes_is_refused_and_the_claim_stays(kept: Kept) -> None:
    await planned(kept, step("pause"))
    [row] = await claimed(kept)
    with pytest.raises(Poison):
        await kept.store.finish(row, StepStatus.DONE, {"ratio": float("inf")}, None, None, says("done"))
    await kept.store.finish(row, StepStatus.FAILED, {}, "the ratio is infinite", None, says("failed"))


async def test_each_new_attempt_counts_waits_for_its_time_and_keeps_what_went_wrong_before(kept: Kept) -> None:
    await planned(kept, step("pause"))
    for attempt, before in ((1, None), (2, "refused")):
        [row] = await kept.store.claim("w1", ["local"], NOW + attempt * MINUTE, LEASE, 1)
        assert (row.attempt, row.error) == (attempt, before)
        again = NOW + (attempt + 1) * MINUTE
        await kept.store.finish(row, StepStatus.READY, {}, "refused", again, says("retrying"))
        assert await kept.store.claim("w1", ["local"], NOW + attempt * MINUTE, LEASE, 1) == ()
        assert (await stored(kept)).error == "refused"


async def test_a_waiting_step_is_ready_when_its_answer_comes(kept: Kept) -> None:
    owner = await planned(kept, step("pause"))
    [row] = await claimed(kept)
    assert await kept.store.wait(row, NOW + MINUTE, says("waiting"))
    assert (await stored(kept)).status is StepStatus.WAITING
    assert await claimed(kept) == ()
    signals, timers = await kept.store.pending(SHARD, NOW + MINUTE, 10)
    assert [one.body for one in signals] == [says("waiting").body]
    assert timers == (timer("step:pause", NOW + MINUTE),)
    change = StepChange(row.key, StepStatus.READY, ASKED, NOW, ANSWER)
    await kept.store.commit(owner.batch(step_changes=(change,)))
    assert await kept.store.next_timer(SHARD) is None
    [again] = await claimed(kept, worker="w2")
    assert (again.answer, again.attempt, again.error) == (ANSWER, 1, None)
    await kept.store.finish(again, StepStatus.DONE, ANSWER, None, None, says("done"))
    assert (await stored(kept)).answer == ANSWER


async def test_people_see_until_when_a_step_waits(kept: Kept) -> None:
    owner = await planned(kept, step("pause"))
    [row] = await claimed(kept)
    assert await kept.store.wait(row, NOW + MINUTE, says("waiting"))
    [view] = await kept.store.instances()
    assert view.silent_at("pause") == NOW + MINUTE
    change = StepChange(row.key, StepStatus.READY, ASKED, NOW, ANSWER)
    await kept.store.commit(owner.batch(step_changes=(change,)))
    [view] = await kept.store.instances()
    assert view.silent_at("pause") is None


async def test_an_answer_that_was_quicker_than_the_record_of_waiting_is_found(kept: Kept) -> None:
    owner = await planned(kept, step("pause"))
    [row] = await claimed(kept)
    quick = StepChange(row.key, None, ASKED, NOW, ANSWER)
    await kept.store.commit(owner.batch(step_changes=(quick,)))
    running = await stored(kept)
    assert (running.status, running.token, running.answer) == (StepStatus.RUNNING, row.token, ANSWER)
    assert not await kept.store.wait(row, NOW + MINUTE, says("waiting"))
    assert await kept.store.pending(SHARD, NOW + MINUTE, 10) == ((), ())
    [again] = await claimed(kept)
    assert (again.answer, again.attempt) == (ANSWER, 1)


@pytest.mark.parametrize("status", [None, StepStatus.READY])
async def test_an_answer_counts_whatever_intake_thought(kept: Kept, status: StepStatus | None) -> None:
    owner = await planned(kept, step("waits"), step("runs"))
    waits, runs = sorted(await claimed(kept), key=lambda row: row.key.name, reverse=True)
    await kept.store.wait(waits, NOW + MINUTE, says("waiting"))
    changes = tuple(StepChange(row.key, status, ASKED, NOW, ANSWER) for row in (waits, runs))
    await kept.store.commit(owner.batch(step_changes=changes))
    assert (await stored(kept, "waits")).status is StepStatus.READY
    still = await stored(kept, "runs")
    assert (still.status, still.lease_until, still.ready_at) == (StepStatus.RUNNING, runs.lease_until, runs.ready_at)


async def test_an_answer_is_used_up_by_the_attempt_that_saw_it(kept: Kept) -> None:
    owner = await planned(kept, step("pause"))
    [row] = await claimed(kept)
    await kept.store.wait(row, NOW + MINUTE, says("asked"))
    await kept.store.commit(owner.batch(step_changes=(StepChange(row.key, None, ASKED, NOW, ANSWER),)))
    [second] = await claimed(kept)
    assert await kept.store.wait(second, NOW + MINUTE, says("asked again"))
    assert (await stored(kept)).answer is None
    await kept.store.commit(owner.batch(step_changes=(StepChange(row.key, None, ASKED, NOW, {"second": True}),)))
    [third] = await claimed(kept)
    assert third.answer == {"second": True}
    await kept.store.finish(third, StepStatus.READY, {}, "refused", None, says("retrying"))
    [fourth] = await claimed(kept)
    assert (fourth.answer, fourth.attempt) == (None, 2)


async def test_silence_is_an_answer_too_and_a_step_that_failed_no_longer_waits(kept: Kept) -> None:
    owner = await planned(kept, step("kill"), step("abort"))
    for row in await claimed(kept):
        await kept.store.wait(row, NOW + MINUTE, says("waiting"))
    changes = (
        StepChange(step("kill").key, StepStatus.READY, WAITING, NOW, SILENT),
        StepChange(step("abort").key, StepStatus.FAILED, WAITING, error="calculator did not answer in time"),
    )
    await kept.store.commit(owner.batch(step_changes=changes))
    [killer] = await claimed(kept)
    assert (killer.key.name, killer.answer) == ("kill", SILENT)
    aborted = await stored(kept, "abort")
    assert (aborted.status, aborted.error) == (StepStatus.FAILED, "calculator did not answer in time")
    assert await kept.store.next_timer(SHARD) is None


@pytest.mark.parametrize("how", ["change", "leave"])
async def test_a_cancelled_step_fences_its_worker(kept: Kept, how: str) -> None:
    owner = await planned(kept, step("runs"), step("waits"), step("waits too"))
    runs, waits, _ = await claimed(kept)
    await kept.store.wait(waits, NOW + MINUTE, says("waiting"))
    if how == "leave":
        await kept.store.commit(owner.batch(leave=((LIFECYCLE, 1),)))
    else:
        changes = tuple(StepChange(row.key, StepStatus.CANCELLED) for row in (runs, waits))
        await kept.store.commit(owner.batch(step_changes=changes))
    assert (await stored(kept, "runs")).status is (await stored(kept, "waits")).status is StepStatus.CANCELLED
    for action in (
        kept.store.finish(runs, StepStatus.DONE, {}, None, None, says("late")),
        kept.store.wait(runs, NOW, says("late")),
        kept.store.renew_claim(runs, LEASE),
    ):
        with pytest.raises(LostLease):
            await action
    signals, timers = await kept.store.pending(SHARD, NOW + MINUTE, 10)
    assert ([one.body for one in signals], timers) == ([says("waiting").body], ())


async def test_leaving_a_state_ends_its_open_steps_and_timers_before_the_next_begins(kept: Kept) -> None:
    owner = await planned(
        kept,
        step("done", StepStatus.DONE),
        step("failed", StepStatus.FAILED),
        step("unknown", StepStatus.UNKNOWN),
        step("planned", StepStatus.PLANNED),
    )
    await kept.store.commit(owner.batch(timers=(timer("dwell"), timer("deadline"))))
    new = step("resume", entry=2)
    await kept.store.commit(
        owner.moved(2, leave=((LIFECYCLE, 1),), steps_new=(new,), timers=(timer("deadline", NOW + MINUTE, entry=2),))
    )
    old = {row.key.name: row.status for row in await kept.store.steps(LIFECYCLE) if row.key.entry == 1}
    assert old == {
        "done": StepStatus.DONE,
        "failed": StepStatus.FAILED,
        "unknown": StepStatus.CANCELLED,
        "planned": StepStatus.CANCELLED,
    }
    assert await kept.store.steps(LIFECYCLE, first_entry=2) == (new,)
    assert (await kept.store.pending(SHARD, NOW + MINUTE, 10))[1] == (timer("deadline", NOW + MINUTE, entry=2),)
    assert (await kept.store.prepare(SHARD, [], [LIFECYCLE], [])).instances[LIFECYCLE].steps == (new,)


async def test_a_change_is_applied_only_from_the_statuses_it_names(kept: Kept) -> None:
    owner = await planned(kept, step("pause", StepStatus.DONE), step("flush", StepStatus.PLANNED))
    key = step("pause").key
    miss = StepChange(key, StepStatus.READY, frozenset({StepStatus.FAILED, StepStatus.UNKNOWN}), NOW, attempt=0)
    nobody = StepChange(replace(key, name="nobody"), StepStatus.READY)
    both = (
        StepChange(step("flush").key, StepStatus.READY, frozenset({StepStatus.PLANNED}), NOW),
        StepChange(step("flush").key, StepStatus.WAIVED, frozenset({StepStatus.READY})),
    )
    await kept.store.commit(owner.batch(step_changes=(miss, nobody, *both)))
    assert await stored(kept) == step("pause", StepStatus.DONE)
    assert (await stored(kept, "flush")).status is StepStatus.WAIVED


async def test_a_retried_step_has_its_full_budget_and_forgets_the_old_answer(kept: Kept) -> None:
    owner = await planned(kept, step("pause", StepStatus.FAILED, attempt=3, answer={"outcome": "failed"}, error="why"))
    retry = StepChange(step("pause").key, StepStatus.READY, frozenset({StepStatus.FAILED}), NOW, attempt=0)
    await kept.store.commit(owner.batch(step_changes=(retry,)))
    [row] = await claimed(kept)
    assert (row.attempt, row.answer, row.error) == (1, None, "why")


async def test_a_step_that_becomes_ready_wakes_the_workers(kept: Kept) -> None:
    owner = await planned(kept, step("pause", StepStatus.PLANNED))
    await kept.listens()
    loop = asyncio.get_running_loop()
    began = loop.time()
    waiting = asyncio.create_task(kept.store.wait_for_step(5))
    await asyncio.sleep(0.05)
    await kept.store.commit(owner.moved(2))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    ready = StepChange(step("pause").key, StepStatus.READY, frozenset({StepStatus.PLANNED}), NOW)
    await kept.store.commit(owner.batch(step_changes=(ready,)))
    await waiting
    assert loop.time() - began < 1
    began = loop.time()
    await kept.store.wait_for_step(0.2)
    assert loop.time() - began > 0.15


async def test_an_action_sees_its_instance_and_the_steps_beside_it(kept: Kept) -> None:
    before = step("pause", StepStatus.DONE, result={"paused": True})
    owner = await planned(kept, before, step("flush", position=1))
    [row] = await claimed(kept)
    assert await kept.store.context(row) == Loaded(snapshot(1), (before, row))
    noted = replace(snapshot(2), entry=1, data={"waivers": ["x"]})
    await kept.store.commit(owner.batch(snapshots=(SnapshotWrite(noted, 1),), log=(log(2),)))
    assert (await kept.store.context(row)).snapshot == noted


async def test_counts_say_what_waits(kept: Kept) -> None:
    owner = await planned(kept, step("a"), step("b"), step("c", StepStatus.PLANNED), step("d", StepStatus.DONE))
    await claimed(kept, limit=1)
    await kept.store.signal([says("hello")])
    await kept.store.commit(owner.batch(timers=(timer("deadline"),)))
    assert await kept.store.counts() == {
        "signals": 1,
        "outbox": 0,
        "undelivered": 0,
        "dead": 0,
        "timers": 1,
        "held": 0,
        "steps_ready": 1,
        "steps_running": 1,
        "steps_planned": 1,
    }
