"""The ports `Sockets` and `Grounds` on this host: who listens, who is connected, and what Relight itself stands on.

It looks with the rights of Relight's own user, under which components run as well, and touches nothing.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import psutil

from service.errors import Retry
from service.timeouts import time_limit

WITHIN = 15.0
"""Seconds for one look at the processes and sockets of this host (normally 0.1)."""
PORTS = {"postgresql": 5432, "postgres": 5432, "amqp": 5672, "amqps": 5671, "http": 80, "https": 443}
ANY = ("0.0.0.0", "::")  # noqa: S104  # compared with, never bound
OPEN = (psutil.CONN_ESTABLISHED, psutil.CONN_SYN_SENT)

T = TypeVar("T")


class HostSockets:
    """TCP and PostgreSQL's local sockets of this host."""

    async def serves(self, pid: int, url: str) -> bool:
        """Whether the process or one of its children listens at the address of `url`."""
        return await _within(lambda: not _listening(url).isdisjoint(_tree(pid)))

    async def connections(self, pid: int, url: str) -> tuple[str, ...]:
        """The open TCP connections of the process and its children to the address of `url`, one line each."""
        return await _within(lambda: tuple(_connections(_tree(pid), _addresses(url))))


class HostGrounds:
    """Relight's own process, those above it, and its own servers by their name for people."""

    def __init__(self, servers: Mapping[str, str], identifier: Callable[[], Awaitable[str]]) -> None:
        """`servers`: their URLs. `identifier` asks the server of Relight's own tables for its system_identifier."""
        self._servers = dict(servers)
        self._identifier = identifier

    async def under(self, pid: int) -> tuple[str, ...]:
        """What of Relight would end with the process and its children; see the port."""
        return await _within(lambda: tuple(self._under(_tree(pid))))

    async def within(self, groups: Sequence[str]) -> tuple[str, ...]:
        """What of Relight would end with these control groups; see the port."""
        return await _within(lambda: tuple(self._within_groups(groups)))

    async def identifier(self) -> str:
        """The system_identifier of the server of Relight's own tables."""
        return await self._identifier()

    def _within_groups(self, groups: Sequence[str]) -> Iterator[str]:
        own = psutil.Process()
        for process in (own, *own.parents()):
            if (group := _in_one_of(process.pid, groups)) is not None:
                what = "Relight itself" if process == own else "a parent of Relight"
                yield f"{what} (pid {process.pid}) is in its control group or in one that is stopped with it, {group}"
        for name, url in self._servers.items():
            for pid in sorted(_listening(url)):
                if (group := _in_one_of(pid, groups)) is not None:
                    yield f"{name} (pid {pid}) is in its control group or in one that is stopped with it, {group}"

    def _under(self, tree: frozenset[int]) -> Iterator[str]:
        own = psutil.Process()
        for process in (own, *own.parents()):
            if process.pid in tree:
                what = "Relight itself" if process == own else "a parent of Relight"
                yield f"{what} (pid {process.pid}) is one of its processes"
        for name, url in self._servers.items():
            for pid in sorted(_listening(url) & tree):
                yield f"{name} (pid {pid}) is one of its processes"


def _tree(pid: int) -> frozenset[int]:
    """The process with all below it, and whoever shares its process group or session: what ending it may reach."""
    try:
        found = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    except psutil.NoSuchProcess:
        return frozenset()
    for other in psutil.pids():
        try:
            if pid in (os.getpgid(other), os.getsid(other)):
                found.add(other)
        except (ProcessLookupError, PermissionError):
            continue
    return frozenset(found)


def _in_one_of(pid: int, groups: Sequence[str]) -> str | None:
    """In which of the control groups a process is, in whatever hierarchy systemd uses; see cgroups(7)."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    paths = [line.split(":", 2)[2] for line in lines if line.count(":") >= 2]
    return next((one for one in groups for path in paths if f"{path}/".startswith(f"{one.rstrip('/')}/")), None)


def _listening(url: str) -> frozenset[int]:
    """The processes that listen where `url` leads to, as far as it leads to this host."""
    addresses, local = _addresses(url), _local_addresses()
    found: set[int] = set()
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.pid is not None and one.laddr:
            at, port = _plain(one.laddr.ip), one.laddr.port
            here = local if at in ANY else {at}
            if any(port == wanted and host in here for host, wanted in addresses):
                found.add(one.pid)
    paths = {path for path, _ in addresses if path.startswith("/")}
    if paths:
        found |= {one.pid for one in psutil.net_connections("unix") if str(one.laddr) in paths and one.pid is not None}
    return frozenset(found)


def _connections(tree: frozenset[int], addresses: frozenset[tuple[str, int]]) -> Iterator[str]:
    for one in psutil.net_connections("tcp"):
        if one.pid not in tree or one.status not in OPEN or not one.raddr or not one.laddr:
            continue
        if (_plain(one.raddr.ip), one.raddr.port) in addresses:
            yield f"pid {one.pid}, {one.laddr.ip}:{one.laddr.port} to {one.raddr.ip}:{one.raddr.port}"


def _addresses(url: str) -> frozenset[tuple[str, int]]:
    """(IP, port) of every host that a URL names; a local socket is (its path, 0)."""
    parts = urlsplit(url)
    standard = PORTS.get(parts.scheme, 0)
    query = parse_qs(parts.query)
    named = [place for place in parts.netloc.rpartition("@")[2].split(",") if place]
    places = named or query.get("host", ["localhost"])
    found: set[tuple[str, int]] = set()
    for place in places:
        if place.startswith("/"):
            found.add((f"{place}/.s.PGSQL.{query.get('port', [str(standard)])[0]}", 0))
            continue
        host, port = _host_and_port(place, int(query.get("port", [standard])[0]))
        found |= {(address, port) for address in _resolved(host)}
    return frozenset(found)


def _host_and_port(place: str, standard: int) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    return parts.hostname or "localhost", parts.port or standard


def _resolved(host: str) -> frozenset[str]:
    try:
        return frozenset(_plain(str(one[4][0])) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except OSError as error:
        raise Retry(f"the address of {host} is not known now ({error}), so nobody can tell who is there") from error


def _local_addresses() -> frozenset[str]:
    return frozenset(_plain(one.address) for all_ in psutil.net_if_addrs().values() for one in all_)


def _plain(address: str) -> str:
    """Without the scope of a link, and an IPv4 address that stands in an IPv6 one as itself."""
    return address.partition("%")[0].removeprefix("::ffff:")


async def _within(look: Callable[[], T]) -> T:
    try:
        async with time_limit(WITHIN):
            return await asyncio.to_thread(look)
    except TimeoutError as error:
        raise Retry(f"this host's processes could not be looked at within {WITHIN:.0f} s") from error
    except (psutil.Error, OSError) as error:
        raise Retry(f"this host's processes could not be looked at: {error}") from error
