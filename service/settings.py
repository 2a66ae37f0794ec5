"""What may be set from outside: environment variables `RELIGHT_…`, one class a concern. Nothing is opened here."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.base import Duration, format_duration
from service.errors import Misconfigured

PREFIX = "RELIGHT_"

CHECKOUT = Path(__file__).resolve().parents[1]
"""The folder that holds `service/`: Relight is run in place."""

HEALTH_PORT = 8410
"""Below 32768, where the kernel takes ports for outgoing connections, and not registered for anything common."""

OTHERS = frozenset(
    {
        "POSTGRES_BIN",
        "RABBITMQ_BIN",
        "PYTHON",
        "CRASH_AT",
        "USERS",
        "EMBEDDED_RABBITMQ",
        "EMBEDDED_POSTGRES",
        "COMMAND",
    }
)
"""Variables with our prefix that other parts of Relight read; they are no settings of these classes."""


def _scheme(*allowed: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in allowed or not parts.hostname:
            raise ValueError(f"is not a URL like {allowed[0]}://user:password@host:port/name")
        try:
            _ = parts.port
        except ValueError:
            # Its own words repeat what it took for a port, which may be half of a password.
            why = "its port is no number; in a password @ is written %40, / %2F, : %3A and % %25"
            raise ValueError(f"is not a URL like {allowed[0]}://user:password@host:port/name: {why}") from None
        return value

    return AfterValidator(check)


def _between(least: timedelta, most: timedelta) -> AfterValidator:
    def check(value: timedelta) -> timedelta:
        if not least <= value <= most:
            raise ValueError(f"should be from {format_duration(least)} to {format_duration(most)}")
        return value

    return AfterValidator(check)


def _words(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


class _Concern(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class Servers(_Concern):
    """Where Relight keeps its own state. Both URLs or neither: with neither, private servers are started."""

    postgres_url: Annotated[SecretStr, _scheme("postgresql", "postgres")] | None = None
    """Default: none, a private PostgreSQL. URL of the database that holds Relight's tables; it carries a password."""

    amqp_url: Annotated[SecretStr, _scheme("amqp", "amqps")] | None = None
    """Default: none, a private RabbitMQ. URL of the broker; it carries a password."""

    rabbitmq_api: Annotated[SecretStr, _scheme("http", "https")] | None = None
    """Default: none. URL of the broker's management API, for the policies; without it they are printed instead."""

    home: Path = CHECKOUT / ".relight"
    """Default: `.relight` in the checkout. Private state: servers' data, users' passwords, processes' logs."""

    scratch: Path = Path("/var/tmp")  # noqa: S108  # each test makes a closed folder of its own in it
    """Default: /var/tmp. Where a backup is restored in a test; it needs the room of the database for as long."""

    @property
    def embedded(self) -> bool:
        """Whether Relight runs on private servers of its own."""
        return self.postgres_url is None


class Engine(_Concern):
    """How the engine shares and paces its work."""

    shards: Annotated[int, Field(ge=1, le=256)] = 1
    """Default: 1. Slices of the systems, each with an owner: with two, one process decides for one while PostgreSQL
    commits for the other, and two replicas may decide at once. The same on every replica; docs/guarantees.md has the
    limits of more than one."""

    lease: Annotated[Duration, _between(timedelta(seconds=2), timedelta(minutes=5))] = timedelta(seconds=10)
    """Default: 10s. How long an owner may decide without renewing: after a crash another takes over this much later."""

    batch: Annotated[int, Field(ge=1, le=5000)] = 200
    """Default: 200 events. Most that one transaction takes in; larger ones gain little and delay a cancel."""

    prefetch: Annotated[int, Field(ge=1, le=65_535)] = 600
    """Default: 600 deliveries a lane, three batches: we stay busy, and little is redelivered after a crash."""

    places: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words), Field(min_length=1)] = ("local",)
    """Default: `local`. Names, by comma, of the hosts and clusters whose steps this process performs."""


class Http(_Concern):
    """Where `/livez`, `/readyz` and `/metrics` answer."""

    http_host: str = "127.0.0.1"
    """Default: 127.0.0.1. The address to listen on; another one shows health and metrics to that network."""

    http_port: Annotated[int, Field(ge=0, le=65_535)] = HEALTH_PORT
    """Default: 8410, and when that is taken the next free one, which `serve` prints; a port that was set is taken or
    refused. 0: any free one."""

    @property
    def port_was_chosen(self) -> bool:
        """Whether a person named the port: then no other one will do."""
        return "http_port" in self.model_fields_set


class LogFormat(StrEnum):
    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class Logs(_Concern):
    """What the log lines on standard error look like."""

    log_format: LogFormat = LogFormat.AUTO
    """Default: auto, `text` on a terminal and `json` (one object a line) elsewhere."""

    log_level: Annotated[str, Field(pattern=r"^(debug|info|warning|error)$")] = "info"
    """Default: info, every outage, step, and transition that is not a mere measurement's; warning: outages only."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of them, as one argument."""

    servers: Servers
    engine: Engine
    http: Http
    logs: Logs

    @classmethod
    def load(cls) -> Self:
        """From the environment. Raises Misconfigured with every wrong variable by name; values are never repeated."""
        problems: list[str] = []
        found: dict[str, _Concern] = {}
        for name, concern in (("servers", Servers), ("engine", Engine), ("http", Http), ("logs", Logs)):
            try:
                found[name] = concern()
            except ValidationError as error:
                problems += [
                    f"{PREFIX}{str(item['loc'][0]).upper()}: {_plain(item['msg'])}"
                    for item in error.errors(include_url=False, include_input=False)
                ]
        servers = found.get("servers")
        if isinstance(servers, Servers) and (servers.postgres_url is None) != (servers.amqp_url is None):
            there, missing = ("POSTGRES_URL", "AMQP_URL") if servers.amqp_url is None else ("AMQP_URL", "POSTGRES_URL")
            problems.append(
                f"{PREFIX}{missing}: is not set but {PREFIX}{there} is; set both, or neither for private servers"
            )
        if problems:
            raise Misconfigured(tuple(problems))
        return cls(**found)  # type: ignore[arg-type]  # each name has its own class, as listed above


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should", "should")


def strangers(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Variables that look like ours and are not: a misspelt setting would otherwise be a silent default."""
    known = {name.upper() for concern in (Servers, Engine, Http, Logs) for name in concern.model_fields}
    lines = []
    for name in sorted(environ):
        short = name.removeprefix(PREFIX)
        if name == short or short in known or short in OTHERS or short.startswith("TEST_"):
            continue
        near = difflib.get_close_matches(short, known, n=1, cutoff=0.75)
        if near:
            lines.append(f"{name} is no setting of Relight and was ignored; did you mean {PREFIX}{near[0]}?")
    return tuple(lines)
