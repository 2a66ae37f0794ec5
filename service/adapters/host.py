"""What runs on this host, looked at once: processes, where they listen, whom they are connected to. Nothing is touched.

It sees what this user may see; of other users' processes the kernel shows neither the folder nor the connections.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from service.errors import Retry
from service.timeouts import time_limit

WITHIN = 20.0
"""Seconds for one look at all processes and sockets (normally 0.2)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One open TCP connection of a process: its own end, and the other one."""

    own_port: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class FoundProcess:
    """A process as this user sees it. `folder` None: the kernel does not show it to us. `variables`: the names of its
    environment, never a value. `ports`: where it listens, over TCP. `session`: the pid that leads its session."""

    pid: int
    parent: int
    command: tuple[str, ...]
    folder: str | None
    user: str
    variables: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    peers: tuple[Peer, ...] = ()
    session: int = 0


class Host:
    """This host, by psutil."""

    async def processes(self) -> tuple[FoundProcess, ...]:
        """All that have a command line, by pid; kernel threads have none. Raises Retry when the host cannot be read."""
        try:
            async with time_limit(WITHIN):
                return await asyncio.to_thread(lambda: tuple(_processes()))
        except TimeoutError as error:
            raise Retry(f"this host's processes could not be looked at within {WITHIN:.0f} s") from error
        except (psutil.Error, OSError) as error:
            raise Retry(f"this host's processes could not be looked at: {error}") from error


def family(processes: tuple[FoundProcess, ...], pid: int) -> frozenset[int]:
    """The process, those above it and those below it: what Relight's own command is part of."""
    parents = {one.pid: one.parent for one in processes}
    found = {pid}
    above = parents.get(pid)
    while above and above not in found:
        found.add(above)
        above = parents.get(above)
    return frozenset(found) | below(processes, pid)


def below(processes: tuple[FoundProcess, ...], pid: int) -> frozenset[int]:
    """The process and all that descend from it."""
    found, fresh = {pid}, {pid}
    while fresh := {one.pid for one in processes if one.parent in fresh} - found:
        found |= fresh
    return frozenset(found)


def _processes() -> Iterator[FoundProcess]:
    listening: dict[int, set[int]] = {}
    peers: dict[int, set[Peer]] = {}
    for one in psutil.net_connections("tcp"):
        if one.pid is None or not one.laddr:
            continue
        if one.status == psutil.CONN_LISTEN:
            listening.setdefault(one.pid, set()).add(one.laddr.port)
        elif one.status == psutil.CONN_ESTABLISHED and one.raddr:
            host = str(one.raddr.ip).removeprefix("::ffff:")
            peers.setdefault(one.pid, set()).add(Peer(one.laddr.port, host, one.raddr.port))
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                command = tuple(process.cmdline())
                if not command or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                pid = process.pid
                yield FoundProcess(
                    pid=pid,
                    parent=process.ppid(),
                    command=command,
                    folder=_folder(process),
                    user=process.username(),
                    variables=_variables(process),
                    ports=tuple(sorted(listening.get(pid, ()))),
                    peers=tuple(sorted(peers.get(pid, ()), key=lambda peer: (peer.port, peer.own_port))),
                    session=os.getsid(pid),
                )
        except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, PermissionError):
            continue


def _folder(process: psutil.Process) -> str | None:
    try:
        return process.cwd() or None
    except (psutil.AccessDenied, OSError):
        return None


def _variables(process: psutil.Process) -> tuple[str, ...]:
    try:
        return tuple(sorted(process.environ()))
    except (psutil.AccessDenied, OSError):
        return ()
