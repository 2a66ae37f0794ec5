"""An event loop whose time is virtual: it never waits, it advances. A day passes in a moment, the same way every time.

Also time, ids and randomness for whoever runs on this loop, and processes on it that can be frozen. No part of Relight
lives here.
"""

import asyncio
import random
import selectors
import uuid
from asyncio import TimerHandle
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

START = datetime(2026, 1, 1, tzinfo=UTC)
"""Where virtual time begins; an arbitrary whole hour."""


class _Skipping(selectors.SelectSelector):
    """Instead of waiting for a timeout, tells the loop that it has passed. Nothing comes from outside, so no file is
    ever looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits and nothing is due: the simulation is stuck")
        if timeout > 0:
            self.passed += timeout
        return []


class _Task(asyncio.Task[T]):
    """A task that sets keep in the same order in every process: by number, not by address."""

    def __init__(self, number: int, coroutine: Coroutine[Any, Any, T], **more: Any) -> None:
        self._number = number
        super().__init__(coroutine, **more)

    def __hash__(self) -> int:
        return self._number


class Frozen:
    """One process on the loop, as whoever freezes it holds it: nothing that it began runs while `frozen`."""

    def __init__(self) -> None:
        self.frozen = False
        self._backlog: list[Callable[[], None]] = []

    def keep(self, callback: Callable[[], None]) -> None:
        """To be run at the thaw, in this order."""
        self._backlog.append(callback)

    def thaw(self) -> None:
        """It goes on with what it believed: everything that became due meanwhile runs now."""
        self.frozen = False
        backlog, self._backlog = self._backlog, []
        loop = asyncio.get_running_loop()
        for callback in backlog:
            loop.call_soon(callback)


PROCESS: ContextVar[Frozen | None] = ContextVar("process", default=None)
"""The process that the running code belongs to."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` moves only by what it would have waited."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        self._freezing = False
        self._numbers = count(1)
        super().__init__(self._skipping)
        self.set_task_factory(lambda loop, coroutine, **more: _Task(next(self._numbers), coroutine, loop=loop, **more))

    def time(self) -> float:
        return self._skipping.passed

    @contextmanager
    def freezing(self, process: Frozen) -> Generator[None, None, None]:
        """`process` stands still inside the block."""
        process.frozen = self._freezing = True
        try:
            yield
        finally:
            process.thaw()

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]  # typeshed's TypeVarTuple says the same
        if self._freezing:
            process = PROCESS.get() if context is None else context.get(PROCESS, None)
            if process is not None and process.frozen:
                handle = asyncio.Handle(callback, args, self, context)
                process.keep(lambda: None if handle.cancelled() else self._later(callback, args, context))
                return handle
        return super().call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]  # the same
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        own: list[TimerHandle] = []
        handle = super().call_at(when, self._due, own, callback, args, context=context)
        own.append(handle)
        return handle

    def _due(self, own: list[TimerHandle], callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """What was to run now runs, or waits for the thaw of its process and may be cancelled until then."""
        process = PROCESS.get() if self._freezing else None
        if process is None or not process.frozen:
            callback(*args)
        else:
            process.keep(lambda: None if own[0].cancelled() else callback(*args))

    def _later(self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None) -> None:
        if context is None:
            callback(*args)
        else:
            context.run(callback, *args)


class VirtualClock:
    """The clock of the running virtual loop. `skew`: how far the wall clock of this machine is off."""

    def __init__(self, skew: timedelta = timedelta(0)) -> None:
        self._start = START + skew

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SeededIds:
    """Ids and randomness from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # it has to be the same every time

    def uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def random(self) -> float:
        return self._random.random()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
