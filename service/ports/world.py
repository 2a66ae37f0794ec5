"""What the actions may touch: processes, databases, documents, participants, programs, secrets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from schemas.base import Json


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A supervised process: running (`started`: clock ticks since boot, /proc/PID/stat field 22), or not.

    `exit_status` of the last run (negative: the signal), None while it runs or when nobody saw its end.
    """

    running: bool
    pid: int | None = None
    started: int | None = None
    exit_status: int | None = None
    log: str | None = None


class Processes(Protocol):
    """Process components under a detached supervisor on this host. `name` is `<system>.<component>`."""

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> ProcessState:
        """Starts it unless it runs (then it is adopted). Returns once the process exists."""
        ...

    async def state(self, name: str) -> ProcessState: ...

    async def tell(self, name: str, signal: str) -> None:
        """Sends a signal (`USR1`, `TERM`; `KILL` to its group) to the process, pid and start time compared first."""
        ...

    async def wait_stopped(self, name: str, timeout: timedelta) -> ProcessState:
        """Waits until it has ended; the state then, running or not."""
        ...


class Databases(Protocol):
    """PostgreSQL databases of the systems (not Relight's own)."""

    async def value(self, dsn: str, query: str, timeout: timedelta) -> Json:
        """First column of the first row. Raises Retry when the server is away, Permanent when the query is wrong."""
        ...

    async def sessions(self, dsn: str, application: str) -> tuple[str, ...]:
        """The sessions of `application_name` in pg_stat_activity, one line each: pid, user, state, age, query head."""
        ...


class Storage(Protocol):
    """Documents by URL (`file://…`)."""

    async def write(self, url: str, content: bytes) -> None:
        """Atomic and durable (written aside, synced, renamed). Raises Retry or Permanent."""
        ...

    async def read(self, url: str) -> bytes: ...


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
        """Publishes mandatory with confirm; False when no participant is bound to it. Raises Retry when cut off."""
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


class Secrets(Protocol):
    def resolve(self, reference: str, folder: str) -> str:
        """The value behind `env:NAME` or `file:/path`; other text is itself. Raises Permanent when it is missing."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """Everything that actions may touch, handed to them as one argument."""

    processes: Processes
    databases: Databases
    storage: Storage
    commands: Commands
    programs: Programs
    secrets: Secrets
    http: Http
    files: Files
    mcp: Mcp
