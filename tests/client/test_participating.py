"""Taking part with the client: each command's handler once, stale commands refused, pauses that end by themselves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from relight_client import Answer, Command, Forbidden, Refused, Relight
from relight_client import participating as knobs
from schemas.events import ParticipantAnswered
from service.embedded import RabbitServer
from tests.client.desk import SOON, Desk, stranger
from tests.integration.proxy import proxied


class Calculator:
    """A component that writes down what it is told. `slow`: seconds that its flush takes."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.paused = False
        self.slow = 0.0
        self.fails = 0

    @property
    def handlers(self) -> dict[str, Any]:
        return {"pause": self.pause, "resume": self.resume, "flush": self.flush, "report": self.report}

    async def pause(self, command: Command) -> None:
        self.told.append("pause")
        self.paused = True

    def resume(self, command: Command) -> Answer:
        self.told.append("resume")
        self.paused = False
        return Answer("running again")

    async def flush(self, command: Command) -> Answer:
        self.told.append("flush")
        await asyncio.sleep(self.slow)
        if self.fails:
            self.fails -= 1
            raise OSError("disk full")
        return Answer(digest="0" * 64, where="file:///var/state")

    async def report(self, command: Command) -> Answer:
        self.told.append("report")
        return Answer(values={"reports": self.told.count("report")})


@contextlib.asynccontextmanager
async def taking_part(url: str, calculator: Calculator) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(Relight(url).participate("metrics", "calculator", calculator.handlers))
    yield task
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
async def calculator(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Calculator]:
    monkeypatch.setattr(knobs, "AGAIN_AFTER", 0.2)
    made = Calculator()
    async with taking_part(desk.url, made):
        yield made


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON):
        while not true():
            await asyncio.sleep(0.02)


async def test_answer_is_an_event_that_relight_takes(desk: Desk, calculator: Calculator) -> None:
    answer = await desk.asked("flush", "c1")
    read = ParticipantAnswered.model_validate(answer)
    assert (read.component, read.outcome, read.digest, read.where) == (
        "calculator", "done", "0" * 64, "file:///var/state",
    )  # fmt: skip
    message = desk.heard[-1]
    assert message.routing_key == "metrics.participant.answered"
    assert message.user_id == desk.events[-1]["source"]


async def test_handler_is_called_once_for_each_command_id(desk: Desk, calculator: Calculator) -> None:
    first = await desk.asked("flush", "c1")
    again = await desk.asked("flush", "c1")
    assert {**again, "token": 0} == {**first, "token": 0}
    assert calculator.told == ["flush"]
    await desk.asked("flush", "c2")
    assert calculator.told == ["flush", "flush"]


async def test_command_that_comes_twice_while_it_is_done_is_done_once(desk: Desk, calculator: Calculator) -> None:
    calculator.slow = 0.5
    async with asyncio.timeout(SOON):
        while not await desk.command("flush", "c1"):
            await asyncio.sleep(0.05)
    await desk.command("flush", "c1")
    await until(lambda: any(answer["token"] == desk.token for answer in desk.answers))
    assert {answer["outcome"] for answer in desk.answers} == {"done"}
    assert calculator.told == ["flush"]


async def test_report_is_always_fresh_and_may_overtake(desk: Desk, calculator: Calculator) -> None:
    await desk.asked("report", "r1")
    await desk.asked("pause", "p1")
    answer = await desk.asked("report", "r1", token=1)
    assert (answer["outcome"], answer["values"]) == ("done", {"reports": 2})


async def test_lower_token_expired_and_unknown_commands_are_refused(desk: Desk, calculator: Calculator) -> None:
    await desk.asked("pause", "p1", token=7)
    stale = await desk.asked("resume", "p2", token=6)
    assert (stale["outcome"], stale["detail"]) == ("refused", "token 6 is lower than 7")
    late = await desk.asked("flush", "p3", token=8, expires=-1)
    assert late["outcome"] == "refused"
    assert "void after" in late["detail"]
    strange = await desk.asked("disconnect", "p4", token=9)
    assert (strange["outcome"], strange["detail"]) == ("refused", "calculator knows no command 'disconnect'")
    assert calculator.told == ["pause"]


async def test_failure_is_told_and_the_same_command_tried_again(desk: Desk, calculator: Calculator) -> None:
    calculator.fails = 1
    failed = await desk.asked("flush", "c1")
    assert (failed["outcome"], failed["detail"]) == ("failed", "OSError: disk full")
    assert (await desk.asked("flush", "c1"))["outcome"] == "done"
    assert calculator.told == ["flush", "flush"]


async def test_handler_that_refuses_says_why(desk: Desk) -> None:
    def never(_: Command) -> Answer:
        raise Refused("month end is running")

    calculator = Calculator()
    calculator.pause = never  # type: ignore[assignment,method-assign]
    async with taking_part(desk.url, calculator):
        answer = await desk.asked("pause", "p1")
    assert (answer["outcome"], answer["detail"]) == ("refused", "month end is running")


async def test_pause_ends_by_itself_when_its_lease_does(desk: Desk, calculator: Calculator) -> None:
    await desk.asked("pause", "p1", lease=0.6)
    assert calculator.paused
    await until(lambda: not calculator.paused)
    assert calculator.told == ["pause", "resume"]
    # Asked again, it is paused again: to answer `done` from memory would be a lie.
    assert (await desk.asked("pause", "p1", lease=600))["outcome"] == "done"
    assert calculator.paused


async def test_renewed_or_resumed_pause_is_not_ended(desk: Desk, calculator: Calculator) -> None:
    await desk.asked("pause", "p1", lease=0.8)
    await desk.asked("pause", "p2", lease=600)
    await asyncio.sleep(1.2)
    assert calculator.told == ["pause", "pause"]
    await desk.asked("pause", "p3", lease=0.8)
    await desk.asked("resume", "r1")
    await asyncio.sleep(1.2)
    assert calculator.told == ["pause", "pause", "pause", "resume"]


async def test_renewal_prolongs_the_pause_without_a_handler_even_beside_one_at_work(
    desk: Desk, calculator: Calculator
) -> None:
    calculator.slow = 2.0
    await desk.asked("pause", "p1", lease=1.2)
    assert await desk.command("flush", "f1")
    for number in (1, 2, 3):
        await asyncio.sleep(0.6)
        # A higher token than that of the flush, which is answered all the same.
        assert (await desk.asked("pause", f"n{number}", lease=1.2, renews=True))["outcome"] == "done"
    await until(lambda: any(answer["commandid"] == "f1" for answer in desk.answers))
    assert [answer["outcome"] for answer in desk.answers if answer["commandid"] == "f1"] == ["done"]
    assert calculator.told == ["pause", "flush"]
    await until(lambda: not calculator.paused)
    assert calculator.told == ["pause", "flush", "resume"]


async def test_pause_that_has_ended_is_not_renewed(desk: Desk, calculator: Calculator) -> None:
    await desk.asked("pause", "p1", lease=0.5)
    await until(lambda: not calculator.paused)
    answer = await desk.asked("pause", "n1", lease=600, renews=True)
    assert (answer["outcome"], calculator.paused) == ("refused", False)
    assert "not paused" in answer["detail"]


async def test_lease_ends_although_the_broker_is_away(desk: Desk) -> None:
    calculator = Calculator()
    async with proxied(desk.url) as (proxy, url), taking_part(url, calculator):
        await desk.asked("pause", "p1", lease=1.0)
        proxy.cut()
        proxy._target = ("127.0.0.1", 1)
        await until(lambda: not calculator.paused)
    assert calculator.told == ["pause", "resume"]


async def test_connection_cut_while_a_handler_works_costs_neither_work_nor_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knobs, "AGAIN_AFTER", 0.2)
    calculator = Calculator()
    calculator.slow = 0.6
    async with proxied(desk.url) as (proxy, url), taking_part(url, calculator):
        async with asyncio.timeout(SOON):
            while not await desk.command("flush", "c1"):
                await asyncio.sleep(0.05)
        await until(lambda: calculator.told)
        proxy.cut()
        await until(lambda: desk.answers)
        assert [(a["commandid"], a["outcome"]) for a in desk.answers] == [("c1", "done")]
        assert (await desk.asked("report", "r1"))["outcome"] == "done"
    assert calculator.told == ["flush", "report"]


async def test_user_of_another_component_is_told_at_once(desk: Desk, rabbit_server: RabbitServer) -> None:
    url = await stranger(rabbit_server, desk, read="^metrics.*")
    with pytest.raises(Forbidden, match=r"relight\.commands"):
        async with asyncio.timeout(SOON):
            await Relight(url).participate("metrics", "calculator", {})
