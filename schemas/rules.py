"""What a system's people have laid down: who may do what, when nothing may be done, who is told, what alarms."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from schemas.base import Closed, Duration, Name

Secret = Annotated[str, Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]
"""A reference to a secret, `env:NAME` or `file:/path`, resolved where it is used and never stored."""

_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_FREEZE = r"^(MON|TUE|WED|THU|FRI|SAT|SUN)(-(MON|TUE|WED|THU|FRI|SAT|SUN))? \d\d:\d\d-\d\d:\d\d( [A-Za-z0-9_+/-]+)?$"


class Direction(StrEnum):
    ABOVE = "above"
    BELOW = "below"


class Alert(Closed):
    """Thresholds of one metric. A level is left only when the value has come back by `hysteresis` (same unit)."""

    metric: Name
    warning: float
    critical: float
    direction: Direction = Direction.ABOVE
    hysteresis: Annotated[float, Field(ge=0)] = 0.0
    for_: Annotated[Duration, Field(alias="for")] = timedelta(0)
    unit: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        ordered = self.warning < self.critical if self.direction is Direction.ABOVE else self.warning > self.critical
        if not ordered:
            raise ValueError(f"critical must lie {self.direction} warning")
        return self


class Approve(Closed):
    """Who must agree before a restart begins: one of `by` other than the requester, `within`; else `on_silence`."""

    by: Annotated[list[str], Field(min_length=1)]
    within: Duration = timedelta(minutes=15)
    on_silence: Literal["deny", "allow"] = "deny"


class Allow(Closed):
    """Who may do what; an absent key means the local command line only (for the exceptions see `permits`)."""

    restart: list[str] | None = None
    recover: list[str] | None = None
    tasks: list[str] | None = None
    act: list[str] | None = None
    approve: Approve | None = None
    observe: list[str] | None = None
    answer: list[str] | None = None


class Gate(Closed):
    """Operations go through Relight to whoever works on them: at once while the system works, held while it does not.

    `holds`: at most so many, further ones are refused. `expires`: after so long a held one is void, and that is told.
    `from`: the users who may send operations (absent: any verified user). `to`: the users who may read them from the
    queue `relight.operations.<system>`, beside the components of the system.
    """

    holds: Annotated[int, Field(ge=1, le=10_000)] = 1000
    expires: Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=7))] = timedelta(minutes=15)
    from_: Annotated[list[str] | None, Field(alias="from")] = None
    to: list[str] = Field(default_factory=list)


class Freeze(Closed):
    """A time in which nothing planned may begin: `MON-FRI 09:30-16:00 America/New_York`. Never applied to recovery.

    Without a zone the system's own counts. An end before the beginning means the next day.
    """

    when: Annotated[str, Field(pattern=_FREEZE)]
    blocks: Annotated[list[Literal["restart", "tasks"]], Field(min_length=1)]

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self._parts("UTC")
        return self

    def covers(self, moment: datetime, zone: str) -> bool:
        """Whether `moment` (aware) lies in it; `zone` is the system's."""
        days, begin, end, where = self._parts(zone)
        local = moment.astimezone(where)
        minute = local.hour * 60 + local.minute
        today, yesterday = local.weekday(), (local.weekday() - 1) % 7
        if begin <= end:
            return today in days and begin <= minute < end
        return (today in days and minute >= begin) or (yesterday in days and minute < end)

    def ends(self, moment: datetime, zone: str) -> datetime:
        """When the time that covers `moment` is over (in the line's own zone). Only asked when it covers it."""
        _, begin, end, where = self._parts(zone)
        local = moment.astimezone(where)
        tomorrow = begin > end and local.hour * 60 + local.minute >= begin
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        day = midnight + timedelta(days=tomorrow + end // 1440)
        return day.replace(hour=end % 1440 // 60, minute=end % 60, fold=local.fold)

    def _parts(self, zone: str) -> tuple[frozenset[int], int, int, ZoneInfo]:
        days, times, *rest = self.when.split(" ")
        first, _, last = days.partition("-")
        start, stop = _DAYS.index(first), _DAYS.index(last or first)
        covered = frozenset((start + n) % 7 for n in range((stop - start) % 7 + 1))
        begin, end = (_minutes(text) for text in times.split("-"))
        try:
            return covered, begin, end, ZoneInfo(rest[0] if rest else zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{rest[0] if rest else zone!r} is no time zone of the IANA database") from error


class Channels(Closed):
    """Who is told, by severity: secret references to Apprise URLs (`mailto://…`, `slack://…`, `json://…`)."""

    critical: list[Secret] = Field(default_factory=list)
    warning: list[Secret] = Field(default_factory=list)
    info: list[Secret] = Field(default_factory=list)


def _minutes(text: str) -> int:
    hours, minutes = (int(part) for part in text.split(":"))
    if hours > 24 or minutes > 59 or hours * 60 + minutes > 24 * 60:
        raise ValueError(f"{text} is no time of day")
    return hours * 60 + minutes
