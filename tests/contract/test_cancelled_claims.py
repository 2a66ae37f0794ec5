"""A step taken from a worker that is at work on it: what follows waits for its end. In memory and in PostgreSQL."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from machines.model import StepStatus
from schemas.sharding import shard_of
from service.ports import StepChange, StepKey, StepRow, Token
from tests.contract.conftest import LEASE, Kept
from tests.contract.rows import ALERT, LIFECYCLE, MINUTE, NOW, Owner, says, step

SHARD = shard_of("metrics", 4)
BRIEF = timedelta(milliseconds=200)


async def claimed(kept: Kept, lease: timedelta = LEASE, worker: str = "w1") -> tuple[StepRow, ...]:
    return await kept.store.claim(worker, ["local"], NOW, lease, 10)


async def names(kept: Kept) -> list[str]:
    """What another worker is given now."""
    return sorted(row.key.name for row in await claimed(kept, worker="w2"))


async def at_work(kept: Kept, lease: timedelta = LEASE) -> tuple[Owner, StepRow]:
    """One step of state entry 1 is running at the worker w1; `flush` follows it."""
    owner = await kept.owner(SHARD)
    rows = (step("pause"), step("flush", StepStatus.PLANNED, position=1))
    await kept.store.commit(owner.moved(1, steps_new=rows))
    [running] = await claimed(kept, lease)
    return owner, running


async def left(kept: Kept, owner: Owner) -> None:
    """The state is left; `resume` belongs to the next one."""
    await kept.store.commit(owner.moved(2, leave=((LIFECYCLE, 1),), steps_new=(step("resume", entry=2),)))


async def test_what_follows_a_cancelled_step_waits_until_its_worker_has_let_it_go(kept: Kept) -> None:
    owner, running = await at_work(kept)
    await left(kept, owner)
    assert await names(kept) == []
    [row] = [row for row in await kept.store.steps(LIFECYCLE) if row.key == running.key]
    assert row == replace(running, status=StepStatus.CANCELLED)
    await kept.store.let_go(running)
    await kept.store.let_go(running)
    assert await names(kept) == ["resume"]


async def test_dead_workers_cancelled_step_holds_back_until_its_lease_has_ended(kept: Kept) -> None:
    owner, _ = await at_work(kept, lease=BRIEF)
    await left(kept, owner)
    await kept.pass_time(0.3)
    assert await names(kept) == ["resume"]


async def test_what_follows_a_step_waived_while_it_runs_waits_too(kept: Kept) -> None:
    owner, running = await at_work(kept)
    ready = StepChange(step("flush").key, StepStatus.READY, frozenset({StepStatus.PLANNED}), NOW)
    await kept.store.commit(owner.batch(step_changes=(StepChange(running.key, StepStatus.WAIVED), ready)))
    assert await kept.store.taken([running]) == {running.token}
    assert await names(kept) == []
    await kept.store.let_go(running)
    assert await names(kept) == ["flush"]


async def test_step_whose_waiver_ends_its_state_was_waived_and_holds_back_what_follows_as_well(kept: Kept) -> None:
    owner, running = await at_work(kept)
    waived = StepChange(running.key, StepStatus.WAIVED)
    new = (step("resume", entry=2),)
    await kept.store.commit(owner.moved(2, step_changes=(waived,), leave=((LIFECYCLE, 1),), steps_new=new))
    assert {row.key.name: row.status for row in await kept.store.steps(LIFECYCLE, first_entry=1)} == {
        "pause": StepStatus.WAIVED,
        "flush": StepStatus.CANCELLED,
        "resume": StepStatus.READY,
    }
    assert await names(kept) == []
    await kept.store.let_go(running)
    assert await names(kept) == ["resume"]


async def test_other_instances_and_steps_that_nobody_performed_hold_nothing_back(kept: Kept) -> None:
    owner, running = await at_work(kept)
    other = step("call", key=StepKey(ALERT, 1, "call"))
    await kept.store.commit(owner.moved(1, ALERT, steps_new=(other,)))
    await left(kept, owner)
    assert await names(kept) == ["call"]
    await kept.store.let_go(running)
    assert await names(kept) == ["resume"]

    [waiting] = [row for row in await kept.store.steps(LIFECYCLE, first_entry=2) if row.key.name == "resume"]
    assert await kept.store.wait(waiting, NOW + MINUTE, says("waiting"))
    new = (step("verify", entry=3),)
    await kept.store.commit(owner.moved(3, leave=((LIFECYCLE, 2),), steps_new=new))
    assert await names(kept) == ["verify"]


async def test_worker_learns_which_of_its_claims_were_taken(kept: Kept) -> None:
    owner = await kept.owner(SHARD)
    await kept.store.commit(owner.moved(1, steps_new=tuple(step(name) for name in ("a", "b", "c"))))
    a, b, c = await claimed(kept)
    assert await kept.store.taken([]) == frozenset()
    assert await kept.store.taken([a, b, c]) == frozenset()
    await kept.store.finish(c, StepStatus.DONE, {}, None, None, says("done"))
    await kept.store.commit(owner.batch(step_changes=(StepChange(a.key, StepStatus.CANCELLED),)))
    assert await kept.store.taken([a, b, c]) == {a.token}
    assert await kept.store.taken([b, c]) == frozenset()


async def test_only_a_taken_step_is_let_go_and_only_by_its_worker(kept: Kept) -> None:
    owner, running = await at_work(kept)
    await kept.store.let_go(running)
    await kept.store.renew_claim(running, LEASE)
    await left(kept, owner)
    assert running.token is not None
    await kept.store.let_go(replace(running, token=Token(running.token + 1)))
    assert await names(kept) == []


async def test_workers_are_woken_when_a_running_step_is_taken_and_when_it_is_let_go(kept: Kept) -> None:
    owner, running = await at_work(kept)
    await kept.listens()
    loop = asyncio.get_running_loop()

    async def woken_by(call: object) -> bool:
        waiting = asyncio.create_task(kept.store.wait_for_step(1))
        await asyncio.sleep(0.05)
        began = loop.time()
        await call  # type: ignore[misc]  # a coroutine of the store
        await waiting
        return loop.time() - began < 0.5

    await kept.store.wait_for_step(0.05)
    assert await woken_by(kept.store.commit(owner.moved(2, leave=((LIFECYCLE, 1),))))
    assert await woken_by(kept.store.let_go(running))
    assert not await woken_by(kept.store.let_go(running))
    planned = (step("verify", StepStatus.PLANNED, entry=3),)
    await kept.store.commit(owner.moved(3, steps_new=planned))
    assert not await woken_by(kept.store.commit(owner.moved(4, leave=((LIFECYCLE, 3),))))
