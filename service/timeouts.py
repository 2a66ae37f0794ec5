"""A limit on how long a block may take, which also holds while its task is being cancelled. Nothing waits here.

Before Python 3.11.3 `asyncio.timeout` raises CancelledError instead of TimeoutError in a task that was asked to end, or
in which a task group has failed before (https://github.com/python/cpython/issues/102780): whoever cleaned up with a
limit ended there, in silence. Debian 12 comes with Python 3.11.2.
"""

import asyncio
import sys
from types import TracebackType
from typing import Self


class _TimeLimit:
    """What `asyncio.timeout` does from Python 3.11.3 on."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._expired = False
        self._due: asyncio.TimerHandle | None = None

    def expired(self) -> bool:
        """Whether it was this limit that ended the block."""
        return self._expired

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task")
        self._task, self._asked_before = task, task.cancelling()
        if self._seconds is not None:
            self._due = asyncio.get_running_loop().call_later(max(self._seconds, 0), self._expire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._due is not None:
            self._due.cancel()
        # Another wish to end, from outside, goes first: then the cancellation stays what it is.
        if self._expired and self._task.uncancel() <= self._asked_before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


time_limit = asyncio.timeout if sys.version_info >= (3, 11, 3) else _TimeLimit
