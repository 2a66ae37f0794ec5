"""What processes use: CPU seconds of a whole tree of them, and memory that is resident."""

from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds by part, user and system together."""

    python: float
    postgres: float
    rabbitmq: float

    def since(self, before: "Cpu") -> "Cpu":
        return Cpu(
            self.python - before.python, self.postgres - before.postgres, self.rabbitmq - before.rabbitmq
        )  # fmt: skip


def cpu(python: Iterable[int], postgres: Iterable[int], rabbitmq: Iterable[int]) -> Cpu:
    """Of these processes, and of those among their children that have ended already."""
    return Cpu(_seconds(python), _seconds(postgres), _seconds(rabbitmq))


def resident(pid: int) -> float:
    """Megabytes (10^6 bytes) of the process that are in memory."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def _seconds(pids: Iterable[int]) -> float:
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        # What a backend used that has ended meanwhile stands with its parent.
        total += times.user + times.system + times.children_user + times.children_system
    return total
