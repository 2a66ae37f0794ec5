"""Parts of the benchmark that are processes of their own: one JSON object in, one out; no password is an argument."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchError

ROOT = Path(__file__).resolve().parents[1]


async def ask(module: str, job: dict[str, Any], within: float) -> dict[str, Any]:
    """What `python -m benchmarks.<module>` answers. Raises BenchError; the process has ended in any case."""
    child = await begin(module)
    return await finish(module, child, job, within)


async def begin(module: str) -> asyncio.subprocess.Process:
    """The process, importing already; it waits for its job."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"benchmarks.{module}",
        cwd=ROOT, env=environment(), start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def finish(module: str, child: asyncio.subprocess.Process, job: dict[str, Any], within: float) -> dict[str, Any]:
    """Gives it its job and waits for the answer."""
    try:
        async with asyncio.timeout(within):
            output, errors = await child.communicate(json.dumps(job).encode())
    except TimeoutError:
        raise BenchError(f"{module} did not end within {within:.0f} s and was ended; nothing was measured") from None
    finally:
        await end(child)
    if child.returncode != 0:
        said = "\n".join(errors.decode("utf-8", "replace").splitlines()[-12:])
        raise BenchError(f"{module} failed with {child.returncode}:\n{said}")
    found: dict[str, Any] = json.loads(output)
    return found


async def end(child: asyncio.subprocess.Process) -> None:
    """Ends it and what it started, if it still runs."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


def environment(**more: str) -> dict[str, str]:
    """Nothing of the caller's own Relight, but where the servers' programs are."""
    kept = ("RELIGHT_POSTGRES_BIN", "RELIGHT_RABBITMQ_BIN")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RELIGHT_") or name in kept},
        "PYTHONUNBUFFERED": "1",
        **more,
    }
