"""What a new owner waits for before it lets due times pass: whoever answered in time must not be called silent."""

from collections.abc import Callable

from service.ports import Clock, Lanes

LISTEN = 1.0
"""Seconds after the lanes have begun to consume: answers that came while nobody decided lie in the queue and arrive
within milliseconds. By the monotonic clock: a wall clock that is set back must not make the listening last."""

OPENING = 5.0
"""Seconds for the lanes to begin: with many systems their queues take seconds to declare. Then RabbitMQ counts as away,
and due times pass without it."""


class Listening:
    """One task runs `run`; `left` is asked whenever a due time has come."""

    def __init__(self, lanes: Lanes, clock: Clock, told: Callable[[], None]) -> None:
        """`told` is called when it is known how long the listening lasts."""
        self._lanes, self._clock, self._told = lanes, clock, told
        self._until = clock.monotonic() + OPENING + LISTEN

    @property
    def left(self) -> float:
        """Seconds, at most, until due times may pass; nothing or less: they may."""
        return self._until - self._clock.monotonic()

    async def run(self) -> None:
        """Ends when both lanes consume, or when that takes too long."""
        await self._lanes.opened(OPENING)
        self._until = self._clock.monotonic() + LISTEN
        self._told()
