"""What one system's file needs, looked at from this host: secrets, databases, programs, MCP servers, storage, channels.

Nothing of the system is changed: databases are only read, programs are only looked for, nobody is told anything.
"""

import shutil
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from schemas.components import LOCAL, SERVICE, ByCommand, Component, Participant
from schemas.events import Right
from schemas.system import System
from service.cli.home import user_file
from service.errors import RelightError, StepError
from service.ports import UNIT
from service.settings import Settings
from service.steps.grounds import IDENTIFIER
from service.steps.naming import folder, process_name
from service.timeouts import time_limit

WITHIN = timedelta(seconds=8)
"""For each look at something that is away from this host."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `found` when it is well, else `problem` and how to `mend` it."""

    what: str
    found: str = ""
    problem: str | None = None
    mend: str = ""


def looked(what: str, look: Callable[[], str], mend: str) -> Finding:
    """A look that blocks; whatever it raises for people is the problem."""
    try:
        return Finding(what, look())
    except (RelightError, OSError) as error:
        return Finding(what, problem=str(error), mend=mend)


async def of_system(system: System, settings: Settings) -> list[Finding]:
    """Everything that the system's file names, one finding each."""
    resolve = _resolver(system)
    return [
        *_secrets(system, resolve),
        *await _databases(system, resolve),
        *_programs(system),
        *_processes(system, settings),
        *await _strangers(system, settings),
        *await _units(system, settings),
        *await _mcp(system, resolve),
        *await _storage(system),
        *_channels(system, resolve),
        *(_users(system, settings) if settings.servers.embedded else ()),
    ]


Resolve = Callable[[str], str]


def _resolver(system: System) -> Resolve:
    from service.adapters.secrets import References

    references = References()
    return lambda reference: references.resolve(reference, system.folder)


def _secrets(system: System, resolve: Resolve) -> Iterator[Finding]:
    # Channels have findings of their own.
    channels = {*system.channels.critical, *system.channels.warning, *system.channels.info}
    for reference in (one for one in system.secret_references() if one not in channels):
        mend = "set the variable for `relight serve`" if reference.startswith("env:") else "write the file"
        made = " (a component of the system may write it when it starts)" if reference.startswith("file:") else ""
        yield looked(f"{system.system}: secret {reference}", lambda r=reference: _there(resolve, r), f"{mend}{made}")  # type: ignore[misc]  # bound at once


def _there(resolve: Resolve, reference: str) -> str:
    resolve(reference)
    return "is there"


async def _databases(system: System, resolve: Resolve) -> list[Finding]:
    from service.adapters.databases import PostgresDatabases

    databases = PostgresDatabases()

    async def ask(url: str) -> str:
        version = await databases.value(resolve(url), "select current_setting('server_version')", WITHIN)
        return f"PostgreSQL {version} answers"

    async def compare(url: str, pinned: str) -> str:
        found = str(await databases.value(resolve(url), IDENTIFIER, WITHIN))
        if found != pinned:
            raise StepError(
                f"its server is {found}, but identity: pins {pinned}: nothing on it would be stopped or dumped"
            )
        return f"the pinned server {pinned}"

    mend = "start it, or correct the DSN that its reference leads to"
    moved = "correct the DSN, or, if the database was moved on purpose, the identity: of the file"
    findings = []
    for name, database in system.databases.items():
        what = f"{system.system}: database {name}"
        findings.append(await _asked(what, lambda url=database.url: ask(url), mend))  # type: ignore[misc]  # bound at once
        pinned = system.identity.get(name)
        if pinned is not None and findings[-1].problem is None:
            same = lambda url=database.url, pinned=pinned: compare(url, pinned)  # noqa: E731  # one line, used once
            findings.append(await _asked(f"{what}: identity", same, moved))
    return findings


def _processes(system: System, settings: Settings) -> Iterator[Finding]:
    """What Relight started on this host: whether it runs, and whether somebody still stands over it."""
    from service.adapters.processes import record

    places = {LOCAL, *settings.engine.places}
    for name, component in system.components.items():
        home = settings.servers.home / "processes" / process_name(system, name)
        try:
            found = record.read(home) if component.service is None and component.place in places else None
        except (OSError, ValueError, TypeError):
            continue  # the look for strangers says so
        if found is None:
            continue
        what = f"{system.system}: {name}: process"
        if not record.runs(found):
            how = "nobody saw how it ended" if found.exit_status is None else f"exit status {found.exit_status}"
            yield Finding(what, f"does not run; the last was pid {found.pid}, {how}")
        elif record.start_time(found.supervisor) is None:
            problem = f"runs as pid {found.pid}; its supervisor is gone: its log grows, and nobody sees how it ends"
            yield Finding(what, problem=problem, mend=f"`relight restart {system.system}`, when it suits")
        else:
            yield Finding(what, f"runs as pid {found.pid}")


async def _strangers(system: System, settings: Settings) -> list[Finding]:
    """Components that somebody else runs. Those that nobody runs, or this Relight, are no finding."""
    from service.adapters.processes.local import SupervisedProcesses
    from service.clock import SystemClock

    processes, findings = SupervisedProcesses(settings.servers.home / "processes", SystemClock()), []
    for name, component in system.components.items():
        whole, what = process_name(system, name), f"{system.system}: {name}: process"
        if component.service is not None:
            continue  # whoever started a unit, it is that unit
        try:
            if (await processes.state(whole)).running:
                continue
            pids = await processes.strangers(whole, component.command, folder(system, component))
        except StepError as error:
            findings.append(Finding(what, problem=str(error), mend="look at the process itself"))
            continue
        if pids:
            problem = f"runs as pid {', '.join(map(str, pids))}, which this Relight did not start"
            mend = "end it where it was started and let `relight serve` start it; no second copy is started meanwhile"
            findings.append(Finding(what, problem=problem, mend=mend))
    return findings


async def _units(system: System, settings: Settings) -> list[Finding]:
    """What systemd of this host says of the components that are units, and of what else starts or ends with them."""
    from service.adapters.processes.systemd import Systemd
    from service.adapters.processes.units import STOPPED_WITH, SystemdUnits
    from service.adapters.programs import LocalPrograms
    from service.clock import SystemClock

    systemd, units, findings = Systemd(LocalPrograms()), SystemdUnits(LocalPrograms(), SystemClock()), []
    ours = {component.service for component in system.components.values()}
    places = {LOCAL, *settings.engine.places}
    for name, component in system.components.items():
        unit = component.service
        if unit is None or component.place not in places:
            continue
        what = f"{system.system}: {name}: {unit}"
        if (absent := systemd.absent()) is not None:
            findings.append(Finding(what, problem=absent, mend="name the `host` that has it, or a `process`"))
            continue
        try:
            state = await units.state(f"{UNIT}{unit}")
            about = await systemd.shown(unit, ("TriggeredBy", "TimeoutStopUSec", "NeedDaemonReload", *STOPPED_WITH))
        except StepError as error:
            findings.append(Finding(what, problem=str(error), mend=f"look with `systemctl status {unit}`"))
            continue
        more = f", main process {state.pid}" if state.pid else ""
        findings.append(
            Finding(what, f"{state.words}{more}; systemd kills what does not stop in {about.get('TimeoutStopUSec')}")
        )
        if triggers := about.get("TriggeredBy"):
            problem = f"{triggers} starts it again by itself, also while a restart has it stopped"
            mend = f"stop {triggers} before a restart, or make what it serves wait"
            findings.append(Finding(f"{what}: triggers", problem=problem, mend=mend))
        with_it = {one for key in STOPPED_WITH for one in about.get(key, "").split() if one.endswith(SERVICE)} - ours
        if with_it:
            problem = f"systemd stops {', '.join(sorted(with_it))} with it, and Relight starts only its components"
            findings.append(Finding(f"{what}: needed by", problem=problem, mend="make them components too"))
        if about.get("NeedDaemonReload") == "yes":
            problem = "its file was changed since systemd read it: a start would be that of the old one"
            findings.append(Finding(f"{what}: file", problem=problem, mend="`systemctl daemon-reload`"))
    return findings


async def _asked(what: str, ask: Callable[[], Awaitable[str]], mend: str) -> Finding:
    try:
        async with time_limit(2 * WITHIN.total_seconds()):
            return Finding(what, await ask())
    except TimeoutError:
        return Finding(what, problem=f"no answer within {2 * WITHIN.total_seconds():.0f} s", mend=mend)
    except (StepError, OSError) as error:
        return Finding(what, problem=str(error), mend=mend)


def _programs(system: System) -> Iterator[Finding]:
    from service.children import base_environment

    path = base_environment()["PATH"]
    for name, component in system.components.items():
        folder = Path(system.folder) / component.cwd
        for program in dict.fromkeys(_commands(component)):
            what = f"{system.system}: {name}: {program}"
            found = shutil.which(program if "/" not in program else str(folder / program), path=path)
            if not folder.is_dir():
                yield Finding(what, problem=f"its folder {folder} is not there", mend="correct its `cwd`")
            elif found is None:
                yield Finding(
                    what, problem=f"no program {program!r} on {path}", mend="install it, or name its whole path"
                )
            else:
                yield Finding(what, found)


def _commands(component: Component) -> Iterator[str]:
    yield from component.command[:1]
    if isinstance(component.participant, Participant):
        for way in (getattr(component.participant, field) for field in Participant.model_fields):
            if isinstance(way, ByCommand):
                yield way.command[0]


async def _mcp(system: System, resolve: Resolve) -> list[Finding]:
    if not system.mcp:
        return []
    from service.adapters.mcp import McpServers

    async def ask(url: str, token: str | None, wanted: list[str]) -> str:
        tools = await McpServers().tools(resolve(url), resolve(token) if token else None, WITHIN)
        missing = [tool for tool in wanted if tool not in tools]
        if missing:
            raise StepError(f"it lacks {', '.join(missing)}; it has {', '.join(tools) or 'no tools'}")
        return f"{len(tools)} tools"

    mend = "start it, or correct its url, token or tools"
    asked = [
        (f"{system.system}: MCP server {name}{which}", url, server)
        for name, server in system.mcp.items()
        for which, url in (("", server.url), (", its backup", server.backup))
        if url is not None
    ]
    return [
        await _asked(what, lambda url=url, one=server: ask(url, one.token, one.tools), mend)  # type: ignore[misc]  # bound at once
        for what, url, server in asked
    ]


async def _storage(system: System) -> list[Finding]:
    from service.adapters.files import FileStorage
    from service.adapters.s3 import S3Storage
    from service.adapters.storage import StorageByScheme

    storage = StorageByScheme({"file": FileStorage(), "s3": S3Storage()})

    async def write(url: str) -> str:
        await storage.write(url, b"relight doctor")
        same = await storage.read(url) == b"relight doctor"
        await storage.delete(url)
        if not same:
            raise StepError("what was written is not what is read back")
        return "written, read back and deleted"

    urls = {"state": system.state_url(f"doctor-{uuid.uuid4()}")}
    if system.storage.backups is not None:
        urls["backups"] = system.backup_url(f"doctor-{uuid.uuid4()}")
    mend = "make it writable for this user; for s3:// see AWS_ENDPOINT_URL, AWS_PROFILE and the bucket's policy"
    return [
        await _asked(f"{system.system}: storage {name} {url.rpartition('/')[0]}", lambda url=url: write(url), mend)  # type: ignore[misc]  # bound at once
        for name, url in urls.items()
    ]


def _channels(system: System, resolve: Resolve) -> Iterator[Finding]:
    from service.adapters.apprise import problem_of

    for severity in ("info", "warning", "critical"):
        for reference in dict.fromkeys(getattr(system.channels, severity)):
            what = f"{system.system}: channel {severity} {reference}"
            try:
                problem = problem_of(resolve(reference))
            except StepError as error:
                problem = str(error)
            if problem is None:
                yield Finding(what, "its URL is understood (nothing was sent)")
            else:
                yield Finding(what, problem=problem, mend="set it to an Apprise URL, such as mailto://… or slack://…")


def _users(system: System, settings: Settings) -> Iterator[Finding]:
    names = {name for right in Right for name in system.named(right)}
    names |= {f"{system.system}.{name}" for name, one in system.components.items() if one.participant == "amqp"}
    for name in sorted(names):
        file = user_file(settings.servers.home, name)
        if file.exists():
            yield Finding(f"{system.system}: user {name}", str(file))
        else:
            yield Finding(
                f"{system.system}: user {name}", "not made yet; `relight serve` makes it on its private broker"
            )
