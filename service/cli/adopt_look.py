"""Looking at a machine for `relight adopt`: servers, processes, units, MCP servers. It reads and asks, no more.

What follows from what is found stands in `adopt_found.py`.
"""

import asyncio
import fnmatch
import getpass
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from schemas.components import SERVICE
from service.adapters.databases import PostgresDatabases
from service.adapters.host import FoundProcess, Host, below, family
from service.adapters.mcp import McpServers
from service.adapters.secrets import References
from service.cli.adopt_found import Found, FoundComponent, FoundDatabase, FoundMcp, FoundUnit, Names, called
from service.cli.adopt_units import look_at_units, unit_of
from service.cli.home import find
from service.cli.masking import bare, holds_secret
from service.errors import RelightError, StepError
from service.settings import Servers
from service.timeouts import time_limit

LOOKS = 3
"""Looks at processes and sessions, whose connections are put together: some are open for a moment only."""
BETWEEN = 0.3
"""Seconds between two of them."""
WITHIN = timedelta(seconds=8)
"""For each question to a server."""
SERVERS = frozenset(
    {"postgres", "postmaster", "beam.smp", "epmd", "inet_gethost", "erl_child_setup", "rabbitmq-server"}
)
"""Programs of database servers and brokers: a system stands on them, and a restart of it leaves them up."""
OWN = ("service.cli", "service.adapters.processes.supervisor")
"""Modules of Relight itself."""

LOOK_AT_SERVER = """
select json_build_object(
  'identifier', (select system_identifier::text from pg_control_system()),
  'version', split_part(current_setting('server_version'), ' ', 1),
  'here', current_database(),
  'port', inet_server_port(),
  'relight', to_regclass('relight.instances') is not null,
  'databases', (select json_agg(json_build_object('name', datname, 'connect', may, 'bytes',
                  case when may or pg_has_role('pg_read_all_stats', 'USAGE') then pg_database_size(oid) end)
                  order by datname)
                from (select oid, datname, has_database_privilege(oid, 'CONNECT') as may from pg_database
                      where datallowconn and not datistemplate) as every),
  'sessions', (select coalesce(json_agg(json_build_object('database', datname, 'role', usename,
                  'application', application_name, 'port', client_port)), '[]')
               from pg_stat_activity
               where datname is not null and pid <> pg_backend_pid()
                 and coalesce(backend_type, 'client backend') = 'client backend'))::text
"""
"""All that is wanted of a server, in one question: which it is, its databases, and who is connected to them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line names. Without processes and units, those that listen or are connected are taken."""

    system: str
    postgres: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    mcp: tuple[str, ...] = ()


@dataclass(slots=True)
class _Sight:
    """What several looks saw, put together: processes by pid, answers of servers by what was given."""

    processes: dict[int, FoundProcess] = field(default_factory=dict)
    servers: dict[str, dict[str, Any]] = field(default_factory=dict)
    sessions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def saw(self, one: FoundProcess) -> None:
        """The newest look counts, with the connections of all."""
        before = self.processes.get(one.pid)
        peers = tuple(dict.fromkeys((*before.peers, *one.peers))) if before is not None else one.peers
        self.processes[one.pid] = replace(one, peers=peers)


async def look(wanted: Wanted, servers: Servers) -> Found:
    """Everything that can be seen. Raises RelightError for an argument that leads nowhere."""
    sight, references, names = _Sight(), References(), Names()
    dsns = {given: _resolved(references, given) for given in wanted.postgres}
    for number in range(LOOKS):
        if number:
            await asyncio.sleep(BETWEEN)
        for given, dsn in dsns.items():
            await _ask_server(sight, given, dsn)
        for one in await Host().processes():
            sight.saw(one)
    own = await _own(servers)
    databases, grounds = _databases(wanted, sight, dsns, own, names)
    mcp = [await _mcp(wanted.system, given, references, names) for given in wanted.mcp]
    chosen = _all_chosen(wanted, sight, databases, mcp)
    units, unit_problems = await look_at_units(
        wanted.units, sorted({unit for pid in chosen if (unit := unit_of(pid)) is not None})
    )
    components = tuple(_components(sight, chosen, units, names))
    return Found(
        databases,
        tuple(mcp),
        components,
        tuple(units),
        tuple(unit_problems),
        tuple(dict.fromkeys(grounds)),
    )


def _resolved(references: References, given: str) -> str:
    if not given.startswith(("env:", "file:", "postgresql://", "postgres://")):
        raise RelightError("--postgres takes postgresql://user@host:port/database, env:NAME or file:path")
    try:
        return references.resolve(given, str(Path.cwd()))
    except StepError as error:
        raise RelightError(f"--postgres: {error}. Nothing was written.") from error


async def _ask_server(sight: _Sight, given: str, dsn: str) -> None:
    try:
        said = json.loads(str(await PostgresDatabases().value(dsn, LOOK_AT_SERVER, WITHIN)))
    except StepError as error:
        raise RelightError(
            f"the server of {_shown(given)} could not be looked at: {error}. Nothing was written; correct "
            "--postgres, or leave it out"
        ) from error
    sight.servers[given] = said
    sight.sessions.setdefault(given, []).extend(said["sessions"])


def _shown(given: str) -> str:
    return bare(given) if "://" in given else given


async def _own(servers: Servers) -> tuple[str, str] | None:
    """(system_identifier, database) of Relight's own tables, if a Relight is set up and its server answers."""
    try:
        url = find(servers).postgres_url
        question = "select system_identifier::text from pg_control_system()"
        return str(await PostgresDatabases().value(url, question, WITHIN)), unquote(urlsplit(url).path[1:])
    except RelightError:
        return None


def _databases(
    wanted: Wanted, sight: _Sight, dsns: Mapping[str, str], own: tuple[str, str] | None, names: Names
) -> tuple[tuple[FoundDatabase, ...], list[str]]:
    found: dict[tuple[str, str], FoundDatabase] = {}
    grounds: list[str] = []
    # What a DSN leads to comes first: its database can be named as it was given, without another variable.
    for given, said in sight.servers.items():
        key = (said["identifier"], said["here"])
        if key not in found:
            found[key] = _database(wanted, given, said, said["here"], dsns[given], own, names, sight.sessions[given])
    for given, said in sight.servers.items():
        identifier = said["identifier"]
        if own is not None and own[0] == identifier:
            grounds.append(f"Relight's own tables are on this server ({identifier}): it is never stopped by Relight")
        for one in said["databases"] or ():
            if (identifier, one["name"]) not in found:
                made = _database(wanted, given, said, one["name"], dsns[given], own, names, sight.sessions[given])
                found[identifier, one["name"]] = made
    return tuple(found.values()), grounds


def _database(
    wanted: Wanted,
    given: str,
    said: Mapping[str, Any],
    database: str,
    dsn: str,
    own: tuple[str, str] | None,
    names: Names,
    sessions: Sequence[Mapping[str, Any]],
) -> FoundDatabase:
    about: Mapping[str, Any] = next((one for one in said["databases"] or () if one["name"] == database), {})
    mine = [one for one in sessions if one["database"] == database]
    here = database == said["here"]
    left_out = None
    if own == (said["identifier"], database) or (here and said["relight"]):
        left_out = "it holds Relight's own tables, on which Relight stands"
    elif not about.get("connect", True):
        left_out = "the given role may not connect to it"
    elif database == "postgres" and not here and not mine:
        left_out = "the server's own database for maintenance, to which nobody is connected"
    name = names.take(database) if left_out is None else database
    by_name = here and not given.startswith(("postgres://", "postgresql://"))
    variable = re.sub(r"[^A-Z0-9]", "_", f"{wanted.system}_{name}_DB".upper())
    who = {(one["role"] or "a role that is not shown", one["application"] or "") for one in mine}
    return FoundDatabase(
        name=name,
        database=database,
        reference=given if by_name else f"env:{variable}",
        given=by_name,
        place=_place(dsn),
        identifier=said["identifier"],
        bytes=about.get("bytes"),
        version=said["version"],
        sessions=tuple(f"{role}{f' ({application})' if application else ''}" for role, application in sorted(who)),
        clients=tuple({(one["port"], said["port"]) for one in mine if one["port"] and said["port"]}),
        left_out=left_out,
    )


def _place(dsn: str) -> str:
    """`db1:5432`: the server of a DSN, without user and password."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    host = parts.netloc.rpartition("@")[2] or query.get("host", ["the local socket"])[0]
    return host if ":" in host or host.startswith(("/", "the ")) else f"{host}:{query.get('port', ['5432'])[0]}"


async def _mcp(system: str, given: str, references: References, names: Names) -> FoundMcp:
    try:
        url = references.resolve(given, str(Path.cwd()))
    except StepError as error:
        raise RelightError(f"--mcp: {error}. Nothing was written.") from error
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RelightError("--mcp takes http(s)://host:port/path, env:NAME or file:path")
    host = parts.hostname
    local = host == "localhost" or host.replace(".", "").isdigit() or ":" in host
    name = names.take(f"mcp-{parts.port or parts.scheme}" if local else host.split(".")[0])
    secret = bool(parts.username or parts.query)
    variable = re.sub(r"[^A-Z0-9]", "_", f"{system}_{name}_URL".upper())
    written = f"env:{variable}" if secret and not given.startswith(("env:", "file:")) else given
    addresses = await _addresses(host, parts.port or (443 if parts.scheme == "https" else 80))
    try:
        tools = await McpServers().tools(url, None, WITHIN)
    except StepError as error:
        hidden = str(error).replace(url, bare(url))
        return FoundMcp(name, written, _shown(given), (), hidden, addresses)
    return FoundMcp(name, written, _shown(given), tools, None, addresses)


async def _addresses(host: str, port: int) -> tuple[tuple[str, int], ...]:
    """Where a host is, as connections to it show it; none when its name is not known now."""
    try:
        async with time_limit(WITHIN.total_seconds()):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (TimeoutError, OSError):
        return ()
    return tuple(dict.fromkeys((str(one[4][0]), port) for one in found))


def _all_chosen(
    wanted: Wanted, sight: _Sight, databases: Sequence[FoundDatabase], mcp: Sequence[FoundMcp]
) -> Mapping[int, str]:
    """The processes that belong to the system, each with why."""
    every = tuple(sight.processes.values())
    own = family(every, os.getpid())
    clients = {client for one in databases if one.left_out is None for client in one.clients}
    addresses = {address for one in mcp for address in one.addresses}
    chosen: dict[int, str] = {}
    for process in every:
        if process.pid not in own and (why := _chosen(wanted, process, clients, addresses)) is not None:
            chosen[process.pid] = why
    return chosen


def _components(
    sight: _Sight, chosen: Mapping[int, str], units: Sequence[FoundUnit], names: Names
) -> Iterator[FoundComponent]:
    every = tuple(sight.processes.values())
    mains = {one.main_pid: one for one in units if one.main_pid and one.main_pid in sight.processes}
    adopted = {one.name for one in mains.values() if one.reason is None}
    chosen = {**{pid: f"--unit {one.name}" for pid, one in mains.items() if one.reason is None}, **chosen}
    for pid in sorted(chosen):
        process = sight.processes[pid]
        unit = mains[pid] if pid in mains and mains[pid].reason is None else None
        if unit is None and (unit_of(pid) in adopted or _has_chosen_above(sight.processes, process, chosen)):
            continue  # it is a part of what is a component already
        tree = sorted(below(every, pid))
        peers = tuple(dict.fromkeys(peer for one in tree for peer in sight.processes[one].peers))
        ports = tuple(sorted({port for one in tree for port in sight.processes[one].ports}))
        reason = None if unit is not None else _reason(process, mains)
        base = called(process.command) if unit is None else unit.name.removesuffix(SERVICE)
        yield FoundComponent(
            name=names.take(base) if reason is None else base,
            pid=pid,
            command=process.command,
            folder=process.folder or "",
            user=process.user,
            ports=ports,
            variables=tuple(one for one in process.variables if one not in os.environ),
            found_by=chosen[pid],
            peers=peers,
            pids=tuple(tree),
            reason=reason,
            unit=unit.name if unit is not None else None,
            unit_needs=unit.needs if unit is not None else (),
        )


def _chosen(
    wanted: Wanted, process: FoundProcess, clients: set[tuple[int, int]], addresses: set[tuple[str, int]]
) -> str | None:
    """Why the process belongs to the system; None when it does not."""
    if wanted.processes:
        words = " ".join(process.command)
        for one in wanted.processes:
            if one.isdigit() and int(one) == process.pid:
                return f"--process {one}"
            if not one.isdigit() and (fnmatch.fnmatchcase(words, one) or one in words):
                return f"--process {one}"
        return None
    program = Path(process.command[0].split(" ")[0]).name.rstrip(":")
    relight = any(word in OWN for word in process.command)
    if wanted.units or relight or program in SERVERS or process.folder in (None, "/"):
        return None
    if any((peer.own_port, peer.port) in clients for peer in process.peers):
        return "its connection to a database"
    if any((peer.host, peer.port) in addresses for peer in process.peers):
        return "its connection to an MCP server"
    return "where it listens" if process.ports else None


def _has_chosen_above(processes: Mapping[int, FoundProcess], one: FoundProcess, chosen: Mapping[int, str]) -> bool:
    seen: set[int] = set()
    above = one.parent
    while above in processes and above not in seen:
        if above in chosen:
            return True
        seen.add(above)
        above = processes[above].parent
    return False


def _reason(process: FoundProcess, mains: Mapping[int, FoundUnit]) -> str | None:
    """Why a process cannot be a component; None when it can."""
    me = getpass.getuser()
    unit = mains[process.pid].name if process.pid in mains else unit_of(process.pid)
    if unit is not None:
        return f"it belongs to {unit}, and systemd would start it again beside Relight's own"
    if process.user != me:
        return f"it runs as {process.user}, and Relight started by {me} would start it as {me}"
    if process.folder is None:
        return "its working folder is not shown to us"
    if holds_secret(process.command):
        return "its command line seems to hold a secret (hidden here); give it by `env:` and write it by hand"
    if not all(word and len(word) <= 4000 and word.isprintable() for word in process.command):
        return "its command line cannot be written as text"
    return None
