"""How every child of Relight begins: with a small environment, and never forgotten while it is being started.

What Relight itself was given stays out of that environment.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from service.cancellation import begun
from service.timeouts import time_limit

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a Debian keeps its programs, for a Relight that was started with none."""

KEPT = ("HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "RELIGHT_POSTGRES_BIN")
"""Variables of Relight's own environment that a child may see; passwords and URLs are never among them."""

LOOK = 0.01
"""Seconds between two looks at whether a program has ended."""
HELD = 0.5
"""Seconds after its end in which the pipes of a program close, unless somebody else holds them."""


def base_environment() -> dict[str, str]:
    """`python` on its PATH is the Python that Relight runs on, so that a system's file need not know where that is."""
    found = {name: os.environ[name] for name in KEPT if name in os.environ}
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH') or PATH}"
    return {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", **found, "PATH": path}


async def spawn(
    *command: str,
    env: Mapping[str, str],
    cwd: str,
    stdin: int,
    stderr: int | IO[bytes],
    own_group: bool,
) -> asyncio.subprocess.Process:
    """A program whose output we read. `own_group`: it leads a session and a process group of its own.

    Cancelled meanwhile, it kills what it started, with that group, before it ends. asyncio does not: a program begins
    before its pipes are connected; whoever is cancelled in between gets no process to end, its children live on, and
    without uvloop the task never ends (https://github.com/python/cpython/issues/125502). Raises OSError, ValueError.
    """

    async def end(process: asyncio.subprocess.Process) -> None:
        if own_group:
            end_group(process.pid)
        else:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await closed(process)

    starting = asyncio.create_subprocess_exec(
        *command,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=env,
        cwd=cwd,
        start_new_session=own_group,
    )
    return await begun(starting, end)


async def ended(process: asyncio.subprocess.Process) -> None:
    """Returns when it has ended. Without uvloop `process.wait` also waits for whoever else holds its pipes."""
    while process.returncode is None:  # noqa: ASYNC110  # no event is set before the pipes are closed
        await asyncio.sleep(LOOK)


async def closed(process: asyncio.subprocess.Process) -> None:
    """Returns when it has ended and its pipes are closed; a little later where somebody else holds them."""
    await ended(process)
    with contextlib.suppress(TimeoutError):
        async with time_limit(HELD):
            await process.wait()


def end_group(leader: int) -> None:
    """Kills a process and all that are still in its group; nothing when none is there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
