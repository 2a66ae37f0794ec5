"""Ends a long-running command at the first signal, wherever it is; nothing is lost between two event loops."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Told(Exception):  # no error: somebody wants an end
    """The command was told to end; what it was doing was cancelled."""


class Signals:
    """From `listen` on, the first signal cancels what `run` is running; every later one only calls `again`."""

    def __init__(self, first: Callable[[], None], again: Callable[[], None]) -> None:
        self.told = False
        self._first, self._again = first, again
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def listen(self) -> None:
        """Takes the signals over for the rest of this process."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def run(self, runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises Told when a signal came before or during it."""
        if self.told:
            work.close()
            raise Told
        return runner.run(self._guarded(work))

    def finish(self, runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, whatever signals come: it is what an end needs done."""
        self.told = True
        return runner.run(work)

    async def _guarded(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._running = (asyncio.get_running_loop(), task)
        if self.told:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            if self.told:
                raise Told from None
            raise
        finally:
            self._running = None

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        if self.told:
            _between(self._again)
            return
        self.told = True
        _between(self._first)
        if self._running is not None:
            loop, task = self._running
            loop.call_soon_threadsafe(task.cancel)


def _between(say: Callable[[], None]) -> None:
    """Says it between two callbacks of the running loop: in the midst of another print it would fail, and end that."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        say()
    else:
        loop.call_soon_threadsafe(say)
