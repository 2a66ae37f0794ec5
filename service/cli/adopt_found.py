"""What `relight adopt` found on a machine, and what follows from it: names, who needs whom. Pure; nothing is looked at.

Nothing is guessed: what follows here follows from an open connection, a port or a name, and says from which.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

LONGEST = 40
"""Characters of a name that is made here; they stand in routing keys and on terminals."""


class Peer(Protocol):
    """One open connection of a process."""

    @property
    def own_port(self) -> int: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


@dataclass(frozen=True, slots=True)
class FoundDatabase:
    """A database of a given server. `reference`: how the file names its DSN. `sessions`: who is connected, one line
    each. `clients`: (their own port, the port of the server) of each client over TCP.
    `left_out`: why it is only mentioned."""

    name: str
    database: str
    reference: str
    given: bool
    place: str
    identifier: str | None
    bytes: int | None
    version: str = ""
    sessions: tuple[str, ...] = ()
    clients: tuple[tuple[int, int], ...] = ()
    left_out: str | None = None


@dataclass(frozen=True, slots=True)
class FoundMcp:
    """A given MCP server: the tools it lists, or why it did not answer. `addresses`: (IP, port) of its host."""

    name: str
    url: str
    given: str
    tools: tuple[str, ...]
    problem: str | None = None
    addresses: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class FoundComponent:
    """A process that becomes a component, or, with `reason`, one that is only mentioned. `variables`: names that its
    environment has and ours lacks. `pids`: it and all below it. `unit`: the service of systemd whose main process it
    is; then that becomes the component. `unit_needs`: other services, each with the word by which its file needs it."""

    name: str
    pid: int
    command: tuple[str, ...]
    folder: str
    user: str
    ports: tuple[int, ...]
    variables: tuple[str, ...]
    found_by: str
    peers: tuple[Peer, ...] = ()
    pids: tuple[int, ...] = ()
    reason: str | None = None
    unit: str | None = None
    unit_needs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class FoundUnit:
    """A service of systemd. `needs`: as `unit_needs` above. `reason`: why it becomes no component."""

    name: str
    about: str
    main_pid: int
    needs: tuple[tuple[str, str], ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """All of it. `problems`: what could not be looked at, in words."""

    databases: tuple[FoundDatabase, ...] = ()
    mcp: tuple[FoundMcp, ...] = ()
    components: tuple[FoundComponent, ...] = ()
    units: tuple[FoundUnit, ...] = ()
    problems: tuple[str, ...] = ()
    grounds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    """That a component needs something, and how that was seen."""

    name: str
    seen: str


@dataclass(slots=True)
class Names:
    """Names for the file, each once: components, databases and MCP servers share them."""

    taken: set[str] = field(default_factory=set)

    def take(self, wanted: str) -> str:
        """`wanted` as a name of Relight's, with a number when somebody has it."""
        base = slug(wanted)
        name, number = base, 2
        while name in self.taken:
            name, number = f"{base}-{number}", number + 1
        self.taken.add(name)
        return name


def slug(text: str) -> str:
    """A name of Relight's: lower case, beginning with a letter."""
    plain = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")
    plain = plain if plain[:1].isalpha() else f"c-{plain}".rstrip("-")
    return plain[:LONGEST].rstrip("-_") or "c"


def called(command: Sequence[str]) -> str:
    """What a person would call the process: the module or script that an interpreter runs, else the program."""
    program = PurePosixPath(command[0]).name
    if not re.match(r"^(python|node|ruby|perl|bash|sh|java|php)[\d.]*$", program):
        return program
    rest = list(command[1:])
    for flag in ("-m", "-jar"):
        if flag in rest[:-1]:
            what = rest[rest.index(flag) + 1]
            return PurePosixPath(what).stem if flag == "-jar" else what.removesuffix(".__main__").rpartition(".")[2]
    scripts = [word for word in rest if not word.startswith("-")]
    return PurePosixPath(scripts[0]).stem if scripts and "-c" not in rest else program


def needs(found: Found) -> Mapping[str, tuple[Need, ...]]:
    """Whom each component needs, by name: to whom it had a connection open. No circle is made: of two that need each
    other, the one that is found first by name is told apart as a note by `circles`."""
    kept: dict[str, list[Need]] = {}
    for name, need in _all_needs(found):
        mine = kept.setdefault(name, [])
        if need.name not in [one.name for one in mine] and not _reaches(kept, need.name, name):
            mine.append(need)
    return {name: tuple(some) for name, some in kept.items()}


def circles(found: Found) -> tuple[str, ...]:
    """Connections that would make a circle of needs, one sentence each: a person has to say which way counts."""
    kept, lines = needs(found), []
    for name, need in _all_needs(found):
        if need.name not in [one.name for one in kept.get(name, ())]:
            lines.append(f"{name} is also connected to {need.name} ({need.seen}), which would make a circle of needs")
    return tuple(dict.fromkeys(lines))


def _all_needs(found: Found) -> Iterator[tuple[str, Need]]:
    components = [one for one in found.components if one.reason is None]
    units = {one.unit: one.name for one in components if one.unit is not None}
    for one in components:
        for unit, word in one.unit_needs:
            if unit in units and unit != one.unit:
                yield one.name, Need(units[unit], f"{one.unit} says {word}={unit}")
        for peer in one.peers:
            for name, seen in _at(found, components, one, peer):
                yield one.name, Need(name, seen)


def _at(
    found: Found, components: Iterable[FoundComponent], one: FoundComponent, peer: Peer
) -> Iterator[tuple[str, str]]:
    """Who is at the other end of a connection. A database is known by the server's own list of its clients."""
    seen = f"pid {one.pid} is connected to {peer.host}:{peer.port}"
    for database in found.databases:
        if database.left_out is None and (peer.own_port, peer.port) in database.clients:
            yield database.name, seen
    for other in components:
        if other.name != one.name and peer.port in other.ports and _here(peer.host):
            yield other.name, seen
    for server in found.mcp:
        if (peer.host, peer.port) in server.addresses:
            yield server.name, seen


def _here(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


def _reaches(kept: Mapping[str, Sequence[Need]], start: str, goal: str) -> bool:
    seen, open_ = set[str](), [start]
    while open_:
        here = open_.pop()
        if here == goal:
            return True
        if here not in seen:
            seen.add(here)
            open_ += [need.name for need in kept.get(here, ())]
    return False
