"""The world of the steps in memory, for simulations: processes, databases, documents, programs, and participants that
hold something in memory and can lose it. Time is the clock's; no randomness and no I/O lives here.

What they do can be scripted: a process that ignores TERM, a program's answer, a database that is away, a participant
that is deaf. By default everything works.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import timedelta

from schemas.base import Json
from service.adapters.memory.chronicle import MemoryChronicle
from service.adapters.memory.participants import MemoryCommands, MemoryParticipant
from service.adapters.memory.processes import MemoryProcesses
from service.adapters.memory.storage import MemoryDumps, MemoryStorage
from service.errors import Missing, Permanent, Retry, StepError
from service.masking import Masks
from service.ports import (
    UNIT,
    Chronicle,
    Clock,
    FileState,
    HttpAnswer,
    Looked,
    OpenTransaction,
    Severity,
    Told,
    World,
)


class MemoryDatabases:
    """Answers by query text; `1` for `select 1`. `away` makes every question fail for now, `open_sessions` holds lines
    by application name."""

    def __init__(self) -> None:
        self.answers: dict[str, Json | StepError] = {"select 1": 1}
        self.open_sessions: dict[str, tuple[str, ...]] = {}
        self.open_transactions: tuple[OpenTransaction, ...] = ()
        self.looked = Looked(tables=1, indexes=1)
        self.away = False

    async def value(self, dsn: str, query: str, timeout: timedelta) -> Json:
        if self.away:
            raise Retry("the database is away")
        answer = self.answers.get(query, Permanent(f"the database refused the question: {query}"))
        if isinstance(answer, StepError):
            raise answer
        return answer

    async def sessions(self, dsn: str, application: str) -> tuple[str, ...]:
        if self.away:
            raise Retry("the database is away")
        return self.open_sessions.get(application, ())

    async def transactions(self, dsn: str) -> tuple[OpenTransaction, ...]:
        if self.away:
            raise Retry("the database is away")
        return self.open_transactions

    async def damage(self, dsn: str, tables: Sequence[str], timeout: timedelta) -> Looked:
        if self.away:
            raise Retry("the database is away")
        return self.looked


class MemorySockets:
    """Listeners as (pid, URL), and connections as lines by (pid, URL)."""

    def __init__(self) -> None:
        self.listening: set[tuple[int, str]] = set()
        self.open: dict[tuple[int, str], tuple[str, ...]] = {}

    async def serves(self, pid: int, url: str) -> bool:
        return (pid, url) in self.listening

    async def connections(self, pid: int, url: str) -> tuple[str, ...]:
        return self.open.get((pid, url), ())


class MemoryGrounds:
    """What Relight stands on, by pid or by control group, and the system_identifier of its own server."""

    def __init__(self) -> None:
        self.stands: dict[int, tuple[str, ...]] = {}
        self.groups: dict[str, str] = {}
        self.own = "1"

    async def under(self, pid: int) -> tuple[str, ...]:
        return self.stands.get(pid, ())

    async def within(self, groups: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.groups[one] for one in groups if one in self.groups)

    async def identifier(self) -> str:
        return self.own


class MemoryMcp:
    """MCP servers by URL: the tools they list, or why they do not answer. `asked` lists (URL, token)."""

    def __init__(self) -> None:
        self.servers: dict[str, tuple[str, ...] | StepError] = {}
        self.asked: list[tuple[str, str | None]] = []

    async def tools(self, url: str, token: str | None, timeout: timedelta) -> tuple[str, ...]:
        self.asked.append((url, token))
        answer = self.servers.get(url, Retry("All connection attempts failed"))
        if isinstance(answer, StepError):
            raise answer
        return answer


class MemoryFiles:
    """A system's files by path; a content of None is a folder. `read_only` names those that cannot be written."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes | None] = {}
        self.read_only: set[str] = set()
        self.free = 1 << 40

    async def tried(self, path: str, *, write: bool) -> FileState:
        if path not in self.contents:
            raise Missing(f"{path}: No such file or directory")
        if write and path in self.read_only:
            raise Permanent(f"{path}: Permission denied")
        return FileState(self.contents[path] is None, self.free)

    async def sha256(self, path: str) -> str:
        if path not in self.contents:
            raise Missing(f"{path}: No such file or directory")
        content = self.contents[path]
        if content is None:
            raise Permanent(f"{path}: Is a directory")
        return hashlib.sha256(content).hexdigest()


class MemoryPrograms:
    """Programs by their argument list; without a script one ends with status 0 and prints nothing. `ran` lists them."""

    def __init__(self) -> None:
        self.scripts: dict[tuple[str, ...], tuple[int, str, str] | StepError] = {}
        self.ran: list[tuple[tuple[str, ...], Mapping[str, str]]] = []

    async def run(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, timeout: timedelta
    ) -> tuple[int, str, str]:
        self.ran.append((tuple(command), dict(environment)))
        script = self.scripts.get(tuple(command), (0, "", ""))
        if isinstance(script, StepError):
            raise script
        return script


class MemoryHttp:
    """HTTP servers by (method, URL), each with its answer or the error that asking it raises; at any other URL nobody
    listens. `asked` keeps method, URL, headers and body."""

    def __init__(self) -> None:
        self.scripts: dict[tuple[str, str], HttpAnswer | StepError] = {}
        self.asked: list[tuple[str, str, Mapping[str, str], bytes | None]] = []

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: timedelta
    ) -> HttpAnswer:
        self.asked.append((method, url, dict(headers), body))
        script = self.scripts.get((method, url), Retry("nobody listens there"))
        if isinstance(script, StepError):
            raise script
        return script


class MemoryChannels:
    """Channels by URL. `told` lists (url, title, body, severity); `dead` are those that deliver nothing, by cause."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.told: list[tuple[str, str, str, Severity]] = []
        self.dead: dict[str, str] = {}

    async def tell(
        self, urls: Mapping[str, str], title: str, body: str, severity: Severity, within: timedelta
    ) -> Mapping[str, Told]:
        self.told += [(url, title, body, severity) for url in urls.values() if url not in self.dead]
        return {
            name: Told(None, self.dead[url]) if url in self.dead else Told(self._clock.now())
            for name, url in urls.items()
        }


class MemorySecrets:
    """References by their text; other text is itself."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.masks = Masks()

    def resolve(self, reference: str, folder: str) -> str:
        if not reference.startswith(("env:", "file:")):
            return reference
        if reference not in self.values:
            raise Permanent(f"the secret {reference} is missing")
        self.masks.learn(self.values[reference])
        return self.values[reference]

    def hide(self, text: str, spare: str = "") -> str:
        return self.masks.hide(text, spare)

    def hide_in(self, value: Json, spare: str = "") -> Json:
        return self.masks.hide_in(value, spare)


class MemoryWorld:
    """All of it, wired together: a participant added here lives and dies with the process of the same name."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.processes = MemoryProcesses(clock)
        self.databases = MemoryDatabases()
        self.storage = MemoryStorage()
        self.commands = MemoryCommands()
        self.programs = MemoryPrograms()
        self.secrets = MemorySecrets()
        self.chronicle: Chronicle = MemoryChronicle()
        self.dumps = MemoryDumps()
        self.files = MemoryFiles()
        self.mcp = MemoryMcp()
        self.sockets = MemorySockets()
        self.grounds = MemoryGrounds()
        self.http = MemoryHttp()
        self.notifier = MemoryChannels(clock)
        self.processes.on_start = self._begins
        self.processes.on_end = self._ends

    def participant(self, system: str, component: str) -> MemoryParticipant:
        """Adds a participant. It is at the broker while its process runs."""
        made = MemoryParticipant(component, self.storage, self.clock)
        self.commands.participants[system, component] = made
        return made

    def world(self) -> World:
        """What actions are given."""
        return World(
            processes=self.processes,
            databases=self.databases,
            storage=self.storage,
            commands=self.commands,
            programs=self.programs,
            secrets=self.secrets,
            dumps=self.dumps,
            files=self.files,
            mcp=self.mcp,
            sockets=self.sockets,
            grounds=self.grounds,
            http=self.http,
            notifier=self.notifier,
            chronicle=self.chronicle,
        )

    def _begins(self, name: str, environment: Mapping[str, str]) -> None:
        if name.startswith(UNIT):
            return  # what systemd starts is given nothing by Relight
        system, component = name.split(".")
        if (system, component) in self.commands.participants:
            self.commands.participants[system, component].begin(environment)
            self.commands.bound.add((system, component))

    def _ends(self, name: str) -> None:
        if name.startswith(UNIT):
            return
        system, component = name.split(".")
        self.commands.bound.discard((system, component))
