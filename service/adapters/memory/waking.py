"""What NOTIFY is for the real store: whoever waits for something is woken, in virtual time as in real time."""

import asyncio
import contextlib

from service.timeouts import time_limit


class Bell:
    """Rings by name, kept until somebody waits for them; the running loop measures the timeout."""

    def __init__(self) -> None:
        self._rung: dict[str, asyncio.Event] = {}

    def ring(self, name: str) -> None:
        self._rung.setdefault(name, asyncio.Event()).set()

    async def wait(self, name: str, timeout: float) -> None:
        """Returns when `name` was rung since the last wait, or after `timeout` seconds."""
        rung = self._rung.setdefault(name, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with time_limit(timeout):
                await rung.wait()
        rung.clear()
