"""The file of one system under Relight's care: components, databases, limits, checks. YAML is not read here.

Everything a machine may ask of a system is answered by pure methods of `System`.
"""

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self
from urllib.parse import quote

from pydantic import Field, ValidationInfo, field_validator, model_validator

from schemas.base import Closed, Duration, Json, Name
from schemas.events import Right

Secret = Annotated[str, Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]
"""A reference to a secret, `env:NAME` or `file:/path`, resolved where it is used and never stored."""

Argument = Annotated[str, Field(min_length=1, max_length=4000)]


class OnSilence(StrEnum):
    """What happens when a participant does not answer in time."""

    ABORT = "abort"
    PROCEED = "proceed"
    KILL = "kill"


class Command(StrEnum):
    """What a participant may be told."""

    PAUSE = "pause"
    FLUSH = "flush"
    REPORT = "report"
    RESUME = "resume"


class BySignal(Closed):
    """The participant is told by a signal to its process, e.g. `USR1`; sent is done."""

    signal: Annotated[str, Field(pattern=r"^[A-Z0-9+]{2,12}$")]


class ByCommand(Closed):
    """The participant is told by a program: exit status 0 is done; a JSON object on standard output is its answer."""

    command: Annotated[list[Argument], Field(min_length=1)]


class Participant(Closed):
    """How a component is told: each command by a way of its own; a command that is absent is not given."""

    pause: BySignal | ByCommand | None = None
    flush: ByCommand | None = None
    report: ByCommand | None = None
    resume: BySignal | ByCommand | None = None


class Component(Closed):
    """A part of the system that is stopped and started. `process` is an argument list, never a shell line.

    `env` values may be secret references (`env:…`, `file:…`); `cwd` is relative to the folder of the system's file.
    `keep: true`: a restart leaves it running, and starts it when it is absent.
    """

    process: Annotated[list[Argument], Field(min_length=1)]
    needs: list[Name] = Field(default_factory=list)
    participant: Literal["amqp"] | Participant | None = None
    on_silence: OnSilence = OnSilence.ABORT
    keep: bool = False
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(default_factory=dict)
    cwd: str = "."

    def takes(self, command: Command) -> bool:
        """Whether this component answers `command`."""
        if self.participant is None:
            return False
        return self.participant == "amqp" or getattr(self.participant, command.value) is not None


class Database(Closed):
    """A PostgreSQL database that the system uses; `url` is a secret reference to its DSN."""

    url: Secret


class Notice(Closed):
    lead: Duration = timedelta(minutes=15)


class Limits(Closed):
    """How long each part may take; `downtime` is the promise a report measures against."""

    drain: Duration = timedelta(minutes=5)
    stop: Duration = timedelta(minutes=2)
    start: Duration = timedelta(minutes=3)
    verify: Duration = timedelta(minutes=3)
    downtime: Duration = timedelta(minutes=10)


class Restart(Closed):
    """How this system is restarted. `pause_lease`: a pause that is not ended by then ends by itself."""

    notice: Notice = Notice()
    limits: Limits = Limits()
    pause_lease: Duration = timedelta(minutes=10)
    answer_within: Duration = timedelta(seconds=30)


class SqlCheck(Closed):
    """The first column of the first row of `query` on database `sql` equals `is`."""

    sql: Name
    query: Annotated[str, Field(min_length=1, max_length=10_000)]
    is_: Annotated[Json, Field(alias="is")] = True

    @property
    def title(self) -> str:
        return f"sql {self.sql}"


class RoundTripCheck(Closed):
    """The component `roundtrip` answers a `report` command in time: a real question through the real path."""

    roundtrip: Name
    within: Duration = timedelta(seconds=5)

    @property
    def title(self) -> str:
        return f"round trip {self.roundtrip}"


class EqualCheck(Closed):
    """The named values of all components that report them equal those in the system snapshot (relative 1e-9)."""

    equal: Annotated[list[Name], Field(min_length=1)]
    to: Literal["snapshot"] = "snapshot"

    @property
    def title(self) -> str:
        return f"equal {', '.join(self.equal)}"


Check = SqlCheck | RoundTripCheck | EqualCheck


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


class Allow(Closed):
    """Who may do what; an absent key means the local command line only (for the exceptions see `permits`)."""

    restart: list[str] | None = None
    recover: list[str] | None = None
    tasks: list[str] | None = None
    act: list[str] | None = None
    approve: list[str] | None = None
    observe: list[str] | None = None
    answer: list[str] | None = None


class Storage(Closed):
    """Where things are kept. `state` takes system snapshots and reports; this version writes `file://` only."""

    state: Annotated[str, Field(pattern=r"^file://.+$")]


class System(Closed):
    """One system's file, valid as a whole. Its `config_hash` names this very configuration everywhere."""

    system: Name
    zone: str = "UTC"
    allow: Allow = Allow()
    databases: dict[Name, Database] = Field(default_factory=dict)
    storage: Storage
    components: Annotated[dict[Name, Component], Field(min_length=1)]
    restart: Restart = Restart()
    verify: Annotated[list[Check], Field(min_length=1)]
    alerts: list[Alert] = Field(default_factory=list)
    folder: str = "."
    """Absolute folder of the file; relative paths in it are relative to this. Set by the reader of the file."""

    @field_validator("zone")
    @classmethod
    def _zone_exists(cls, value: str, info: ValidationInfo) -> str:
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is no time zone of the IANA database") from error
        return value

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        problems = []
        known = set(self.components) | set(self.databases)
        for name, component in self.components.items():
            problems += [
                f"components.{name}.needs: {n!r} is no component or database" for n in component.needs if n not in known
            ]
            if name in self.databases:
                problems.append(f"components.{name}: a database has the same name")
        for index, check in enumerate(self.verify):
            match check:
                case SqlCheck(sql=name) if name not in self.databases:
                    problems.append(f"verify.{index}.sql: {name!r} is no database")
                case RoundTripCheck(roundtrip=name) if name not in self.components:
                    problems.append(f"verify.{index}.roundtrip: {name!r} is no component")
                case RoundTripCheck(roundtrip=name) if not self.components[name].takes(Command.REPORT):
                    problems.append(f"verify.{index}.roundtrip: {name!r} does not answer `report`")
                case _:
                    pass
        metrics = [alert.metric for alert in self.alerts]
        problems += [f"alerts: {m!r} stands there twice" for m in sorted(set(metrics)) if metrics.count(m) > 1]
        if not problems:
            problems += self._circles()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _circles(self) -> Iterator[str]:
        left = {name: {n for n in c.needs if n in self.components} for name, c in self.components.items()}
        while ready := [name for name, needs in left.items() if not needs]:
            for name in ready:
                del left[name]
            for needs in left.values():
                needs.difference_update(ready)
        if left:
            yield f"components: {', '.join(sorted(left))} need each other in a circle"

    def start_order(self) -> tuple[str, ...]:
        """Component names so that each comes after all it needs; ties in the order of the file."""
        order: list[str] = []
        while len(order) < len(self.components):
            for name, component in self.components.items():
                needs = (n for n in component.needs if n in self.components)
                if name not in order and all(n in order for n in needs):
                    order.append(name)
                    break
        return tuple(order)

    def state_url(self, *names: str) -> str:
        """URL of a document below `storage.state`; `file://./var/state` is below the folder of the system's file."""
        path = self.storage.state.removeprefix("file://").rstrip("/")
        root = path if path.startswith("/") else f"{self.folder.rstrip('/')}/{path.removeprefix('./')}"
        return "file://" + quote("/".join((root, *names)))

    def alert(self, metric: str) -> Alert | None:
        """The thresholds of `metric`, if the file has any."""
        return next((alert for alert in self.alerts if alert.metric == metric), None)

    def permits(self, right: Right, user: str | None, *, local: bool, component: str | None = None) -> str | None:
        """None when allowed, else why not. `user` is the name the broker verified; `local` the local command line."""
        if local:
            return None
        if user is None:
            return f"the event carries no verified user; set the AMQP property user_id ({right} is guarded by allow:)"
        names: list[str] | None = getattr(self.allow, right.value)
        if names is not None:
            return (
                None
                if user in names
                else f"{user} may not {right} {self.system}; allow.{right} names {', '.join(names) or 'nobody'}"
            )
        match right:
            case Right.OBSERVE:
                return None
            case Right.ANSWER:
                own = f"{self.system}.{component}"
                return None if user == own else f"{user} may not answer for {component}; only {own} may"
            case _:
                why = f"allow.{right} is not set, so only the local command line may"
                return f"{user} may not {right} {self.system}; {why}"

    def config_hash(self) -> str:
        """SHA-256 (hex) of the canonical text of this configuration."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def canonical(self) -> str:
        """The text that is hashed and kept in the table of configurations; `model_validate_json` reads it back."""
        return self.model_dump_json(by_alias=True)
