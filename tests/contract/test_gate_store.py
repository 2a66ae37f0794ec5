"""What a gate keeps, told once for the memory double and for PostgreSQL: order, bounds of time, one transaction."""

from dataclasses import replace
from datetime import timedelta

import pytest

from service.errors import LostLease
from service.ports import EventKey, GateChange, GateRow, GateView, HeldRow, OutMessage
from tests.contract.conftest import Kept
from tests.contract.rows import LIFECYCLE, MINUTE, NOW, event, inbox, out


def held(name: str, expires_in: timedelta = MINUTE, system: str = "metrics") -> HeldRow:
    message = OutMessage("relight.operations", f"{system}.orders.submit", name, f'{{"id":"{name}","n":1e2}}')
    return HeldRow(system, EventKey("svc-deploy", name), "shop", False, message, NOW, NOW + expires_in)


def change(count: int, *new: HeldRow, system: str = "metrics", **more: object) -> GateChange:
    return GateChange(system, LIFECYCLE, count, new=new, **more)  # type: ignore[arg-type]  # handed through


def plain(row: HeldRow) -> HeldRow:
    return replace(row, id=0)


async def test_held_operations_leave_in_the_order_in_which_they_came_and_before_what_the_batch_says(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.batch(gates=(change(2, held("a"), held("b")),)))
    await kept.store.commit(
        owner.batch(gates=(change(3, held("c")), change(1, held("x", system="other"), system="other")))
    )
    assert await kept.store.unsent(0, 10) == ()
    ids = await kept.store.commit(owner.batch(gates=(change(0, released=True),), outbox=(out("up"),)))
    rows = await kept.store.unsent(0, 10)
    assert [row.message.message_id for row in rows] == ["a", "b", "c", "id-up"]
    assert rows[0].message == held("a").message
    assert [row.id for row in rows][3:] == list(ids)
    found = await kept.store.prepare(0, [], [], [], ["metrics", "other"], NOW)
    assert found.gates == {
        "metrics": GateRow("metrics"),
        "other": GateRow("other", 1, 1, NOW + MINUTE),
    }


async def test_what_a_batch_holds_while_it_releases_stays_behind(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.batch(gates=(change(1, held("a")),)))
    await kept.store.commit(owner.batch(gates=(change(1, held("b"), released=True),)))
    assert [row.message.message_id for row in await kept.store.unsent(0, 10)] == ["a"]
    assert (await kept.store.prepare(0, [], [], [], ["metrics"], NOW)).gates["metrics"].waiting == 1


async def test_gate_knows_how_many_wait_and_which_have_expired(kept: Kept) -> None:
    owner = await kept.owner()
    rows = (held("late"), held("short", MINUTE / 2), held("long", 2 * MINUTE))
    await kept.store.commit(owner.batch(gates=(change(3, *rows),)))
    gate = (await kept.store.prepare(0, [], [], [], ["metrics"], NOW)).gates["metrics"]
    assert gate == GateRow("metrics", 3, 3, NOW + MINUTE / 2)
    gate = (await kept.store.prepare(0, [], [], [], ["metrics"], NOW + MINUTE)).gates["metrics"]
    assert (gate.waiting, gate.held, gate.expiring, gate.more) == (1, 3, NOW + 2 * MINUTE, False)
    assert [plain(row) for row in gate.overdue] == [held("short", MINUTE / 2), held("late")]
    assert (await kept.store.prepare(0, [], [], ["metrics"])).gates == {}
    assert (await kept.store.prepare(0, [], [], [], ["never"], NOW)).gates == {"never": GateRow("never")}


async def test_expired_one_is_gone_is_never_released_and_counts_as_refused(kept: Kept) -> None:
    owner = await kept.owner()
    taken_in = (inbox("short", "absorbed"), inbox("long", "absorbed"))
    rows = (held("short", MINUTE / 2), held("long"))
    await kept.store.commit(owner.batch(inbox=taken_in, gates=(change(2, *rows),)))
    later = replace(owner.batch(), at=NOW + MINUTE / 2)
    overdue = (await kept.store.prepare(0, [], [], [], ["metrics"], later.at)).gates["metrics"].overdue
    await kept.store.commit(replace(later, gates=(change(0, released=True, expired=overdue),)))
    assert [row.message.message_id for row in await kept.store.unsent(0, 10)] == ["long"]
    assert await kept.store.outcomes(event("short")) == {LIFECYCLE: "refused"}
    assert await kept.store.outcomes(event("long")) == {LIFECYCLE: "absorbed"}
    assert (await kept.store.counts())["held"] == 0


async def test_release_leaves_what_has_expired_for_being_told(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.batch(gates=(change(2, held("short", MINUTE / 2), held("long")),)))
    later = replace(owner.batch(), at=NOW + MINUTE / 2)
    await kept.store.commit(replace(later, gates=(change(0, released=True),)))
    assert [row.message.message_id for row in await kept.store.unsent(0, 10)] == ["long"]
    gate = (await kept.store.prepare(0, [], [], [], ["metrics"], later.at)).gates["metrics"]
    assert [row.event.id for row in gate.overdue] == ["short"]


async def test_more_expired_ones_than_one_batch_tells_of_are_announced(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.batch(gates=(change(60, *(held(f"{n:02}") for n in range(60))),)))
    gate = (await kept.store.prepare(0, [], [], [], ["metrics"], NOW + MINUTE)).gates["metrics"]
    assert (len(gate.overdue), gate.more, gate.waiting) == (50, True, 0)
    await kept.store.commit(owner.batch(gates=(change(60, expired=gate.overdue),)))
    gate = (await kept.store.prepare(0, [], [], [], ["metrics"], NOW + MINUTE)).gates["metrics"]
    assert (len(gate.overdue), gate.more) == (10, False)


async def test_who_is_not_the_owner_neither_holds_nor_releases(kept: Kept) -> None:
    owner = await kept.owner()
    await kept.store.commit(owner.batch(gates=(change(1, held("a")),)))
    await kept.store.release(owner.lease)
    with pytest.raises(LostLease):
        await kept.store.commit(owner.batch(gates=(change(0, released=True),)))
    with pytest.raises(LostLease):
        await kept.store.commit(owner.batch(gates=(change(2, held("b")),)))
    assert await kept.store.unsent(0, 10) == ()
    assert (await kept.store.counts())["held"] == 1


async def test_people_see_how_many_wait_since_when_and_until_when(kept: Kept) -> None:
    owner = await kept.owner()
    assert await kept.store.gates() == ()
    rows = (held("a"), replace(held("b", MINUTE / 2), held_at=NOW + timedelta(seconds=1)))
    other = change(1, held("x", system="other"), system="other")
    await kept.store.commit(owner.batch(gates=(change(2, *rows), other)))
    mine = GateView("metrics", 2, NOW, NOW + MINUTE / 2)
    assert await kept.store.gates() == (mine, GateView("other", 1, NOW, NOW + MINUTE))
    assert await kept.store.gates("metrics") == (mine,)
