"""What can be killed with SIGKILL while a system is restarted, and what an operator then does about it. No judging."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.adapters.processes.record import start_time
from service.embedded import PostgresServer, RabbitServer
from service.embedded.ports import answers
from tests.acceptance.harness import House
from tests.serving import ROOT

UP_WITHIN = 40.0
"""Seconds in which a program that was started must listen: imports on a busy machine fit in."""


AWAY = 1.0
"""Seconds that a server stays away before somebody starts it again."""


class Victim(Protocol):
    """One part of the whole, a process or several. `away`: seconds until somebody notices and calls `back`."""

    name: str
    away: float

    async def kill(self) -> None:
        """Ends it at once with SIGKILL. Does nothing when it does not run."""
        ...

    async def back(self) -> None:
        """What systemd or an operator does next. For what Relight starts by itself: nothing."""
        ...


class Program:
    """A program of the tests that listens on one port, as long as it lives."""

    def __init__(self, name: str, port: int, *words: str) -> None:
        self.name, self.port, self._words = name, port, words
        self.away = AWAY
        self._process: subprocess.Popen[bytes] | None = None

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def back(self) -> None:
        """Raises AssertionError when it does not listen in time."""
        command = [sys.executable, "-m", self._words[0], str(self.port), *self._words[1:]]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + UP_WITHIN
        while not answers(self.port):
            assert self._process.poll() is None, f"{self.name} ended with status {self._process.returncode}"
            assert time.monotonic() < deadline, f"{self.name} does not listen on {self.port}"
            await asyncio.sleep(0.05)


@dataclass
class Server:
    """A private server: all its processes at once, as a power cut would."""

    name: str
    server: PostgresServer | RabbitServer
    away: float = AWAY

    async def kill(self) -> None:
        await self.server.kill()

    async def back(self) -> None:
        await self.server.start()


@dataclass
class Relight:
    """The `serve` of the house."""

    house: House
    name: str = "relight"
    away: float = 0.2

    async def kill(self) -> None:
        if (process := self.house.process) is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def back(self) -> None:
        await self.house.start()


@dataclass
class Component:
    """A component's process, behind Relight's back: to start it again is Relight's business."""

    house: House
    name: str
    away: float = 0.0

    async def kill(self) -> None:
        if (pid := self.house.alive().get(self.name)) is not None:
            os.kill(pid, signal.SIGKILL)
            await _gone([pid])

    async def back(self) -> None:
        pass


@dataclass
class TradingDatabase:
    """The PostgreSQL that the trading-server runs, not the trading-server itself."""

    house: House
    name: str = "trading-database"
    away: float = 0.0

    async def kill(self) -> None:
        found = list((self.house.example / "var/trading").glob("*/data/postmaster.pid"))
        assert found, "the trading database runs nowhere that we know"
        with contextlib.suppress(ProcessLookupError):
            pid = int(found[0].read_text().split("\n", 1)[0])
            if Path(f"/proc/{pid}/cwd").readlink() == found[0].parent.resolve():
                os.kill(pid, signal.SIGKILL)
                await _gone([pid])

    async def back(self) -> None:
        pass


async def _gone(pids: Sequence[int]) -> None:
    """Waits until they have ended; what is dead and not yet collected by its parent has."""
    for _ in range(500):
        if all(start_time(pid) is None for pid in pids):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"SIGKILL does not end {pids}")
