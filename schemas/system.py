"""The file of one system under Relight's care: components, databases, limits, checks. YAML is not read here.

Everything a machine may ask of a system is answered by pure methods of `System`.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Literal, Self
from urllib.parse import quote
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from schemas.base import Closed, Duration, Name
from schemas.checks import Check, CriticalCheck, EqualCheck, IntegrityCheck, McpCheck, RoundTripCheck, SqlCheck
from schemas.components import ByCommand, ByHttp, Command, Component, Participant
from schemas.events import Right
from schemas.rules import Alert, Allow, Channels, Freeze, Gate, Secret


class Database(Closed):
    """A PostgreSQL database that the system uses; `url` is a secret reference to its DSN."""

    url: Secret


MCP_URL = r"^(https?://.+|env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"


class Mcp(Closed):
    """An MCP server that the system uses. `url` is its streamable HTTP endpoint, or a secret reference to it.

    `backup` is a second endpoint of the same kind, asked by checks when nobody answers at the first. `tools` must be
    among those that the one that answers lists; `token`, for both, is a secret reference to a bearer token.
    """

    url: Annotated[str, Field(pattern=MCP_URL)]
    backup: Annotated[str, Field(pattern=MCP_URL)] | None = None
    tools: list[str] = Field(default_factory=list)
    token: Secret | None = None

    @field_validator("url", "backup")
    @classmethod
    def _holds_no_password(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("http") and "@" in value.split("://", 1)[1].split("/", 1)[0]:
            raise ValueError("a user or password must not stand in the file; put the URL behind env:NAME or file:PATH")
        return value


class Notice(Closed):
    """How long before the pause people are told. `required`: no delivery to any channel means no restart, and the
    pause comes no earlier than `lead` after the first delivery."""

    lead: Duration = timedelta(minutes=15)
    delivery: Literal["required", "best_effort"] = "best_effort"


class Backup(Closed):
    """How a restart backs databases up before it stops anything. A backup that was restored in a test less than
    `reuse_within` ago is reused. `databases`: absent, all of the system's. `floor`: a smaller dump is no backup
    (bytes). `keep`: how many that were restored in a test stay in storage; `all`: nothing is ever deleted."""

    databases: Annotated[list[Name], Field(min_length=1)] | None = None
    when: Literal["before_pause", "after_flush"] = "before_pause"
    reuse_within: Duration = timedelta(0)
    floor: Annotated[int, Field(ge=1)] = 1000
    within: Duration = timedelta(minutes=30)
    keep: Annotated[int, Field(ge=1)] | Literal["all"] = 7


class Limits(Closed):
    """How long each part may take; `downtime` is the promise a report measures against. `critical`: how long critical
    operations are waited for before the restart is given up."""

    critical: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(minutes=5)
    drain: Duration = timedelta(minutes=5)
    stop: Duration = timedelta(minutes=2)
    start: Duration = timedelta(minutes=3)
    verify: Duration = timedelta(minutes=3)
    downtime: Duration = timedelta(minutes=10)


class Restart(Closed):
    """How this system is restarted. `pause_lease`: a pause that was neither renewed nor ended by then ends by itself.

    `soak`: how long after the checks passed they must go on passing before the system resumes. `critical`: each check
    passes when no critical operation is in progress; all must pass, at once, before anything is paused.
    """

    notice: Notice = Notice()
    critical: list[CriticalCheck] = Field(default_factory=list)
    backup: Backup | None = None
    limits: Limits = Limits()
    soak: Duration = timedelta(0)
    pause_lease: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(minutes=10)
    answer_within: Duration = timedelta(seconds=30)

    @property
    def soaking(self) -> timedelta:
        """How long one attempt of a soak may take: the soak, and the look at its end."""
        return self.soak + self.limits.verify

    @property
    def renew_every(self) -> timedelta:
        """How often a pause is renewed: when two of its thirds are left, so that a participant may be asked again."""
        return self.pause_lease / 3

    @property
    def renewed_within(self) -> timedelta:
        """How long the answer to one renewal is waited for."""
        return min(self.answer_within, self.pause_lease / 6)


class Storage(Closed):
    """Where things are kept: `file:///path` or `s3://bucket/prefix`. `state` takes system snapshots and reports.

    For S3, credentials and endpoint come from the usual AWS environment (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, …).
    """

    state: Annotated[str, Field(pattern=r"^(file|s3)://.+$")]
    backups: Annotated[str, Field(pattern=r"^(file|s3)://.+$")] | None = None


class System(Closed):
    """One system's file, valid as a whole. Its `config_hash` names this very configuration everywhere."""

    system: Name
    zone: str = "UTC"
    allow: Allow = Allow()
    identity: dict[Name, Annotated[str, Field(pattern=r"^\d{1,20}$")]] = Field(default_factory=dict)
    """The `system_identifier` of each database's server, pinned: before a destructive action it is compared."""
    freeze: list[Freeze] = Field(default_factory=list)
    channels: Channels = Channels()
    databases: dict[Name, Database] = Field(default_factory=dict)
    mcp: dict[Name, Mcp] = Field(default_factory=dict)
    storage: Storage
    components: Annotated[dict[Name, Component], Field(min_length=1)]
    restart: Restart = Restart()
    verify: Annotated[list[Check], Field(min_length=1)]
    alerts: list[Alert] = Field(default_factory=list)
    gate: Gate | None = None
    """Absent: operations are refused."""
    folder: str = "."
    """Absolute folder of the file; relative paths in it are relative to this. Set by the reader of the file."""

    @property
    def backed_up(self) -> tuple[str, ...]:
        """The databases of which a restart makes a backup, by their names here."""
        backup = self.restart.backup
        if backup is None:
            return ()
        return tuple(self.databases if backup.databases is None else backup.databases)

    @field_validator("zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is no time zone of the IANA database") from error
        return value

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        problems = [*self._references(), *self._check_references(), *self._needed_settings()]
        problems = problems or list(self._circles())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _references(self) -> Iterator[str]:
        known = set(self.components) | set(self.databases) | set(self.mcp)
        for name, component in self.components.items():
            for need in component.needs:
                if need not in known:
                    yield f"components.{name}.needs: {need!r} is no component, database or MCP server"
            if name in self.databases or name in self.mcp:
                yield f"components.{name}: a database or MCP server has the same name"

    def _check_references(self) -> Iterator[str]:
        for index, check in enumerate(self.verify):
            yield from self._check_reference(f"verify.{index}", check)
        for index, critical in enumerate(self.restart.critical):
            yield from self._check_reference(f"restart.critical.{index}", critical)
        asked = [one.roundtrip for one in self.restart.critical if isinstance(one, RoundTripCheck)]
        by_message = [name for name in asked if name in self.components and self.components[name].participant == "amqp"]
        if len(by_message) > 1:
            yield f"restart.critical: {' and '.join(by_message)} are all asked over AMQP; one round trip may be"

    def _check_reference(self, where: str, check: Check) -> Iterator[str]:
        match check:
            case SqlCheck(sql=name) if name not in self.databases:
                yield f"{where}.sql: {name!r} is no database"
            case IntegrityCheck(integrity=name) if name not in self.databases:
                yield f"{where}.integrity: {name!r} is no database"
            case RoundTripCheck(roundtrip=name) if name not in self.components:
                yield f"{where}.roundtrip: {name!r} is no component"
            case RoundTripCheck(roundtrip=name) if not self.components[name].takes(Command.REPORT):
                yield f"{where}.roundtrip: {name!r} does not answer `report`"
            case EqualCheck():
                for name in self._report_only_on_their_host():
                    host = self.components[name].host
                    yield f"{where}.equal: {name} reports on {host} only; have it report over AMQP or HTTP"
            case McpCheck(mcp=name) if name != "all" and name not in self.mcp:
                yield f"{where}.mcp: {name!r} is no MCP server"
            case _:
                pass

    def _report_only_on_their_host(self) -> Iterator[str]:
        """What `equal` compares is asked from one place, whichever hosts the components are on."""
        for name, component in self.components.items():
            way = component.participant.report if isinstance(component.participant, Participant) else None
            there = isinstance(way, ByCommand) or (isinstance(way, ByHttp) and "://127.0.0.1" in way.where)
            if component.host is not None and there:
                yield name

    def _needed_settings(self) -> Iterator[str]:
        backup = self.restart.backup
        if backup is not None:
            for name in self.backed_up:
                if name not in self.databases:
                    yield f"restart.backup.databases: {name!r} is no database"
            if not self.backed_up:
                yield "restart.backup: there is nothing to back up, because `databases` names none"
            if self.storage.backups is None:
                yield "storage.backups: is needed, because restart.backup is set"
        for name in self.identity:
            if name not in self.databases:
                yield f"identity: {name!r} is no database"
        if self.restart.notice.delivery == "required" and not self.channels.warning:
            yield "channels.warning: is needed, because restart.notice.delivery is required"
        metrics = [alert.metric for alert in self.alerts]
        for metric in sorted(set(metrics)):
            if metrics.count(metric) > 1:
                yield f"alerts: {metric!r} stands there twice"

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
        return self._below(self.storage.state, names)

    def backup_url(self, *names: str) -> str:
        """URL of a document below `storage.backups`. Raises ValueError when the file has none."""
        if self.storage.backups is None:
            raise ValueError(f"{self.system} has no storage.backups")
        return self._below(self.storage.backups, names)

    def _below(self, root: str, names: tuple[str, ...]) -> str:
        if root.startswith("s3://"):
            return "/".join((root.rstrip("/"), *names))
        path = root.removeprefix("file://").rstrip("/")
        whole = path if path.startswith("/") else f"{self.folder.rstrip('/')}/{path.removeprefix('./')}"
        return "file://" + quote("/".join((whole, *names)))

    def frozen(self, what: Literal["restart", "tasks"], moment: datetime) -> str | None:
        """The line of `freeze:` that blocks `what` at `moment` (aware), if any."""
        for freeze in self.freeze:
            if what in freeze.blocks and freeze.covers(moment, self.zone):
                return freeze.when
        return None

    def frozen_until(self, what: Literal["restart", "tasks"], moment: datetime) -> datetime | None:
        """When `what` may begin again if it may not at `moment`: after every line that follows the one before.

        None when it may begin at `moment`, and when nothing ends the freeze.
        """
        free = moment
        for _ in range(len(self.freeze) * 8):
            lines = [one for one in self.freeze if what in one.blocks and one.covers(free, self.zone)]
            if not lines:
                return None if free == moment else free
            free = max(one.ends(free, self.zone).astimezone(UTC) for one in lines)
        return None

    def secret_references(self) -> tuple[str, ...]:
        """Every `env:…` and `file:…` of this file, each once."""
        found = [database.url for database in self.databases.values()]
        for server in self.mcp.values():
            found += [server.url, server.backup or "", server.token or ""]
        for component in self.components.values():
            found += component.env.values()
            if isinstance(component.participant, Participant):
                ways = (getattr(component.participant, command.value) for command in Command)
                for way in ways:
                    if isinstance(way, ByHttp):
                        found += [way.where, *way.headers.values()]
        found += [*self.channels.critical, *self.channels.warning, *self.channels.info]
        return tuple(dict.fromkeys(one for one in found if one.startswith(("env:", "file:"))))

    def alert(self, metric: str) -> Alert | None:
        """The thresholds of `metric`, if the file has any."""
        return self._alerts_by_metric.get(metric)

    @cached_property
    def _alerts_by_metric(self) -> dict[str, Alert]:
        # Asked several times for each measurement, and a file may have hundreds. `model_copy` would carry it over: who
        # wants other alerts validates another file.
        return {alert.metric: alert for alert in self.alerts}

    def named(self, right: Right) -> tuple[str, ...]:
        """The users whom `allow:` names for `right`, in the order of the file."""
        return tuple(self._named[right] or ())

    def permits(self, right: Right, user: str | None, *, local: bool, component: str | None = None) -> str | None:
        """None when allowed, else why not. `user` is the name the broker verified; `local` the local command line."""
        if local:
            return None
        if user is None:
            return f"the event carries no verified user; set the AMQP property user_id ({right} is guarded by allow:)"
        names = self._named[right]
        if names is not None:
            if user in names:
                return None
            key = "gate.from" if right is Right.OPERATE else f"allow.{right}"
            return f"{user} may not {right} {self.system}; {key} names {', '.join(names) or 'nobody'}"
        match right:
            case Right.OBSERVE | Right.OPERATE:
                return None
            case Right.ANSWER:
                own = f"{self.system}.{component}"
                return None if user == own else f"{user} may not answer for {component}; only {own} may"
            case _:
                why = f"allow.{right} is not set, so only the local command line may"
                return f"{user} may not {right} {self.system}; {why}"

    @cached_property
    def _named(self) -> dict[Right, list[str] | None]:
        """Whom the file names for each right; None when its key is absent. Asked for each event, like the alerts."""
        allow, gate = self.allow, self.gate
        return {
            Right.RESTART: allow.restart,
            Right.RECOVER: allow.recover,
            Right.TASKS: allow.tasks,
            Right.ACT: allow.act,
            Right.APPROVE: allow.approve.by if allow.approve is not None else None,
            Right.OBSERVE: allow.observe,
            Right.ANSWER: allow.answer,
            Right.OPERATE: gate.from_ if gate is not None else None,
        }

    def config_hash(self) -> str:
        """SHA-256 (hex) of the canonical text of this configuration."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def canonical(self) -> str:
        """The text that is hashed and kept in the table of configurations; `model_validate_json` reads it back."""
        return self.model_dump_json(by_alias=True)
