"""The wait for critical operations, `check.critical`, on the world in memory: what it waits for, and what it says."""

from collections.abc import Mapping

import pytest

from schemas.base import Json
from service.errors import Permanent, Retry
from tests.unit.steps_world import Shop

RUNNING = "select string_agg(name, ', ') from settlements where state = 'running'"
IDLE: Json = {"sql": "orders", "query": RUNNING, "is": None}
LOCK: Json = {"files": "/run/settle.lock", "access": "absent"}
TEN_MINUTES = 600.0


def shop(*critical: Json) -> Shop:
    made = Shop(restart={"critical": list(critical), "limits": {"critical": "10m"}})
    made.memory.databases.answers[RUNNING] = None
    made.data["restart"] = {"id": "r1", "quiet_by": "2026-03-01T00:10:00+00:00"}
    made.state = "preparing_for_restart.awaiting_quiet"
    return made


async def test_nothing_in_progress_is_done_at_once_with_what_each_check_found() -> None:
    found = await shop(IDLE, LOCK).perform("check.critical", timeout=TEN_MINUTES)
    assert [check["value"] for check in _checks(found)] == [None, {"access": "absent"}]
    assert found["waited_for"] == []


async def test_operation_in_progress_is_named_with_until_when_and_what_happens_then() -> None:
    waiting = shop(IDLE)
    waiting.memory.databases.answers[RUNNING] = "settlement 4711"
    with pytest.raises(Retry, match=r"found 'settlement 4711' .*give the restart up and resume at 00:10:00 UTC"):
        await waiting.perform("check.critical", timeout=TEN_MINUTES)
    assert 0 < waiting.time.passed <= TEN_MINUTES / 60, "the first message comes early"


async def test_lock_file_that_goes_while_it_is_waited_for_lets_the_restart_go_on() -> None:
    waiting = shop(IDLE, LOCK)
    waiting.memory.files.contents["/run/settle.lock"] = b"4711"
    sleeping = waiting.time.sleep

    async def sleep(seconds: float) -> None:
        waiting.memory.files.contents.pop("/run/settle.lock", None)
        await sleeping(seconds)

    waiting.time.sleep = sleep  # type: ignore[method-assign]  # the story happens while somebody sleeps
    found = await waiting.perform("check.critical", timeout=TEN_MINUTES)
    assert found["waited_for"] == ["files /run/settle.lock: it is there"]


async def test_component_is_asked_by_message_after_all_else_passes_and_its_silence_is_no_rest() -> None:
    waiting = shop({"roundtrip": "counter", "within": "5s"}, IDLE)
    await waiting.start_all()
    found = await waiting.perform("check.critical", timeout=TEN_MINUTES)
    assert [check["title"] for check in _checks(found)] == ["sql orders", "round trip counter"]
    waiting.counter.deaf.add("report")
    with pytest.raises(Retry, match="counter did not report within 5 s"):
        await waiting.perform("check.critical", timeout=TEN_MINUTES)


async def test_question_that_can_never_be_answered_gives_the_restart_up_at_once() -> None:
    waiting = shop(IDLE)
    waiting.memory.databases.answers[RUNNING] = Permanent("orders: relation settlements does not exist")
    with pytest.raises(Permanent, match="does not exist"):
        await waiting.perform("check.critical", timeout=TEN_MINUTES)
    assert waiting.time.passed == 0


def _checks(found: Mapping[str, Json]) -> list[dict[str, Json]]:
    checks = found["checks"]
    assert isinstance(checks, list)
    return [check for check in checks if isinstance(check, dict)]
