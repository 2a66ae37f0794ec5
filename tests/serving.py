"""The real `serve` as a process on given servers: started, killed, ended, asked how it is. No system, no judging."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg

from service.adapters.postgres import migrate
from service.embedded.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
LEASE = "2s"
"""The shortest that the settings allow: a take-over after a kill waits for it."""
DEATH = 30.0
"""Seconds in which an armed process must reach its place and die."""
COMMAND_WITHIN = 90.0
"""Seconds for a short command: it waits for an answer itself, and the machine is busy."""
RESTING = ("operational", "degraded", "halted", "halted.database_lost")


class Serving:
    """One Relight in one folder, caring for `system`. `start` and `died` as often as the story wants."""

    def __init__(self, folder: Path, postgres_url: str, amqp_url: str, system: str) -> None:
        self.folder = folder
        self.postgres_url, self.amqp_url = postgres_url, amqp_url
        self.system = system
        self.systems = [folder / "system.yaml"]
        self.program: tuple[str, ...] = ("-m", "service.cli")
        """What Python is told to run; another one may put something around the command line."""
        self.options: tuple[str, ...] = ()
        self.log = folder / "serve.log"
        self.process: asyncio.subprocess.Process | None = None
        self.health = f"http://127.0.0.1:{free_port()}"

    async def prepare(self) -> None:
        """Relight's tables."""
        await migrate(self.postgres_url)

    def environment(self, **more: str) -> dict[str, str]:
        """What serve and the commands beside it are given: nothing of the caller's own Relight."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("RELIGHT_")},
            "PYTHONUNBUFFERED": "1",
            "RELIGHT_POSTGRES_URL": self.postgres_url,
            "RELIGHT_AMQP_URL": self.amqp_url,
            "RELIGHT_HOME": str(self.folder / "home"),
            "RELIGHT_LEASE": LEASE,
            "RELIGHT_HTTP_PORT": self.health.rsplit(":", 1)[1],
            "RELIGHT_LOG_FORMAT": "json",
            **more,
        }

    async def start(self, crash_at: str | None = None, **more: str) -> None:
        """The real process, armed or not; returns at once."""
        environment = self.environment(**more)
        if crash_at is not None:
            environment["RELIGHT_CRASH_AT"] = crash_at
        systems = [word for file in self.systems for word in ("--systems", str(file))]
        with self.log.open("ab") as log:
            log.write(f"--- started, to die at {crash_at}\n".encode())
            log.flush()
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *self.program, "serve", *self.options, *systems,
                cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def command(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A short command of Relight's, beside serve and with the same settings; `more` are variables."""
        return subprocess.run(
            [sys.executable, "-m", "service.cli", *words], cwd=ROOT, env=self.environment(**more),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=COMMAND_WITHIN,
        )  # fmt: skip

    async def died(self, within: float = DEATH) -> int:
        """The exit status of the process (negative: the signal). Raises AssertionError when it goes on living."""
        assert self.process is not None
        try:
            return await asyncio.wait_for(self.process.wait(), within)
        except TimeoutError:
            raise AssertionError(
                f"serve still lives after {within:.0f} s; its log ends:\n{self.last_words()}"
            ) from None

    def last_words(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    async def stop(self) -> None:
        """Ends serve in order, if it runs; what it cares for goes on."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), 15)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    # ---- what it is like now

    async def page(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the health server; status 0 while nobody answers."""
        return await asyncio.to_thread(_get, self.health + path)

    async def ready(self) -> bool:
        return (await self.page("/readyz"))[0] == 200

    async def reasons(self) -> list[str]:
        """Why it is not ready; empty when it is, or when nobody answers."""
        status, body = await self.page("/readyz")
        return list(json.loads(body)["reasons"]) if status else []

    async def counted(self, metric: str) -> float:
        """The value of one line of /metrics, such as `relight_events_total{outcome="dead"}`; 0 when it is absent."""
        _, body = await self.page("/metrics")
        return next((float(line.split()[-1]) for line in body.splitlines() if line.startswith(f"{metric} ")), 0.0)

    def said(self, event: str) -> int:
        """How often an event stands in the log."""
        return sum(f'"{event}"' in line for line in self.log.read_text("utf-8", "replace").splitlines())

    async def value(self, query: str, *arguments: Any) -> Any:
        """One value of Relight's tables."""
        connection = await asyncpg.connect(self.postgres_url, timeout=10)
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close(timeout=10)

    async def state(self) -> str | None:
        """Where the lifecycle stands."""
        found: str | None = await self.value(
            "SELECT state FROM relight.instances WHERE instance = $1", f"lifecycle/{self.system}"
        )
        return found

    async def until(self, what: str, true: Callable[[], Awaitable[object]], within: float = 30.0) -> None:
        """Waits until it is true. Raises AssertionError that says what is not, with serve's last words."""
        deadline = time.monotonic() + within
        while not await true():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within:.0f} s: {what}; serve says:\n{self.last_words()}")
            await asyncio.sleep(0.1)

    async def rest(self, within: float = 40.0) -> None:
        """Waits until nothing moves any more: all told, all steps over, and the same picture for a second."""
        query = """
            SELECT jsonb_build_array(
                (SELECT count(*) FROM relight.signals), (SELECT count(*) FROM relight.outbox),
                (SELECT count(*) FROM relight.inbox), (SELECT count(*) FROM relight.log),
                (SELECT state FROM relight.instances WHERE instance = $1))::text
        """
        before, since = None, time.monotonic()

        async def still() -> bool:
            nonlocal before, since
            now = json.loads(await self.value(query, f"lifecycle/{self.system}"))
            if now != before or now[:2] != [0, 0] or now[4] not in RESTING:
                before, since = now, time.monotonic()
            return time.monotonic() - since > 1.0

        await self.until("everything at rest", still, within)


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""
