"""What has to come to its end does so, however often its task is cancelled, and the cancellation is not lost."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.cancellation import begun, to_the_end
from service.timeouts import time_limit


class Making:
    """Something that is made in its own time, and taken back in its own time."""

    def __init__(self, fails: Exception | None = None, undoing_fails: Exception | None = None) -> None:
        self.made, self.taken_back = asyncio.Event(), asyncio.Event()
        self.may_be_made, self.may_be_undone = asyncio.Event(), asyncio.Event()
        self._fails, self._undoing_fails = fails, undoing_fails

    async def make(self) -> str:
        await self.may_be_made.wait()
        if self._fails is not None:
            raise self._fails
        self.made.set()
        return "made"

    async def undo(self, what: str) -> None:
        assert what == "made"
        await self.may_be_undone.wait()
        if self._undoing_fails is not None:
            raise self._undoing_fails
        self.taken_back.set()


async def cancelled_often(making: Making, work: Callable[[Making], Awaitable[object]]) -> asyncio.Task[object]:
    """`work`, ended, after a cancellation in each of its moments."""

    async def run() -> object:
        return await work(making)

    task = asyncio.create_task(run())
    for event in (None, making.may_be_made, making.may_be_undone):
        if event is not None:
            event.set()
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
    await asyncio.wait({task}, timeout=5)
    return task


async def test_what_nobody_cancels_is_left_alone() -> None:
    making = Making()
    making.may_be_made.set()
    assert await begun(making.make(), making.undo) == "made"
    assert await to_the_end(making.make()) == "made"
    assert not making.taken_back.is_set()
    for work in (begun(Making.make(failing()), making.undo), to_the_end(Making.make(failing()))):
        with pytest.raises(OSError, match="full"):
            await work


def failing() -> Making:
    making = Making(fails=OSError("full"))
    making.may_be_made.set()
    return making


async def test_what_was_begun_is_taken_back_however_often_its_task_is_cancelled() -> None:
    making = Making()
    task = await cancelled_often(making, lambda it: begun(it.make(), it.undo))
    assert task.cancelled()
    assert making.made.is_set()
    assert making.taken_back.is_set()


async def test_what_cleans_up_comes_to_its_end_however_often_its_task_is_cancelled() -> None:
    making = Making()
    task = await cancelled_often(making, lambda it: to_the_end(it.make()))
    assert task.cancelled()
    assert making.made.is_set()


@pytest.mark.parametrize(
    "making", [{"fails": OSError("full")}, {"undoing_fails": OSError("full")}], ids=["making", "undoing"]
)
async def test_cancellation_stays_one_where_something_failed_meanwhile_and_has_it_as_its_cause(
    making: dict[str, OSError],
) -> None:
    causes: list[BaseException | None] = []

    async def work(it: Making) -> None:
        try:
            await begun(it.make(), it.undo)
        except asyncio.CancelledError as cancelled:
            causes.append(cancelled.__cause__)
            raise

    task = await cancelled_often(Making(**making), work)
    assert task.cancelled()
    assert [str(cause) for cause in causes] == ["full"]


async def test_two_limits_that_end_a_moment_apart_are_a_timeout_and_leave_no_cancellation_behind() -> None:
    making = Making()
    making.may_be_undone.set()
    asyncio.get_running_loop().call_later(0.1, making.may_be_made.set)
    with pytest.raises(TimeoutError):
        async with time_limit(0.03), time_limit(0.02):
            await begun(making.make(), making.undo)
    assert making.taken_back.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
