"""The real `serve`, as a process on given servers: started, waited for, ended. What it does is measured elsewhere."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from benchmarks.child import ROOT, environment
from benchmarks.errors import BenchError
from benchmarks.ground import Place
from service.embedded.ports import free_port

READY_WITHIN = 120.0
"""Seconds until `serve` must own a shard; most of it goes to reading many systems' files."""

CONFIRMED = re.compile(r'^relight_published_total\{result="confirmed"\} (\S+)$', re.MULTILINE)


class Serve:
    """One replica."""

    def __init__(self, place: Place, systems: Path, *, replica: int = 0, more: Mapping[str, str] | None = None) -> None:
        """`more`: environment variables beside the usual ones. What is not named is as by default."""
        self.place = place
        self.log = place.folder / f"serve{replica}.log"
        self._systems = systems
        self._health = f"http://127.0.0.1:{free_port()}"
        self._environment = environment(
            RELIGHT_POSTGRES_URL=place.postgres_url,
            RELIGHT_AMQP_URL=place.amqp_url,
            RELIGHT_HOME=str(place.folder / f"home{replica}"),
            RELIGHT_HTTP_PORT=self._health.rsplit(":", 1)[1],
            # Nothing of the benchmark's systems is to be done to the world: nobody serves any place of theirs.
            RELIGHT_PLACES="bench",
            RELIGHT_LOG_FORMAT="json",
            **(more or {}),
        )
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise BenchError("serve was not started")
        return self._process.pid

    async def start(self, *before: str, ready: bool = True) -> None:
        """Starts it as `relight serve` does; `before`: what stands before `service.cli` on the command line."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *(before or ("-m", "service.cli")), "serve", "--systems", str(self._systems),
                cwd=ROOT, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        if ready:
            await self.until_ready()

    async def until_ready(self) -> None:
        """Waits until it owns a shard and is connected."""
        deadline = time.monotonic() + READY_WITHIN
        while not await asyncio.to_thread(_answers, f"{self._health}/readyz"):
            self.alive()
            if time.monotonic() > deadline:
                raise BenchError(f"serve was not ready within {READY_WITHIN:.0f} s; it says:\n{self.last_words()}")
            await asyncio.sleep(0.05)

    async def confirmed(self) -> int:
        """How many notifications RabbitMQ has confirmed to it, as it counts them itself; 0 before it is started."""
        if self._process is None:
            return 0
        page = await asyncio.to_thread(_page, f"{self._health}/metrics")
        found = CONFIRMED.search(page)
        return int(float(found[1])) if found else 0

    def alive(self) -> None:
        """Raises BenchError with its last words when it has ended."""
        if self._process is None or self._process.returncode is not None:
            raise BenchError(f"serve ended by itself; it said:\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-15:])

    async def stop(self) -> None:
        """Ends it in order."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), 20)
        finally:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                await self._process.wait()


@contextlib.asynccontextmanager
async def serving(*replicas: Serve, before: Sequence[str] = ()) -> AsyncIterator[None]:
    """They run, ready, as long as the block."""
    try:
        await asyncio.gather(*(replica.start(*before) for replica in replicas))
        yield
    finally:
        await asyncio.gather(*(replica.stop() for replica in replicas))


def _page(url: str) -> str:
    """Raises BenchError when it does not come."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read(), "utf-8")
    except (urllib.error.URLError, OSError) as error:
        raise BenchError(f"{url} did not answer: {error}") from error


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
