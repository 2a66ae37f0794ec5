"""Server processes: started detached from us, found again, ended by their id and never by name.

A server must outlive a killed Relight and be adopted by the next one, so it is no child that asyncio watches.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.cancellation import begun, to_the_end
from service.children import end_group
from service.embedded.place import Account
from service.timeouts import time_limit

PAUSE = 0.02
"""Seconds between two looks at a process or a port; short beside every deadline here."""

LOG_LIMIT = 10_000_000
"""Bytes after which a server's console log starts anew at its next start; one older one is kept."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended: exit status and all that it said."""

    status: int
    output: str
    errors: str

    @property
    def said(self) -> str:
        """What it said, for an error's text."""
        return (self.errors.strip() or self.output.strip())[-4_000:]


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """A small environment of our own: a user's PGHOST or RABBITMQ_NODENAME must not reach our servers."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "TZ": "UTC", **extra}


async def run(
    command: Sequence[str | Path],
    *,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float,
) -> Finished:
    """Run a short command to its end; it is killed when the deadline passes, and `TimeoutError` raised.

    In a thread, not by the event loop: uvloop cannot start a process as another user.
    """
    switch = account is not None and account.switch
    starting = asyncio.to_thread(
        subprocess.Popen,
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(env or {}),
        cwd="/",
        start_new_session=True,
        user=account.uid if account and switch else None,
        group=account.gid if account and switch else None,
        extra_groups=[] if switch else None,
    )
    process = await begun(starting, end_at_once)
    talk = asyncio.ensure_future(asyncio.to_thread(process.communicate, stdin.encode()))
    try:
        async with time_limit(timeout):
            output, errors = await asyncio.shield(talk)
    except BaseException:
        end_group(process.pid)
        await to_the_end(talk)
        raise
    return Finished(process.returncode, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))


async def end_at_once(process: "subprocess.Popen[bytes]") -> None:
    """Kills it with its group; returns when it is gone."""
    end_group(process.pid)
    await asyncio.to_thread(process.communicate)


def start_detached(
    command: Sequence[str | Path], *, account: Account, env: Mapping[str, str], log: Path
) -> "subprocess.Popen[bytes]":
    """Start a server in a session of its own, its output going to `log`. It stays when we end."""
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_name(f"{log.name}.1"))
    with log.open("ab") as output:
        account.own(log)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(env),
            cwd="/",
            start_new_session=True,
            user=account.uid if account.switch else None,
            group=account.gid if account.switch else None,
            extra_groups=[] if account.switch else None,
        )


def alive(pid: int) -> bool:
    """Whether this process exists and has not ended; a child of ours that has ended is reaped."""
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        # The first thread may have ended while others still hold the process's ports and files.
        return state not in (b"Z", b"X") or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (OSError, IndexError):
        return False


def marked(variable: str, value: str) -> list[int]:
    """The processes whose environment says `variable=value`: those of one server, whoever their parent is now."""
    wanted = f"{variable}={value}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if wanted in Path(entry.path, "environ").read_bytes().split(b"\0") and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def program(pid: int) -> str:
    """The name of a process's program, or nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes that may have ended meanwhile."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def gone(pids: Iterable[int], timeout: float) -> bool:
    """Wait until all these processes have ended; false when the deadline passed first."""
    waiting = list(pids)
    deadline = time.monotonic() + timeout
    while waiting := [pid for pid in waiting if alive(pid)]:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(PAUSE)
    return True


def working_in(directory: Path) -> list[int]:
    """The processes whose working directory is this one: PostgreSQL's own, even when their parent was killed."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if os.readlink(f"{entry.path}/cwd") == str(directory) and alive(int(entry.name)):
                found.append(int(entry.name))
    return found
