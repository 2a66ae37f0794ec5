"""Starting, stopping and observing components."""

import pytest

from schemas.components import OnSilence
from service.adapters.memory.processes import ProcessScript
from service.errors import Permanent, Retry
from service.ports import Waiting
from tests.unit.steps_world import Shop


@pytest.fixture
async def shop() -> Shop:
    shop = Shop()
    await shop.start_all()
    shop.entry += 1
    return shop


async def test_component_is_started_with_its_surroundings_and_secrets_only_there(shop: Shop) -> None:
    environment = shop.memory.processes.environment("shop.counter")
    assert environment["ORDERS_DSN"] == "postgresql://shop:hush@127.0.0.1/orders"
    assert environment["PLAIN"] == "word"
    assert (environment["RELIGHT_SYSTEM"], environment["RELIGHT_COMPONENT"]) == ("shop", "counter")
    assert (environment["PGAPPNAME"], environment["RELIGHT_START"]) == ("shop.counter", "running")
    assert "RELIGHT_STATE" not in environment


async def test_running_component_is_adopted_and_asked_again(shop: Shop) -> None:
    again = await shop.perform("component.start", "server")
    assert again["adopted"] is True
    assert (await shop.perform("component.start", "counter"))["by"] == "amqp"
    assert shop.memory.processes.starts == {"shop.server": 1, "shop.counter": 1, "shop.printer": 1}


async def test_restarted_component_loads_what_it_flushed_and_says_so(shop: Shop) -> None:
    shop.counter.count = 41
    await shop.take_down()
    result = await shop.perform("component.start", "counter", paused=True)
    assert (result["compared"], result["digest"]) == (True, shop.results["flush:counter"]["digest"])
    assert (shop.counter.count, shop.counter.paused) == (41, True)


async def test_component_that_loaded_something_else_is_permanent_with_both_digests(shop: Shop) -> None:
    shop.counter.count = 41
    await shop.take_down()
    flushed = str(shop.results["flush:counter"]["digest"])
    shop.memory.storage.documents[str(shop.results["flush:counter"]["where"])] = b'{"count": 42}'
    with pytest.raises(Permanent, match=rf"flushed {flushed} .* says it loaded [0-9a-f]{{64}}"):
        await shop.perform("component.start", "counter", paused=True)


async def test_component_that_loaded_nothing_is_permanent(shop: Shop) -> None:
    await shop.take_down()
    # Started by hand, without what it flushed, it is adopted and asked.
    await shop.world.processes.start("shop.counter", ["counter"], {}, "/")
    with pytest.raises(Permanent, match="says it loaded nothing"):
        await shop.perform("component.start", "counter", paused=True)


async def test_component_waits_for_the_database_it_needs() -> None:
    shop = Shop()
    await shop.perform("component.start", "server")
    shop.memory.databases.away, began = True, shop.time.passed
    with pytest.raises(Retry, match="what it needs is not there: the database is away"):
        await shop.perform("component.start", "counter", timeout=10)
    assert "shop.counter" not in shop.memory.processes.starts
    assert 8 <= shop.time.passed - began < 10


async def test_component_that_runs_waits_for_its_database_too_before_anything_is_verified(shop: Shop) -> None:
    shop.memory.databases.away, began = True, shop.time.passed
    with pytest.raises(Retry, match="counter runs, but what it needs is not there: the database is away"):
        await shop.perform("component.start", "counter", timeout=10)
    assert shop.time.passed - began >= 8
    shop.memory.databases.away = False
    ready = await shop.perform("component.start", "counter")
    assert ready["pid"] == (await shop.world.processes.state("shop.counter")).pid


async def test_component_does_not_wait_for_the_database_of_one_that_ended() -> None:
    shop = Shop()
    await shop.perform("component.start", "server")
    shop.memory.processes.crash("shop.server")
    shop.memory.databases.away, began = True, shop.time.passed
    with pytest.raises(Permanent, match=r"server, which it needs, ended after its own start \(the database is away"):
        await shop.perform("component.start", "counter", timeout=10)
    assert "shop.counter" not in shop.memory.processes.starts
    assert shop.time.passed - began < 1


async def test_secret_that_is_not_written_yet_is_waited_for() -> None:
    shop = Shop()
    await shop.perform("component.start", "server")
    del shop.memory.secrets.values["env:ORDERS"]
    with pytest.raises(Retry, match="env:ORDERS is missing"):
        await shop.perform("component.start", "counter", timeout=10)


async def test_component_that_ends_at_once_is_shown_with_status_and_last_words() -> None:
    shop = Shop()
    shop.memory.processes.scripts["shop.server"] = ProcessScript(exits_at_once=3)
    with pytest.raises(Retry, match=r"server ended right after its start \(exit status 3\)"):
        await shop.perform("component.start", "server")


async def test_component_that_never_comes_to_the_broker_is_tried_again() -> None:
    shop = Shop()
    shop.memory.processes.on_start = lambda name, environment: None
    with pytest.raises(Retry, match="did not come to the broker in time"):
        await shop.perform("component.start", "counter", timeout=10)


async def test_silent_component_is_killed_and_started_anew_where_the_file_says_kill() -> None:
    shop = Shop()
    shop.counter.deaf.add("report")
    with pytest.raises(Retry, match="was killed"):
        await shop.perform("component.start", "counter", on_silence=OnSilence.KILL)
    shop.counter.deaf.clear()
    await shop.perform("component.start", "counter", on_silence=OnSilence.KILL)
    assert shop.memory.processes.starts["shop.counter"] == 2


async def test_stop_is_shown_by_pid_and_start_time(shop: Shop) -> None:
    running = await shop.perform("component.observe", "counter")
    shop.memory.processes.scripts["shop.counter"] = ProcessScript(ends_after=1.5)
    stopped = await shop.perform("component.stop", "counter")
    assert (stopped["running"], stopped["killed"], stopped["exit_status"]) == (False, False, 0)
    assert (stopped["pid"], stopped["started"]) == (running["pid"], running["started"])
    assert stopped["seconds"] == pytest.approx(1.5, abs=0.1)


async def test_stubborn_component_is_killed_kept_waiting_for_or_passed_over_as_its_file_says(shop: Shop) -> None:
    shop.memory.processes.scripts["shop.counter"] = ProcessScript(ignores=frozenset({"TERM"}))
    with pytest.raises(Retry, match="still runs after"):
        await shop.perform("component.stop", "counter", attempt=1, attempts=2)
    with pytest.raises(Permanent, match="still runs after"):
        await shop.perform("component.stop", "counter", attempt=2, attempts=2)
    passed = await shop.perform("component.stop", "counter", on_silence=OnSilence.PROCEED)
    assert (passed["running"], passed["killed"]) == (True, False)
    killed = await shop.perform("component.stop", "counter", on_silence=OnSilence.KILL)
    assert (killed["running"], killed["killed"], killed["exit_status"]) == (False, True, -9)


async def test_process_that_was_told_to_end_is_never_adopted_but_waited_for(shop: Shop) -> None:
    shop.memory.processes.scripts["shop.counter"] = ProcessScript(ends_after=3.0)
    await shop.memory.processes.tell("shop.counter", "TERM")
    old = await shop.perform("component.observe", "counter")
    assert (old["running"], old["ending"]) == (True, True)
    started = await shop.perform("component.start", "counter")
    assert started["pid"] != old["pid"]
    assert shop.memory.processes.starts["shop.counter"] == 2
    assert "ending" not in await shop.perform("component.observe", "counter")


async def test_old_process_that_does_not_end_is_a_persons_passed_over_or_killed_as_its_file_says(shop: Shop) -> None:
    shop.memory.processes.scripts["shop.counter"] = ProcessScript(ignores=frozenset({"TERM"}))
    await shop.memory.processes.tell("shop.counter", "TERM")
    old = await shop.perform("component.observe", "counter")
    with pytest.raises(Permanent, match=rf"it is the old one.*`kill -KILL {old['pid']}`; then retry"):
        await shop.perform("component.start", "counter")
    passed = await shop.perform("component.start", "counter", on_silence=OnSilence.PROCEED)
    assert (passed["old"], passed["adopted"], passed["pid"]) == (True, False, old["pid"])
    assert f"`kill -KILL {old['pid']}`; then adopt" in str(passed["detail"])
    assert shop.memory.processes.starts["shop.counter"] == 1
    killed = await shop.perform("component.start", "counter", on_silence=OnSilence.KILL)
    assert killed["pid"] != old["pid"]
    assert shop.memory.processes.starts["shop.counter"] == 2


async def test_program_that_hangs_at_a_start_is_silence_that_the_file_decides_about(shop: Shop) -> None:
    shop.memory.processes.crash("shop.printer")
    shop.memory.programs.scripts["printer", "report"] = Retry("it did not end within 4 s and was ended")
    with pytest.raises(Retry, match="was told to report by printer: it did not end"):
        await shop.perform("component.start", "printer", timeout=10)
    context = shop.context("component.start", "printer", timeout=10, on_silence=OnSilence.PROCEED)
    assert isinstance(await shop.actions["component.start"].perform(context), Waiting)


async def test_stop_that_was_interrupted_is_probed(shop: Shop) -> None:
    action, context = shop.actions["component.stop"], shop.context("component.stop", "counter")
    assert await action.probe(context) is None
    shop.memory.processes.crash("shop.counter")
    probed = await action.probe(context)
    assert probed is not None
    assert probed.result["running"] is False


async def test_stop_fits_into_its_timeout(shop: Shop) -> None:
    shop.memory.processes.scripts["shop.counter"] = ProcessScript(ignores=frozenset({"TERM"}))
    await shop.perform("component.stop", "counter", timeout=20, on_silence=OnSilence.KILL)
    assert shop.time.passed < 20


async def test_down_is_confirmed_only_without_processes_and_sessions(shop: Shop) -> None:
    with pytest.raises(Retry, match="counter still runs"):
        await shop.perform("component.confirm_stopped")
    for name in ("counter", "printer"):
        await shop.perform("component.stop", name)
    shop.memory.databases.open_sessions["shop.counter"] = ("pid 7, shop, idle, 00:00:01: select 1",)
    with pytest.raises(Retry, match=r"shop\.counter in orders: pid 7, shop, idle"):
        await shop.perform("component.confirm_stopped")
    shop.memory.databases.open_sessions.clear()
    result = await shop.perform("component.confirm_stopped")
    assert result == {"stopped": ["counter", "printer"], "still_running": [], "databases": ["orders"]}


async def test_down_is_confirmed_without_a_database_that_ended_with_its_server(shop: Shop) -> None:
    for name in ("counter", "printer"):
        await shop.perform("component.stop", name)
    shop.memory.databases.away = True
    with pytest.raises(Retry, match="away"):
        await shop.perform("component.confirm_stopped", attempt=4, attempts=5)
    result = await shop.perform("component.confirm_stopped", attempt=5, attempts=5)
    assert (result["stopped"], result["databases"]) == (["counter", "printer"], [])
    assert result["away"] == {"orders": "the database is away"}


async def test_component_that_may_be_passed_over_is_recorded_as_running(shop: Shop) -> None:
    await shop.perform("component.stop", "counter")
    result = await shop.perform("component.confirm_stopped")
    assert result["still_running"] == ["printer"]


async def test_observing_says_what_is_there(shop: Shop) -> None:
    assert (await shop.perform("component.observe", "counter"))["running"] is True
    shop.memory.processes.crash("shop.counter")
    assert (await shop.perform("component.observe", "counter"))["running"] is False
    assert (await Shop().perform("component.observe", "counter"))["pid"] is None


def test_plans_say_what_would_be_done() -> None:
    shop = Shop()
    start = shop.plan("component.start", "counter", paused=True)
    assert (
        start == "start counter paused unless it runs: counter; after orders answers; until it reports what it loaded"
    )
    assert shop.plan("component.stop", "counter") == "stop counter: TERM, wait 18 s, then call a person"
    assert "counter, printer ended and left no session in orders" in shop.plan("component.confirm_stopped")
    assert shop.plan("component.observe", "server") == "look whether server runs"
