"""What has to come to its end although its task is cancelled, once or again: beginnings and cleanings-up.

A step is cancelled more than once by design: its own limit, that of the whole step a moment later, and the end of its
owner. `asyncio.shield` alone keeps the work, but whoever is cancelled a second time no longer waits for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """What `work` comes to. It is waited for however often this task is cancelled, which is raised afterwards."""
    task = asyncio.ensure_future(work)
    if await _waited_for(task):
        raise asyncio.CancelledError from _failure(task)
    return task.result()


async def begun(making: Awaitable[T], undo: Callable[[T], Awaitable[object]]) -> T:
    """What `making` comes to. Cancelled meanwhile, `undo` takes that back before the cancellation is raised.

    For what goes on all the same once it was asked for: a thread, a program that starts, an upload on a server.
    """
    task = asyncio.ensure_future(making)
    if not await _waited_for(task):
        return task.result()
    if _failure(task) is not None:
        raise asyncio.CancelledError from _failure(task)
    undoing = asyncio.ensure_future(undo(task.result()))
    await _waited_for(undoing)
    raise asyncio.CancelledError from _failure(undoing)


async def _waited_for(task: asyncio.Future[T]) -> bool:
    """Whether this task was cancelled while it waited. `asyncio.wait` never cancels what it waits for."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


def _failure(task: asyncio.Future[T]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()
