"""What the actions may touch: processes, databases, documents, participants, programs, secrets."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeVar

from machines.model import InstanceId
from schemas.backup import Contents
from schemas.base import Json
from service.ports.rows import LogRow, StepRow

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A supervised process: running (`started`: clock ticks since boot, /proc/PID/stat field 22), or not.

    `exit_status` of the last run (negative: the signal), None while it runs or when nobody saw its end. `ending`: it
    runs, but was told to end (`TERM`, `KILL`): it is on its way out, however long that takes, and never adopted.

    Of a unit of systemd, `unit` is its name, `invocation` the id of this run, and `words` are systemd's own for its
    state. `starting`: systemd has not found it up yet. `comes_back`: it has ended, and systemd will start it again by
    itself; it counts as running, for it does not stay away. A running unit may have no main process.
    """

    running: bool
    pid: int | None = None
    started: int | None = None
    exit_status: int | None = None
    log: str | None = None
    ending: bool = False
    unit: str | None = None
    invocation: str | None = None
    words: str = ""
    starting: bool = False
    comes_back: bool = False


UNIT = "unit:"
"""With what the name of a component begins that is a unit of systemd: `unit:metrics-report.service`."""


class Processes(Protocol):
    """Components of this host: processes under a detached supervisor, `name` is `<system>.<component>`; and units of
    systemd, `name` is `unit:<unit>`. Of a unit that could not be started (again) everything raises Permanent.
    """

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> ProcessState:
        """Starts it unless it runs (then it is adopted). Returns once the process exists. Raises Retry when what runs
        was told to end. A unit takes no command, environment and folder from here; it may be `starting` still, or have
        failed already."""
        ...

    async def state(self, name: str) -> ProcessState: ...

    async def strangers(self, name: str, command: Sequence[str], folder: str) -> tuple[int, ...]:
        """The pids of processes here that look like this component, same arguments in the same folder, and were not
        started by this Relight: a start would make a second copy. Raises Retry when that cannot be told now."""
        ...

    async def tell(self, name: str, signal: str) -> None:
        """Sends a signal (`USR1`, `TERM`; `KILL` to its group) to the process, pid and start time compared first. For a
        unit `TERM` is systemd's stop, so that nothing starts it again, and so is `KILL`, without patience."""
        ...

    async def wait_stopped(self, name: str, timeout: timedelta) -> ProcessState:
        """Waits until it has ended; the state then, running or not."""
        ...

    async def groups(self, name: str) -> tuple[str, ...]:
        """The control groups that end with it: of a unit, its own and those of all units that systemd stops with it.
        None for a process."""
        ...

    async def said(self, name: str) -> str:
        """The end of what it printed, secrets included; empty when there is nothing, or we may not read it."""
        ...


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction in progress. `seconds`: its age. `writes`: it has changed something. `hidden`: our role may not see
    what the session does, or whether a transaction is open at all. A prepared one has no `pid`."""

    pid: int | None
    role: str
    application: str
    state: str
    seconds: float
    query: str
    writes: bool = False
    hidden: bool = False

    @property
    def brief(self) -> str:
        """`pid 4312 report_ro 4m12s`: who it is, and how long it has been open."""
        who = f"pid {self.pid}" if self.pid is not None else "prepared transaction of"
        return f"{who} {self.role} {int(self.seconds) // 60}m{int(self.seconds) % 60:02d}s"

    def __str__(self) -> str:
        of = f"{self.application}, " if self.application else ""
        return f"{self.brief} ({of}{self.state}): {self.query}"


@dataclass(frozen=True, slots=True)
class Looked:
    """What was read of a database to find damage: how many tables and indexes, and what was found, one line each."""

    tables: int
    indexes: int
    damage: tuple[str, ...] = ()


class Databases(Protocol):
    """PostgreSQL databases of the systems (not Relight's own)."""

    async def value(self, dsn: str, query: str, timeout: timedelta) -> Json:
        """First column of the first row. Raises Retry when the server is away, Permanent when the query is wrong."""
        ...

    async def sessions(self, dsn: str, application: str) -> tuple[str, ...]:
        """The sessions of `application_name` in pg_stat_activity, one line each: pid, user, state, age, query head."""
        ...

    async def transactions(self, dsn: str) -> tuple[OpenTransaction, ...]:
        """Those open in this database, oldest first, our own aside; and the sessions that we may not look into."""
        ...

    async def damage(self, dsn: str, tables: Sequence[str], timeout: timedelta) -> Looked:
        """Reads these tables (none named: all) with their indexes. Raises Retry, or Permanent when it cannot look."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A document in storage: where, and how large (bytes)."""

    url: str
    bytes: int


class Storage(Protocol):
    """Documents by URL (`file:///path`, `s3://bucket/key`), each there as a whole or not at all."""

    async def write(self, url: str, content: bytes) -> None:
        """Atomic and durable; replaces what was there. Raises Retry or Permanent."""
        ...

    async def read(self, url: str) -> bytes:
        """Raises Missing when it is not there, else Retry or Permanent."""
        ...

    async def write_stream(self, url: str, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        """(bytes, SHA-256 in hex) of what was written; it appears once `chunks` ended well, and nothing is left of it
        otherwise. Memory is bounded by a few parts of 8 MiB. Raises Retry, Permanent, and whatever `chunks` raises."""
        ...

    def read_stream(self, url: str) -> AsyncGenerator[bytes, None]:
        """The document in parts of at most 8 MiB. Raises as `read`."""
        ...

    async def list(self, prefix: str) -> tuple[Stored, ...]:
        """Every document whose URL begins with `prefix`, by URL."""
        ...

    async def delete(self, url: str) -> None:
        """Gone afterwards, whether it was there or not."""
        ...


class Dumps(Protocol):
    """Dumps of PostgreSQL databases (pg_dump's custom format), and whether they are worth anything."""

    async def identify(self, dsn: str) -> str:
        """The `system_identifier` of the server. Raises Retry when it is away, else Permanent."""
        ...

    async def dump(
        self, dsn: str, sink: Callable[[AsyncIterator[bytes]], Awaitable[T]], timeout: timedelta
    ) -> tuple[Contents, T]:
        """Streams a dump into `sink`; what was in it, counted in the same snapshot, and what `sink` answered.

        The stream raises when pg_dump fails, so that a sink never takes half a dump for a whole one. Raises Retry or
        Permanent; cancelled, pg_dump is ended with its process group.
        """
        ...

    async def readable(self, chunks: AsyncIterator[bytes], timeout: timedelta) -> None:
        """Unpacks the dump to its end, to nowhere. Raises Permanent when it is damaged or cut off."""
        ...

    async def restored(self, chunks: AsyncIterator[bytes], expected: Contents, timeout: timedelta) -> Contents:
        """Restores the dump into a scratch server of its own, with the roles of `expected`, and counts what is in it.

        Nothing is left of the server. Raises Permanent when it cannot be restored without an error, else Retry.
        """
        ...


class Sockets(Protocol):
    """Who listens and who is connected on this host. Raises Retry when that cannot be told now."""

    async def serves(self, pid: int, url: str) -> bool:
        """Whether the process or one of its children listens at the host and port of `url`."""
        ...

    async def connections(self, pid: int, url: str) -> tuple[str, ...]:
        """The open TCP connections of the process and its children to the host and port of `url`, one line each."""
        ...


class Grounds(Protocol):
    """What Relight itself stands on: its own process and those above it, the servers of its own tables and messages."""

    async def under(self, pid: int) -> tuple[str, ...]:
        """What of that would end with the process `pid` and its children, one sentence each. Raises Retry."""
        ...

    async def within(self, groups: Sequence[str]) -> tuple[str, ...]:
        """What of that would end with these control groups, one sentence each. Raises Retry."""
        ...

    async def identifier(self) -> str:
        """The `system_identifier` of the PostgreSQL server of Relight's own tables. Raises Retry."""
        ...


class Mcp(Protocol):
    """MCP servers, by the URL of their streamable HTTP endpoint."""

    async def tools(self, url: str, token: str | None, timeout: timedelta) -> tuple[str, ...]:
        """Connects anew; the names of the tools it lists, sorted. Raises Retry, or Permanent when it refuses us."""
        ...


@dataclass(frozen=True, slots=True)
class FileState:
    """A file or folder that could be used; `free`: bytes that are left on its file system for ordinary users."""

    folder: bool
    free: int


class Files(Protocol):
    """Files and folders of a system on this host, by absolute path. Nothing in them is changed."""

    async def tried(self, path: str, *, write: bool) -> FileState:
        """Really opened (a folder: listed); `write`: opened for writing too (a folder: a file made and deleted in it).

        Raises Permanent when that is not possible, Retry when it may be soon.
        """
        ...

    async def sha256(self, path: str) -> str:
        """SHA-256 (hex) of a file's content. Raises Permanent or Retry."""
        ...


class Commands(Protocol):
    """To participants over AMQP."""

    async def send(self, routing_key: str, command_id: str, body: str) -> bool:
        """Publishes mandatory with confirm; False when no participant is bound to it. Raises Unavailable while the
        broker is away (it may have arrived), Retry when the participant's queue is full."""
        ...


class Programs(Protocol):
    """Short programs, as argument lists, each in its own process group, ended when the time is over or on cancel."""

    async def run(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, timeout: timedelta
    ) -> tuple[int, str, str]:
        """Exit status, standard output and standard error (64 KiB of each at most)."""
        ...


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What an HTTP server said: status, where a redirect pointed to, media type, and 64 KiB of the body at most."""

    status: int
    body: bytes = b""
    media_type: str = ""
    location: str | None = None


class Http(Protocol):
    """One request, one answer. Redirects are not followed: a command goes where the file says and nowhere else."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: timedelta
    ) -> HttpAnswer:
        """Raises Retry when nobody answered in time, Permanent when the URL is none or its certificate is not valid."""
        ...


Severity = Literal["info", "warning", "critical"]
"""The keys of a system's `channels:`."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a message at one channel: when it was delivered (UTC), or why it was not, without any secret."""

    at: datetime | None
    error: str | None = None


class Notifier(Protocol):
    """Channels that reach people. A message that was delivered may be delivered again: nothing takes one back."""

    async def tell(
        self, urls: Mapping[str, str], title: str, body: str, severity: Severity, within: timedelta
    ) -> Mapping[str, Told]:
        """Tells all channels (URL by name) side by side, each `within` its own time; by name what became of it."""
        ...


class Secrets(Protocol):
    def resolve(self, reference: str, folder: str) -> str:
        """The value behind `env:NAME` or `file:/path`; other text is itself. Raises Permanent when it is missing."""
        ...

    def hide(self, text: str, spare: str = "") -> str:
        """The text with `***` for every value that was resolved here, however it is written. What stands in `spare` is
        public anyway and stays."""
        ...

    def hide_in(self, value: Json, spare: str = "") -> Json:
        """The same for every text in a JSON value, names included."""
        ...


class Chronicle(Protocol):
    """What Relight itself wrote down about an instance, read only: for the report of a run."""

    async def history(self, instance: InstanceId, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]: ...

    async def steps(self, instance: InstanceId, first_entry: int = 0) -> tuple[StepRow, ...]: ...


@dataclass(frozen=True, slots=True)
class World:
    """Everything that actions may touch, handed to them as one argument."""

    processes: Processes
    databases: Databases
    storage: Storage
    commands: Commands
    programs: Programs
    secrets: Secrets
    dumps: Dumps
    http: Http
    files: Files
    mcp: Mcp
    sockets: Sockets
    grounds: Grounds
    notifier: Notifier
    chronicle: Chronicle
