"""The rows of what could not be taken in or told, and of what a person did about it. Frozen data only."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service.ports.rows import OutMessage


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Something that could not be taken in, with why. `body` is byte for byte what arrived."""

    queue: str
    routing_key: str
    reasons: tuple[str, ...]
    body: bytes
    source: str | None
    event_id: str | None
    user: str | None
    attempts: int
    at: datetime


class Settled(StrEnum):
    """What a person did about a dead letter or an undelivered notification."""

    REPLAYED = "replayed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Settlement:
    """What was done, by whom (`ana (local)`), why, and when."""

    how: Settled
    by: str
    why: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A dead letter as stored; `settled` once a person has done something about it."""

    id: int
    letter: DeadLetter
    settled: Settlement | None = None


@dataclass(frozen=True, slots=True)
class UndeliveredRow:
    """A notification that the status exchange refused; only the status log has it."""

    id: int
    message: OutMessage
    why: str
    at: datetime
    settled: Settlement | None = None
