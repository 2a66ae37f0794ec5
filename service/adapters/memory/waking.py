"""What NOTIFY is for the real store: whoever waits for something is woken, in virtual time as in real time."""

import asyncio

from service.ports import Clock


class Bell:
    """Rings by name, kept until somebody waits for them; the timeout is measured by the clock it is given."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rung: dict[str, asyncio.Event] = {}

    def ring(self, name: str) -> None:
        self._rung.setdefault(name, asyncio.Event()).set()

    async def wait(self, name: str, timeout: float) -> None:
        """Returns when `name` was rung since the last wait, or after `timeout` seconds."""
        rung = self._rung.setdefault(name, asyncio.Event())
        if not rung.is_set():
            both = (asyncio.ensure_future(rung.wait()), asyncio.ensure_future(self._clock.sleep(timeout)))
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        rung.clear()
