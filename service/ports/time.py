"""Time, ids and randomness as arguments: the simulation hands the engine its own."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Time as an argument."""

    def now(self) -> datetime:
        """Aware UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Ids(Protocol):
    """Identifiers and randomness as an argument."""

    def uuid(self) -> str:
        """A new UUIDv7, as text."""
        ...

    def random(self) -> float:
        """Uniform in [0, 1): jitter."""
        ...
