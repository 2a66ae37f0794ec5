"""The parts of a system that are stopped and started, and how each is told. No component is touched here."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from schemas.base import Closed, Duration, Name

_HTTP = r"^(POST|PUT|GET) (https?://[^\s]+|:\d{1,5}/[^\s]*|env:[A-Za-z_][A-Za-z0-9_]*|file:[^\s]+)$"
_HEADER, _HEADER_VALUE = r"^[A-Za-z][A-Za-z0-9-]{0,62}$", r"^[^\x00-\x1f\x7f]{1,4000}$"
"""What may stand in a header: no line end, by which another one would begin."""

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
    DISCONNECT = "disconnect"
    RESUME = "resume"


class BySignal(Closed):
    """The participant is told by a signal to its process, e.g. `USR1`; sent is done."""

    signal: Annotated[str, Field(pattern=r"^[A-Z0-9+]{2,12}$")]


class ByCommand(Closed):
    """The participant is told by a program: exit status 0 is done; a JSON object on standard output is its answer."""

    command: Annotated[list[Argument], Field(min_length=1)]


class ByHttp(Closed):
    """The participant is told by a request, `POST :8080/pause` or `POST http://host/pause`: a 2xx answer is done.

    The command's data are the JSON body; a JSON object in the answer is its answer. Without a host it is 127.0.0.1.
    A URL that holds a token is a secret reference, `POST env:PAUSE_URL`, and so may be the values of `headers`.
    `within`: how long one request may take.
    """

    http: Annotated[str, Field(pattern=_HTTP, max_length=1000)]
    headers: dict[Annotated[str, Field(pattern=_HEADER)], Annotated[str, Field(pattern=_HEADER_VALUE)]] = Field(
        default_factory=dict
    )
    within: Duration = timedelta(seconds=10)

    @field_validator("http")
    @classmethod
    def _holds_no_password(cls, value: str) -> str:
        where = value.split(" ", 1)[1]
        if "://" in where and "@" in where.split("://", 1)[1].split("/", 1)[0]:
            raise ValueError("a user or password must not stand in the file; put the URL behind env:NAME or file:PATH")
        return value

    @property
    def method(self) -> str:
        return self.http.split(" ", 1)[0]

    @property
    def where(self) -> str:
        """The URL, or the secret reference to it."""
        where = self.http.split(" ", 1)[1]
        return f"http://127.0.0.1{where}" if where.startswith(":") else where


class Participant(Closed):
    """How a component is told: each command by a way of its own; a command that is absent is not given."""

    pause: BySignal | ByCommand | ByHttp | None = None
    flush: ByCommand | ByHttp | None = None
    report: ByCommand | ByHttp | None = None
    disconnect: BySignal | ByCommand | ByHttp | None = None
    resume: BySignal | ByCommand | ByHttp | None = None


LOCAL = "local"
"""The place of what names no host."""

UNIT = r"^[A-Za-z0-9_][A-Za-z0-9:_.@\\-]{0,246}$"
"""A unit of systemd: no option, no glob, no path, and with `.service` no longer than the 255 that systemd takes."""
SERVICE = ".service"
OTHERS = (".socket", ".timer", ".target", ".mount", ".automount", ".device", ".path", ".scope", ".slice", ".swap")
"""The units that run nothing by themselves."""


class Component(Closed):
    """A part of the system that is stopped and started: a `process` that Relight starts itself (an argument list, never
    a shell line), or a `unit`, a service of the host's systemd (`.service` may be left out); one of the two.

    `host`: on which it runs; its steps wait for a `relight serve` that has this name in RELIGHT_PLACES.

    `env` values may be secret references (`env:…`, `file:…`); `cwd` is relative to the folder of the system's file.
    `keep: true`: a restart leaves it running, and starts it when it is absent.
    """

    process: Annotated[list[Argument], Field(min_length=1)] | None = None
    unit: Annotated[str, Field(pattern=UNIT)] | None = Field(default=None, validate_default=True)
    needs: list[Name] = Field(default_factory=list)
    participant: Literal["amqp"] | Participant | None = None
    on_silence: OnSilence = OnSilence.ABORT
    keep: bool = False
    host: Name | None = None
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(default_factory=dict)
    cwd: str = "."

    @field_validator("unit")
    @classmethod
    def _one_of_the_two(cls, unit: str | None, info: ValidationInfo) -> str | None:
        if "process" not in info.data:
            return unit  # it was given, and is told to be wrong
        if unit is None and info.data["process"] is None:
            raise ValueError("a component has a `process` (an argument list) or a `unit` (of systemd); here is none")
        if unit is not None and info.data["process"] is not None:
            raise ValueError("a component has a `process` or a `unit`, and here are both; take one away")
        if unit is not None and unit.endswith(OTHERS):
            raise ValueError(f"{unit} is no service; name the service that it belongs to")
        if unit is not None and unit.removesuffix(SERVICE).endswith("@"):
            raise ValueError(f"{unit} is a template; name one instance of it, as {unit.removesuffix(SERVICE)}1")
        return unit

    @field_validator("env", "cwd")
    @classmethod
    def _not_with_a_unit(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("unit") is not None and value not in ({}, "."):
            raise ValueError(f"{info.field_name} means nothing for a unit: it stands in the unit's own file of systemd")
        return value

    @property
    def service(self) -> str | None:
        """The unit with `.service`; None for a process."""
        return None if self.unit is None else f"{self.unit.removesuffix(SERVICE)}{SERVICE}"

    @property
    def command(self) -> list[str]:
        """The argument list of its process; empty for a unit, which systemd starts."""
        return self.process or []

    @property
    def place(self) -> str:
        """Where its steps are performed."""
        return self.host or LOCAL

    def takes(self, command: Command) -> bool:
        """Whether this component answers `command`."""
        if self.participant is None:
            return False
        return self.participant == "amqp" or getattr(self.participant, command.value) is not None
