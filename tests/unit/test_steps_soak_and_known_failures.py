"""Checking on after everything passed, and telling what a restart broke from what was broken before it."""

import pytest

from schemas.base import Json
from service.errors import Permanent, Retry
from service.ports import Done
from tests.unit.steps_world import Shop

SQL, ROUND_TRIP = 0, 1
BEFORE = "sql orders: expected True, found 17 (select fresh)"


def restarted(baseline: Json) -> Shop:
    """A shop that is verified after a restart whose baseline said this of its first check."""
    shop = Shop(restart={"soak": "30s"})
    shop.data |= {"restart": {"id": "r1"}, "baseline": {"0": baseline}}
    return shop


async def test_same_finding_as_in_the_baseline_is_shown_with_both_and_not_tried_for_ever() -> None:
    shop = restarted({"status": "failed", "error": BEFORE})
    shop.memory.databases.answers["select fresh"] = 18
    with pytest.raises(Retry):
        await shop.perform("check.run", check=SQL, attempt=1, attempts=2)
    result = await shop.perform("check.run", check=SQL, attempt=2, attempts=2)
    assert (result["passed"], result["failed_before"], result["before"]) == (False, True, BEFORE)
    assert result["finding"] == f"failed before the restart already: {BEFORE.replace('17', '18')}"
    assert (result["title"], result["at"]) == ("sql orders", shop.time.now().isoformat())


async def test_count_of_tries_in_the_baselines_error_makes_no_difference() -> None:
    shop = restarted({"status": "failed", "error": f"{BEFORE} (tried 3 times)"})
    shop.memory.databases.answers["select fresh"] = 17
    assert (await shop.perform("check.run", check=SQL))["failed_before"] is True


@pytest.mark.parametrize(
    "baseline",
    [
        {"status": "failed", "error": "the database is away"},
        {"status": "done", "error": None, "passed": True, "value": True},
        {"status": "waived", "error": None},
        None,
    ],
)
async def test_another_finding_or_a_baseline_that_passed_is_news(baseline: Json) -> None:
    shop = restarted(baseline)
    shop.memory.databases.answers["select fresh"] = 17
    with pytest.raises(Retry, match="found 17"):
        await shop.perform("check.run", check=SQL)


async def test_baseline_itself_is_never_excused() -> None:
    shop = Shop()
    shop.data["restart"] = {"id": "r1"}
    with pytest.raises(Permanent):
        await shop.perform("check.run", check=SQL)


async def test_mended_by_the_restart_passes() -> None:
    shop = restarted({"status": "failed", "error": BEFORE})
    shop.memory.databases.answers["select fresh"] = True
    assert (await shop.perform("check.run", check=SQL))["passed"] is True


async def test_soak_looks_again_and_again_until_it_is_over() -> None:
    shop = restarted(None)
    shop.results["check:0"] = {"passed": True}
    shop.memory.databases.answers["select fresh"] = True
    result = await shop.perform("check.soak", check=SQL)
    assert (result["passed"], result["looks"], result["soaked"]) == (True, 11, 30.0)
    assert shop.time.passed == 30


async def test_what_fails_during_the_soak_is_found_then_and_said_with_the_time() -> None:
    shop = restarted(None)
    shop.results["check:0"] = {"passed": True}
    shop.memory.databases.answers["select fresh"] = True
    sleep = shop.time.sleep

    async def and_break(seconds: float) -> None:
        await sleep(seconds)
        if shop.time.passed >= 12:
            shop.memory.databases.answers["select fresh"] = False

    shop.time.sleep = and_break  # type: ignore[method-assign]  # the world breaks while time passes
    with pytest.raises(Retry, match="passed 4 times and then, 12 s into the soak, no more: sql orders: expected True"):
        await shop.perform("check.soak", check=SQL)


async def test_soak_of_a_round_trip_by_message_asks_when_it_is_over() -> None:
    shop = restarted(None)
    await shop.start_all()
    shop.results["check:1"] = {"passed": True}
    asked = len(shop.memory.commands.sent)
    began = shop.time.passed
    result = await shop.perform("check.soak", check=ROUND_TRIP)
    assert result["passed"] is True
    assert len(shop.memory.commands.sent) == asked + 1
    assert shop.time.passed - began >= 30


async def test_what_failed_before_is_not_soaked_and_not_called_passed() -> None:
    shop = restarted({"status": "failed", "error": BEFORE})
    shop.results["check:0"] = {"passed": False, "failed_before": True, "title": "sql orders"}
    result = await shop.perform("check.soak", check=SQL)
    assert (result["passed"], result["failed_before"]) == (False, True)
    assert shop.time.passed == 0


async def test_waived_check_is_not_proved_by_a_soak() -> None:
    shop = restarted(None)
    shop.results["check:0"] = {}
    done = await shop.actions["check.soak"].perform(shop.context("check.soak", check=SQL))
    assert isinstance(done, Done)
    assert (done.result["passed"], "failed_before" in done.result) == (False, False)


def test_plan_says_how_long() -> None:
    shop = restarted(None)
    assert shop.plan("check.soak", check=SQL) == "go on checking for 30s that on orders 'select fresh' is True"
