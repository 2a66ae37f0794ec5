"""The real clock and the real ids; the simulation hands the engine its own instead."""

import asyncio
import random
import time
import uuid
from datetime import UTC, datetime


class SystemClock:
    """Wall clock in UTC, monotonic clock, and sleep of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemIds:
    """UUIDv7 (RFC 9562, section 5.7) and random numbers from the operating system's entropy."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def uuid(self) -> str:
        stamp = time.time_ns() // 1_000_000
        value = (stamp << 80) | (0x7 << 76) | (self._random.getrandbits(12) << 64)
        return str(uuid.UUID(int=value | (0b10 << 62) | self._random.getrandbits(62)))

    def random(self) -> float:
        return self._random.random()
