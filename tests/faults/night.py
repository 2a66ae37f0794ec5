"""A night: one system with a participant of every kind, under load, whose Relight is told to die again and again.

Where it dies is chosen by the tests, and what it leaves behind is judged by `checker`. Nothing is judged here.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import yaml

from relight_client import Answer, Command, Relight
from service.crash import LAST_WORDS, SUPERVISOR
from service.embedded.ports import free_port
from tests import sizes
from tests.faults import doubles
from tests.faults.harness import METRICS, SYSTEM, Stage
from tests.faults.load import SOURCE
from tests.servers import Databases, Vhosts, unique

LIFECYCLE = f"lifecycle/{SYSTEM}"
TELLER, LISTENER = "teller", "listener"
"""The components that take part over AMQP and by HTTP. The process of each is a double; the listener's is asked itself,
the teller's mouth is in this very process."""
SLOW = ("slow0", "slow1")
"""Measurements of which nothing follows before they have lasted a second: they keep timers coming."""
WITHIN = 100.0
"""Seconds in which an armed process must come to its place: a whole restart, on a machine that has much else to do."""

WAITING = 600
"""Confirmed events without an outcome above which only a few are sent."""
BESIDE, WITH_BESIDE = "supervisor.before_status", "processes.after_order"
"""A supervisor dies at the end of its component, in a later life of serve than the one that started it: it is armed
beside the kill before. Whoever has died already counts when that kill's turn comes."""

Stir = Callable[[], Awaitable[object]]


class Night(Stage):
    """Started armed it dies, and started again it goes on. `kills`: the places where it really did."""

    def __init__(self, folder: Path, postgres_url: str, amqp_url: str) -> None:
        user = urlsplit(amqp_url).username or "guest"
        super().__init__(folder, postgres_url, amqp_url, user)
        self.kills: list[str] = []
        self.began = self.last_fault = time.time()
        self._starts: list[datetime] = []
        self._noticed: Counter[str] = Counter()
        self._beside: list[asyncio.Task[None]] = []
        self._looking: asyncpg.Connection | None = None
        self._told: asyncio.subprocess.Process | None = None
        self.file.write_text(yaml.safe_dump(_extended(yaml.safe_load(self.file.read_text()), user)))

    # ---- its course

    async def begin(self) -> None:
        """Tables, a first life that ends operational, and the load, which goes on until `load.stop`."""
        await self.prepare()
        await self.start()
        await self.until("ready", self.ready)
        self._beside = [asyncio.create_task(self._tell()), asyncio.create_task(self._stand_by())]
        await self.until("operational for the first time", lambda: self.stands_in("operational"))
        await self.watch()
        await self.load.connect()
        self.began = time.time()
        self.load.begin(metrics=METRICS, pause=1 / sizes.now().per_second, restart_every=1.0, slow=SLOW)
        await self.kill()

    async def end(self) -> None:
        """Ends all that runs, whatever state it is in."""
        await self.load.close()
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        if self._looking is not None:
            await self._looking.close(timeout=10)
        await super().end()

    async def start(self, crash_at: str | None = None, **more: str) -> None:
        self._starts.append(datetime.now(UTC))
        await super().start(crash_at, **more)

    async def kill(self) -> None:
        """SIGKILL from outside, wherever it is."""
        assert self.process is not None
        self.process.kill()
        assert await self.died() == -signal.SIGKILL
        self.last_fault = time.time()

    async def dies_at(self, place: str, passage: int, stir: Stir | None = None) -> None:
        """One life that ends there; `stir` is done again and again meanwhile. Raises AssertionError if it did not.

        A supervisor dies beside serve, which is then killed wherever it is.
        """
        of_supervisor, before = place.startswith(SUPERVISOR), self._noticed[place]
        began = time.monotonic()
        beside = f",{BESIDE}" if place == WITH_BESIDE else ""
        await self.start(f"{place}:{passage}{beside}")
        assert self.process is not None
        try:
            while self.process.returncode is None and not (of_supervisor and self._deaths(place) > before):
                for task in self._beside:
                    if task.done():
                        task.result()  # without who stands by and who tells, nothing would go on
                if time.monotonic() - began > WITHIN:
                    raise AssertionError(f"not killed at {place}:{passage}; serve says:\n{self.last_words()}")
                if stir is not None:
                    await stir()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.process.wait(), 0.05)
        finally:
            if self.process.returncode is None:
                await self.kill()
        self._noticed[place] = self._deaths(place)
        assert self.process.returncode == -signal.SIGKILL, self.last_words()
        assert self._noticed[place] > before, f"not killed at {place}, but elsewhere:\n{self.last_words()}"
        self.last_fault = time.time()
        self.kills.append(place)

    def _deaths(self, place: str) -> int:
        """How often somebody said that it dies there."""
        logs = self.folder.glob("home/processes/*/supervisor.log") if place.startswith(SUPERVISOR) else [self.log]
        said = LAST_WORDS.format(name=place)
        return sum(log.read_text("utf-8", "replace").splitlines().count(said) for log in logs)

    # ---- what is asked and done meanwhile

    async def value(self, query: str, *arguments: Any) -> Any:
        """One value of Relight's tables, over a connection that is kept for the whole night."""
        if self._looking is None or self._looking.is_closed():
            self._looking = await asyncpg.connect(self.postgres_url, timeout=10)
        return await self._looking.fetchval(query, *arguments, timeout=10)

    async def stands_in(self, *states: str) -> bool:
        return await self.state() in states

    async def is_told_to_end(self) -> None:
        """SIGTERM, once in a life, when it holds a shard and has decided something."""
        assert self.process is not None
        if self._told is self.process:
            return
        decided = "SELECT count(*) > 0 FROM relight.log WHERE at > $1"
        if await self.value(decided, self._starts[-1]):
            self._told = self.process
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    async def cancels_what_is_under_way(self) -> None:
        """A restart is taken back while a step of it is at work."""
        under_way = """
            SELECT count(*) > 0 FROM relight.steps
            WHERE state = 'preparing_for_restart.preserving' AND status = 'running' AND lease_until > now()
        """
        if await self.value(under_way):
            await self.load.publish("restart.cancelled", {"reason": "on second thoughts"}, LIFECYCLE)

    async def lets_a_participant_fail(self) -> None:
        """The worker's next command fails, and does nothing."""
        (self.folder / "worker.fails").touch()

    async def lets_a_participant_take_long(self) -> None:
        """The worker's next command takes longer than a claim goes without being prolonged."""
        (self.folder / "worker.lingers").touch()

    async def first_commits(self) -> list[float]:
        """Seconds from each start to the first row of the log that it made; lives that made none are left out."""
        query = """
            SELECT extract(epoch FROM first - began)::float8
            FROM unnest($1::timestamptz[], $2::timestamptz[]) AS lives (began, ended)
            CROSS JOIN LATERAL (SELECT min(at) FROM relight.log WHERE at >= began AND at < ended) AS log (first)
            WHERE first IS NOT NULL
        """
        ends = [*self._starts[1:], datetime.now(UTC)]
        if self._looking is None:
            return []
        return [float(row[0]) for row in await self._looking.fetch(query, self._starts, ends, timeout=60)]

    async def _stand_by(self) -> None:
        """What people and publishers do at night: a halted restart is tried again, and who hears nothing sends less.

        Where Relight lives shorter than it takes to start, what waits would otherwise grow all night.
        """
        look = "SELECT (SELECT count(*) FROM relight.inbox WHERE source = $1), state FROM relight.instances"
        connection: asyncpg.Connection | None = None
        while True:
            try:
                if connection is None or connection.is_closed():
                    connection = await asyncpg.connect(self.postgres_url, timeout=10)
                found = await connection.fetchrow(f"{look} WHERE instance = $2", SOURCE, LIFECYCLE, timeout=10)
                settled, state = found or (0, None)  # serve is ready a little earlier than the system is known
                self.load.held = self.load.confirmed - settled > WAITING
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = None  # killed by the night: looked at again when it is back
            else:
                if state == "halted":
                    act = {"instance": LIFECYCLE, "act": "retry", "reason": "it was killed too often at one step"}
                    await self.load.publish("operator.acted", act, LIFECYCLE)
            await asyncio.sleep(0.7)

    async def _tell(self) -> None:
        """What the teller does when it is told: what a participant by program does, with its words over AMQP."""

        async def obey(command: Command) -> Answer:
            program = Path(doubles.__file__ or "").resolve()
            told = {
                "EFFECTS": str(self.effects), "RELIGHT_COMPONENT": TELLER, "RELIGHT_COMMAND_ID": command.commandid,
                "TOKEN": str(command.token),
            }  # fmt: skip
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-E", "-S", str(program), command.command, env={**os.environ, **told},
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            said, complaint = await asyncio.wait_for(process.communicate(), 20)
            if process.returncode:
                raise RuntimeError(complaint.decode())
            found = json.loads(said)
            return Answer("", found.get("digest"), found.get("where"), found["values"])

        commands = ("pause", "flush", "report", "disconnect", "resume")
        async with Relight(self.amqp_url) as relight:
            await relight.participate(SYSTEM, TELLER, dict.fromkeys(commands, obey))


def _extended(system: dict[str, Any], user: str) -> dict[str, Any]:
    """The stage's system with participants over AMQP and by HTTP, and alerts that wait for a duration."""
    components = system["components"]
    worker = components["worker"]
    components[TELLER] = {
        "process": worker["process"], "env": worker["env"], "needs": ["worker"], "participant": "amqp"
    }  # fmt: skip
    port = free_port()
    components[LISTENER] = {
        "process": worker["process"], "env": {**worker["env"], "PORT": str(port)}, "needs": ["worker"],
        "participant": {command: {"http": f"POST :{port}/{command}"} for command in worker["participant"]},
    }  # fmt: skip
    system["allow"] |= {"answer": [user], "act": [user]}
    system["alerts"] += [{"metric": name, "warning": 70, "critical": 90, "for": "1s"} for name in SLOW]
    return system


@asynccontextmanager
async def night(folder: Path, databases: Databases, vhosts: Vhosts) -> AsyncIterator[Night]:
    """A night on servers of the session, with its load; all of it is ended afterwards."""
    name = unique("night")
    stage = Night(folder, await databases.create_database(name), await vhosts.add_vhost(name))
    try:
        await stage.begin()
        yield stage
    finally:
        await stage.end()
        await databases.drop_database(name)
        await vhosts.delete_vhost(name)
