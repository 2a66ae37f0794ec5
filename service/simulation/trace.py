"""What happens in a simulated story, line by line with virtual time: the same to the byte for the same seed.

The engine's own log lines are part of it. Nothing is decided here.
"""

import hashlib
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from service.ports import Clock
from service.simulation.virtual import PROCESS

BROKEN = frozenset({"owner.broke", "runner.broke", "runner.action_broke", "intake.taken_apart", "intake.failed_alone"})
"""Log events that no fault of the world explains: something of Relight's own gave way."""


class Trace:
    """Lines, in order. `broken` are those that tell of a defect, with its traceback."""

    def __init__(self, clock: Clock) -> None:
        self.lines: list[str] = []
        self.broken: list[str] = []
        self._clock = clock

    def say(self, what: str) -> None:
        """One line, said by the process that runs, or by the world."""
        process = PROCESS.get()
        who = str(process) if process is not None else "·"
        self.lines.append(f"{self._clock.monotonic():10.3f} {who:<8} {what}")

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it: two runs of one seed have the same."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def _hear(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """A structlog processor that keeps the line and lets nobody else have it."""
        name = event.pop("event")
        given = event.pop("exc_info", None)
        error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
        fields = " ".join(f"{key}={value}" for key, value in event.items())
        self.say(f"{name} {fields}{f' {error!r}' if error is not None else ''}")
        if name in BROKEN:
            told = "".join(traceback.format_exception(error)) if error is not None else ""
            self.broken.append(f"{name} {fields}\n{told}".rstrip())
        raise structlog.DropEvent

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Inside the block every log line of this program goes here, and nowhere else."""
        before = structlog.get_config()
        processors = before["processors"]
        kept = list(processors)
        # Loggers that were made before hold this very list.
        processors[:] = [self._hear]
        wrapper = structlog.make_filtering_bound_logger("info")
        structlog.configure(processors=processors, wrapper_class=wrapper, cache_logger_on_first_use=False)
        try:
            yield
        finally:
            processors[:] = kept
            structlog.configure(**before)
