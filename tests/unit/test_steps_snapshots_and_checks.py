"""The system snapshot and the checks: what counts as proof, and what does not."""

import hashlib

import pytest

from schemas.system_snapshot import SystemSnapshot
from service.errors import Permanent, Retry
from service.ports import Done
from tests.unit.steps_world import Shop

SQL, ROUND_TRIP, EQUAL = 0, 1, 2


@pytest.fixture
async def shop() -> Shop:
    shop = Shop()
    await shop.start_all()
    shop.entry += 1
    shop.counter.count = 41
    return shop


async def test_seal_says_what_everybody_held_and_where(shop: Shop) -> None:
    seal = await shop.take_down()
    assert seal["url"] == "file:///var/shop/snapshots/r1.json"
    content = shop.memory.storage.documents[str(seal["url"])]
    assert (seal["sha256"], seal["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    snapshot = SystemSnapshot.model_validate_json(content)
    assert (snapshot.system, snapshot.restart) == ("shop", "r1")
    assert snapshot.config_hash == shop.system.config_hash()
    counter, server = snapshot.components["counter"], snapshot.components["server"]
    assert (counter.values, counter.digest) == ({"count": 41}, shop.results["flush:counter"]["digest"])
    assert (counter.running, counter.kept, counter.paused["by"]) == (True, False, "amqp")
    assert (server.running, server.kept, server.digest) == (True, True, None)


async def test_sealing_twice_in_one_entry_gives_the_same_seal(shop: Shop) -> None:
    shop.data["restart"] = {"id": "r1"}
    first = await shop.perform("snapshot.seal")
    shop.time.passed += 5
    assert await shop.perform("snapshot.seal") == first


async def test_sealing_again_after_something_changed_gives_another_seal(shop: Shop) -> None:
    shop.data["restart"] = {"id": "r1"}
    first = await shop.perform("snapshot.seal")
    shop.memory.processes.crash("shop.counter")
    assert (await shop.perform("snapshot.seal"))["sha256"] != first["sha256"]


async def test_nothing_is_sealed_outside_of_a_restart(shop: Shop) -> None:
    with pytest.raises(Permanent, match="in no restart"):
        await shop.perform("snapshot.seal")


async def test_verify_reads_the_seal_back(shop: Shop) -> None:
    seal = await shop.take_down()
    assert await shop.perform("snapshot.verify") == {"verified": True, "url": seal["url"], "sha256": seal["sha256"]}
    shop.memory.storage.documents[str(seal["url"])] += b" "
    with pytest.raises(Permanent, match="but read back it is"):
        await shop.perform("snapshot.verify")


async def test_compare_after_a_restart_names_what_it_compared(shop: Shop) -> None:
    seal = await shop.take_down()
    result = await shop.perform("snapshot.compare")
    assert (result["compared"], result["sha256"]) == (True, seal["sha256"])
    assert result["digests"] == shop.data["digests"]


async def test_compare_outside_of_a_restart_says_that_there_is_nothing(shop: Shop) -> None:
    result = await shop.perform("snapshot.compare")
    assert (result["compared"], "why" in result) == (False, True)


async def test_snapshot_that_is_gone_or_of_another_restart_is_permanent(shop: Shop) -> None:
    seal = await shop.take_down()
    shop.data["restart"] = {"id": "r2"}
    with pytest.raises(Permanent, match="is of restart r1, not of r2"):
        await shop.perform("snapshot.compare")
    del shop.memory.storage.documents[str(seal["url"])]
    with pytest.raises(Permanent, match="No such file"):
        await shop.perform("snapshot.compare")


async def test_sql_check_passes_with_value_expectation_and_time(shop: Shop) -> None:
    shop.memory.databases.answers["select fresh"] = True
    result = await shop.perform("check.run", check=SQL)
    at = shop.time.now().isoformat()
    expected = {"passed": True, "title": "sql orders", "value": True, "expected": True, "seconds": 0.0, "at": at}
    assert result == expected


@pytest.mark.parametrize("value", [False, None, 1, "true"])
async def test_sql_check_is_not_passed_by_something_like_true(shop: Shop, value: bool | int | str | None) -> None:
    shop.memory.databases.answers["select fresh"] = value
    with pytest.raises(Retry, match="sql orders: expected True, found"):
        await shop.perform("check.run", check=SQL)


async def test_round_trip_asks_and_passes_when_answered(shop: Shop) -> None:
    result = await shop.perform("check.run", check=ROUND_TRIP)
    assert (result["passed"], result["value"], result["expected"]) == (True, "answered", "within 5 s")
    assert shop.memory.commands.sent[-1].command == "report"


async def test_round_trip_without_an_answer_does_not_pass(shop: Shop) -> None:
    shop.counter.deaf.add("report")
    with pytest.raises(Retry, match="counter did not report within 5 s"):
        await shop.perform("check.run", check=ROUND_TRIP)
    shop.memory.commands.bound.clear()
    with pytest.raises(Retry, match="not at the broker"):
        await shop.perform("check.run", check=ROUND_TRIP)


async def test_equal_values_pass_after_a_restart_and_others_do_not(shop: Shop) -> None:
    await shop.take_down()
    await shop.perform("component.start", "counter", paused=True)
    result = await shop.perform("check.run", check=EQUAL)
    assert (result["value"], result["expected"]) == ({"count": 41}, {"count": 41})
    shop.counter.count = 42
    with pytest.raises(Retry, match=r"counter has count = 42, before the restart 41"):
        await shop.perform("check.run", check=EQUAL)


async def test_equal_outside_of_a_restart_has_nothing_to_compare(shop: Shop) -> None:
    for state, restart in (
        ("preparing_for_restart.notifying", {"id": "r1"}),
        ("preparing_for_restart.resuming", {"id": "r1"}),
        ("starting_up.verifying", None),
    ):
        shop.state, shop.data = state, {"restart": restart} if restart else {}
        result = await shop.perform("check.run", check=EQUAL)
        assert result["expected"] == "nothing to compare yet"


async def test_equal_in_a_restart_without_a_snapshot_does_not_pass(shop: Shop) -> None:
    shop.data["restart"] = {"id": "r1"}
    with pytest.raises(Permanent, match="no system snapshot to compare with"):
        await shop.perform("check.run", check=EQUAL)


async def test_equal_does_not_pass_when_nobody_reported_the_values_before(shop: Shop) -> None:
    shop.system = shop.system.model_copy(
        update={"verify": [shop.system.verify[EQUAL].model_copy(update={"equal": ["profit"]})]}
    )
    await shop.take_down()
    await shop.perform("component.start", "counter", paused=True)
    with pytest.raises(Permanent, match="nobody reported these"):
        await shop.perform("check.run", check=0)


async def test_equal_is_excused_when_the_component_was_dead_before_the_restart(shop: Shop) -> None:
    shop.memory.processes.crash("shop.counter")
    shop.data["restart"] = {"id": "r1"}
    shop.results["flush:counter"] = await shop.perform("participant.flush", "counter")
    seal = await shop.perform("snapshot.seal")
    shop.data |= {"system_snapshot": {"url": seal["url"], "sha256": seal["sha256"]}, "digests": {}}
    result = await shop.perform("check.run", check=EQUAL)
    assert result["value"] == "lost before the restart, when counter did not run"


async def test_unknown_check_is_permanent(shop: Shop) -> None:
    with pytest.raises(Permanent, match="names check 9"):
        await shop.perform("check.run", check=9)


async def test_restart_in_memory_ends_with_what_it_began_with(shop: Shop) -> None:
    await shop.take_down()
    for name in shop.system.start_order():
        await shop.perform("component.start", name, paused=True)
    shop.memory.databases.answers["select fresh"] = True
    for index in range(3):
        assert (await shop.perform("check.run", check=index))["passed"] is True
    done = await shop.actions["participant.resume"].perform(shop.context("participant.resume", "printer"))
    assert isinstance(done, Done)
    await shop.perform("participant.resume", "counter")
    shop.counter.work()
    assert shop.counter.count == 42


def test_plans_name_what_is_checked() -> None:
    shop = Shop()
    assert shop.plan("check.run", check=SQL) == "check that on orders 'select fresh' is True"
    assert shop.plan("check.run", check=ROUND_TRIP) == "check that counter answers a question within 5 s"
    assert shop.plan("check.run", check=EQUAL) == "check that count equal those in the system snapshot"
    assert shop.plan("snapshot.seal") == "seal the system snapshot as file:///var/shop/snapshots/<restart>.json"
