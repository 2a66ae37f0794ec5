"""Components that are units of systemd, on the world in memory: what the file may say, and what steps make of it."""

import copy
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.base import Json
from schemas.components import Component, OnSilence
from schemas.system import System
from service.adapters.memory.processes import ProcessScript
from service.errors import Permanent, Retry
from service.ports import HttpAnswer
from service.steps.observation import markdown, observe
from tests.unit.steps_world import SHOP, Shop

UNIT = "unit:shop-printer.service"


def shop(**printer: Json) -> Shop:
    """The shop whose printer is a unit; it is told by signals."""
    components: dict[str, Any] = copy.deepcopy(SHOP["components"])  # type: ignore[arg-type]
    ways = {"pause": {"signal": "USR1"}, "resume": {"signal": "USR2"}}
    components["printer"] = {"unit": "shop-printer", "needs": ["counter"], "participant": ways, **printer}
    return Shop(components=components)


@pytest.mark.parametrize("unit", ["metrics-report", "a@b.service", "x.y", "dev-disk\\x2duuid", "worker@1", "_x"])
def test_name_of_a_unit_is_taken_with_or_without_its_end(unit: str) -> None:
    assert Component(unit=unit).service == f"{unit.removesuffix('.service')}.service"


@pytest.mark.parametrize(
    "unit",
    [
        "", "-x", "--now", "a b", "a;b", "a*", "a?", "[a]", "a/b", "../x", "/x", "a\nb", "$(x)", "x.socket", "x.timer",
        "x.target", "worker@", "worker@.service", "a" * 260, "é",
    ],
)  # fmt: skip
def test_hostile_or_foreign_name_of_a_unit_is_refused(unit: str) -> None:
    with pytest.raises(ValidationError):
        Component(unit=unit)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({}, "here is none"),
        ({"unit": "x", "process": ["x"]}, "here are both"),
        ({"unit": "x", "env": {"A": "b"}}, "env means nothing for a unit"),
        ({"unit": "x", "cwd": "/srv"}, "cwd means nothing for a unit"),
    ],
)
def test_component_is_a_process_or_a_unit(text: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Component.model_validate(text)


def test_file_with_a_unit_is_read_back_as_it_was_stored() -> None:
    system = shop().system
    again = System.model_validate_json(system.canonical())
    assert again.components["printer"].service == "shop-printer.service"
    assert again.config_hash() == system.config_hash()


async def test_unit_is_waited_for_until_it_is_up_and_told_to_pause_directly_after() -> None:
    place = shop()
    place.memory.processes.scripts[UNIT] = ProcessScript(up_after=3.0)
    await place.perform("component.start", "server")
    await place.perform("component.start", "counter")
    result = await place.perform("component.start", "printer", paused=True)
    assert place.time.passed >= 3.0
    assert result["invocation"] == "run-1003"
    assert place.memory.processes.told == [(UNIT, "USR1")]
    assert place.memory.processes.environment(UNIT)["RELIGHT_START"] == "paused"  # the adapter hands none of it on


async def test_unit_is_told_to_pause_by_http_as_soon_as_it_listens() -> None:
    place = shop(participant={"pause": {"http": "POST :8080/pause"}})
    asked: list[str] = []

    async def send(method: str, url: str, headers: dict[str, str], body: bytes, timeout: timedelta) -> HttpAnswer:
        asked.append(headers["Idempotency-Key"])
        if len(asked) < 3:
            raise Retry("nobody listens there")
        return HttpAnswer(200)

    place.memory.http.send = send  # type: ignore[assignment,method-assign]
    await place.perform("component.start", "printer", paused=True)
    assert len(asked) == 3
    assert set(asked) == {"lifecycle/shop:1:component.start:printer:pause"}


async def test_unit_that_ran_before_is_paused_only_when_a_restart_is_under_way() -> None:
    place = shop()
    await place.world.processes.start(UNIT, [], {}, "/")
    assert (await place.perform("component.start", "printer", paused=True))["adopted"] is True
    assert place.memory.processes.told == []
    place.data["restart"] = {"id": "r1"}
    await place.perform("component.start", "printer", paused=True)
    assert place.memory.processes.told == [(UNIT, "USR1")]


def test_plan_says_whether_a_unit_is_paused() -> None:
    started = "`systemctl start shop-printer.service`"
    assert (
        shop()
        .plan("component.start", "printer", paused=True)
        .startswith(f"start printer and pause it at once unless it runs: {started}")
    )
    assert "(it works at once) unless it runs" in shop(participant="amqp").plan(
        "component.start", "printer", paused=True
    )


async def test_observing_relight_says_how_systemd_finds_a_unit() -> None:
    place = shop()
    for name in ("server", "counter", "printer"):
        await place.perform("component.start", name)
    place.memory.databases.answers["select fresh"] = True
    seen = await observe(place.system, (), place.actions, place.world, place.clock)
    assert "- ✓ printer: shop-printer.service is active (running), pid 1003" in markdown(seen)
    assert seen.summary.startswith("3/3 run,")
    place.memory.processes.crash(UNIT)
    seen = await observe(place.system, (), place.actions, place.world, place.clock)
    assert "- ✗ printer: shop-printer.service is inactive (dead)" in markdown(seen)
    assert seen.summary.startswith("2/3 run,")


def test_component_of_the_design_is_read() -> None:
    text = {
        "unit": "metrics-report", "host": "m1", "needs": ["calculator"],
        "participant": {"pause": {"http": "POST :8080/pause"}}, "on_silence": "proceed",
    }  # fmt: skip
    component = Component.model_validate(text)
    assert (component.service, component.place, component.command) == ("metrics-report.service", "m1", [])


async def test_unit_that_refuses_to_pause_after_its_start_is_not_called_started() -> None:
    place = shop(participant={"pause": {"http": "POST :8080/pause"}})
    place.memory.http.scripts["POST", "http://127.0.0.1:8080/pause"] = HttpAnswer(403, b"not you")
    with pytest.raises(Permanent, match=r"not you.*nothing could tell a unit to start paused"):
        await place.perform("component.start", "printer", paused=True)


async def test_unit_that_does_not_come_up_in_time_is_said_in_the_words_of_systemd() -> None:
    place = shop()
    place.memory.processes.scripts[UNIT] = ProcessScript(up_after=1000.0)
    with pytest.raises(Retry, match=r"does not come up: shop-printer.service is still activating \(start\)"):
        await place.perform("component.start", "printer")


async def test_unit_that_ends_right_after_its_start_says_how_and_its_last_words() -> None:
    place = shop()
    place.memory.processes.scripts[UNIT] = ProcessScript(exits_at_once=7, comes_back=5.0)
    with pytest.raises(Retry, match=r"shop-printer.service is activating \(auto-restart\), exit status 7"):
        await place.perform("component.start", "printer")


async def test_stop_goes_through_systemd_and_what_comes_back_is_not_called_stopped() -> None:
    place = shop(on_silence="kill")
    place.memory.processes.scripts[UNIT] = ProcessScript(comes_back=2.0)
    await place.perform("component.start", "printer")
    assert place.plan("component.stop", "printer").startswith("stop printer: `systemctl stop shop-printer.service`")
    place.results["stop:printer"] = await place.perform("component.stop", "printer")
    assert place.results["stop:printer"]["running"] is False
    place.results["stop:counter"] = {"running": False}
    # Somebody starts it, and it ends by itself: systemd will start it once more.
    await place.world.processes.start(UNIT, [], {}, "/")
    with pytest.raises(Retry, match=r"printer was stopped and comes back: shop-printer\.service is active"):
        await place.perform("component.confirm_stopped")
    place.memory.processes.crash(UNIT)
    with pytest.raises(Retry, match=r"comes back: shop-printer.service is activating \(auto-restart\)"):
        await place.perform("component.confirm_stopped")


@pytest.mark.parametrize("on_silence", [OnSilence.KILL, OnSilence.PROCEED, OnSilence.ABORT])
async def test_hung_stop_follows_the_file(on_silence: OnSilence) -> None:
    place = shop()
    place.memory.processes.scripts[UNIT] = ProcessScript(ignores=frozenset({"TERM"}))
    await place.perform("component.start", "printer")
    if on_silence is OnSilence.ABORT:
        with pytest.raises(Permanent, match=r"systemctl kill --kill-who=all --signal=KILL shop-printer\.service"):
            await place.perform("component.stop", "printer", on_silence=on_silence)
        return
    done = await place.perform("component.stop", "printer", on_silence=on_silence)
    assert (done["running"], done["killed"]) == ((False, True) if on_silence is OnSilence.KILL else (True, False))


async def test_another_run_than_the_resumed_one_is_found_out() -> None:
    place = shop()
    place.memory.processes.scripts[UNIT] = ProcessScript(comes_back=1.0)
    await place.perform("component.start", "printer")
    place.results["resume:printer"] = await place.perform("participant.resume", "printer")
    assert (await place.perform("component.confirm_running", "printer"))["running"] is True
    place.memory.processes.crash(UNIT)
    with pytest.raises(Permanent, match="was started and has ended since"):
        await place.perform("component.confirm_running", "printer")
    await place.time.sleep(1.5)
    with pytest.raises(Permanent, match=r"was resumed as the run run-\d+ of shop-printer.service and is the run"):
        await place.perform("component.confirm_running", "printer")


async def test_unit_in_whose_control_group_relight_runs_is_never_stopped() -> None:
    place = shop()
    await place.perform("component.start", "printer")
    place.memory.processes.control_groups[UNIT] = (
        "/system.slice/shop-printer.service",
        "/system.slice/relight.service",
    )
    place.memory.grounds.groups["/system.slice/relight.service"] = "Relight itself (pid 5) is in it"
    for action, component in (("identity.check", None), ("component.stop", "printer")):
        with pytest.raises(Permanent, match="printer was not stopped, because Relight stands on it: Relight itself"):
            await place.perform(action, component)
    assert place.memory.processes.told == []


async def test_process_that_became_a_unit_in_the_file_is_not_run_twice() -> None:
    place = shop()
    await place.world.processes.start("shop.printer", ["printer"], {}, "/")
    with pytest.raises(Permanent, match=r"still runs as the process \d+ that Relight started before"):
        await place.perform("component.observe", "printer")
    with pytest.raises(Permanent, match="the unit was not started beside it"):
        await place.perform("component.start", "printer")


async def test_masked_unit_is_found_out_before_anything_is_stopped() -> None:
    place = shop()
    await place.perform("component.start", "printer")
    place.memory.processes.scripts[UNIT] = ProcessScript(refused="is masked, so systemd would not start it (again)")
    with pytest.raises(Permanent, match="is masked"):
        await place.perform("identity.check")
