"""Steps are performed where their component is, and so are checks that run its program; everything else is local."""

from typing import Any

import pytest
from pydantic import ValidationError

from machines.lifecycle import LIFECYCLE
from machines.plan import plan
from schemas.system import System
from service.engine.places import place_of
from service.errors import Retry
from tests.unit.steps_world import SHOP, Shop


def shop(**printer: Any) -> dict[str, Any]:
    """The system's file, its printer on the host m1."""
    components: Any = SHOP["components"]
    return {"components": {**components, "printer": {**components["printer"], "host": "m1", **printer}}}


AMQP = {"participant": "amqp"}


def placed(state: str, system: System) -> dict[str, str]:
    return {step.name: place_of(step, system) for step in plan(LIFECYCLE, state, system, {})}


def test_steps_of_a_component_wait_for_its_host_and_all_others_are_local() -> None:
    system = System.model_validate({**SHOP, **shop(**AMQP)})
    assert placed("shutting_down", system) == {
        "stop:printer": "m1", "stop:counter": "local", "confirm_stopped": "local"
    }  # fmt: skip
    assert placed("starting_up.initializing", system)["start:printer"] == "m1"


def test_check_that_runs_a_program_of_a_component_runs_it_on_its_host() -> None:
    asks = [{"roundtrip": "printer"}, {"sql": "orders", "query": "select fresh", "is": True}]
    told = System.model_validate({**SHOP, **shop(), "verify": asks})
    asked = System.model_validate({**SHOP, **shop(**AMQP), "verify": asks})
    assert placed("starting_up.verifying", told)["check:0"] == "m1"
    assert placed("starting_up.verifying", told)["check:1"] == "local"
    assert placed("starting_up.verifying", asked)["check:0"] == "local"


def test_comparison_of_what_is_reported_on_another_host_only_is_refused_with_the_file() -> None:
    with pytest.raises(ValidationError, match="printer reports on m1 only; have it report over AMQP or HTTP"):
        System.model_validate({**SHOP, **shop()})


async def test_stop_on_another_host_is_confirmed_by_what_that_host_saw() -> None:
    desk = Shop(**shop(**AMQP))
    desk.results["stop:printer"] = {"running": True, "pid": 7, "started": 70}
    desk.results["stop:counter"] = {"running": False}
    confirmed = await desk.perform("component.confirm_stopped")
    assert (confirmed["stopped"], confirmed["still_running"]) == (["counter"], ["printer"])
    desk.results["stop:printer"] = {"running": False, "pid": 7, "started": 70}
    assert (await desk.perform("component.confirm_stopped"))["stopped"] == ["counter", "printer"]
    desk.results["stop:printer"] = {}
    assert (await desk.perform("component.confirm_stopped"))["unseen"] == ["printer"]
    desk.memory.databases.open_sessions["shop.printer"] = ("pid 7, shop, idle, 00:00:01: select 1",)
    with pytest.raises(Retry, match=r"shop\.printer in orders: pid 7"):
        await desk.perform("component.confirm_stopped")


async def test_snapshot_says_of_another_host_only_what_was_answered_there() -> None:
    desk = Shop(**shop(**AMQP))
    desk.data["restart"] = {"id": "r1"}
    desk.state = "preparing_for_restart.preserving"
    desk.results["pause:printer"] = {"by": "amqp"}
    await desk.perform("snapshot.seal")
    (url,) = [one.url for one in await desk.world.storage.list("file:///var/shop")]
    assert b'"printer":{"bytes":null,"digest":null,"kept":false,"paused":{"by":"amqp"},"pid":null,"running":true' in (
        await desk.world.storage.read(url)
    )
