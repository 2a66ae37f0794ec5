"""A time limit holds wherever it is needed, also in a task that was asked to end, on every Python."""

import asyncio
import contextlib
from typing import Any

import pytest

from service.timeouts import _TimeLimit, time_limit

LIMITS = pytest.mark.parametrize("limit", [_TimeLimit, time_limit], ids=["ours", "chosen"])


@LIMITS
async def test_what_takes_too_long_is_ended_with_a_timeout(limit: Any) -> None:
    with pytest.raises(TimeoutError):
        async with limit(0.01) as mine:
            await asyncio.sleep(60)
    assert mine.expired()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@LIMITS
async def test_what_is_quick_or_fails_by_itself_is_left_alone(limit: Any) -> None:
    async with limit(60) as mine:
        await asyncio.sleep(0)
    assert not mine.expired()
    with pytest.raises(TimeoutError, match="not mine"):
        async with limit(None) as mine:
            raise TimeoutError("not mine")
    assert not mine.expired()


@LIMITS
async def test_cleaning_up_in_a_cancelled_task_is_limited(limit: Any) -> None:
    said: list[str] = []

    async def works() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            try:
                async with limit(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                said.append("given up")

    task = asyncio.create_task(works())
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert said == ["given up"]
    assert task.cancelled()


@LIMITS
async def test_what_follows_a_failed_task_group_is_limited(limit: Any) -> None:
    async def fails() -> None:
        raise ValueError("broken")

    async def works() -> None:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fails())
        with pytest.raises(TimeoutError):
            async with limit(0.01):
                await asyncio.sleep(60)

    await asyncio.create_task(works())


@LIMITS
async def test_cancellation_from_outside_stays_one_though_the_time_is_over_too(limit: Any) -> None:
    async def works() -> None:
        async with limit(0.01):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                task.cancel()
                raise

    task = asyncio.create_task(works())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
