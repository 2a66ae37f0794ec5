"""One system under one Relight for a file of stories: load, a witness, a subscriber, and the judgement at the end.

What is broken and how belongs to the stories; what must hold afterwards to the checker.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import aio_pika

from tests.faults.checker import check
from tests.faults.evidence import Evidence, Probe, Run, Strike, Verdict
from tests.faults.harness import METRICS, SYSTEM, Stage
from tests.servers import Databases, Vhosts, unique
from tests.serving import Serving

LIFECYCLE = f"lifecycle/{SYSTEM}"
BACK = 30.0
"""Seconds for each thing that a story waits for; how soon everything answers after a fault the checker judges."""
LEAST = 100
"""Confirmed events without which a file's stories would prove little."""
SILENT = 1.0
"""Seconds in which a subscriber hears nothing more once it has heard everything."""


class Scene(Stage):
    """A stage whose every write is witnessed and whose every notification is heard from the first one on."""

    def __init__(self, folder: Path, postgres_url: str, amqp_url: str) -> None:
        super().__init__(folder, postgres_url, amqp_url, urlsplit(amqp_url).username or "guest")
        self.began = self.last_fault = time.time()
        self._strikes: list[Strike] = []
        self._probes: list[Probe] = []

    async def begin(self, **environment: str) -> None:
        """Serve runs, its system is operational, and a subscriber listens."""
        await self.start(**environment)
        await self.until("ready", self.ready, BACK)
        await self.watch()
        await self.until("operational for the first time", self.is_operational, BACK)
        self.began = self.last_fault = time.time()

    async def end(self) -> None:
        await self.load.close()
        await super().end()

    async def is_operational(self) -> bool:
        return await self.state() == "operational"

    async def rows(self) -> int:
        """Rows of the log: what was decided so far."""
        return int(await self.value("SELECT count(*) FROM relight.log"))

    def grows(self, before: int) -> Callable[[], Awaitable[bool]]:
        """Whether the log has more rows by now."""

        async def more() -> bool:
            return await self.rows() > before

        return more

    @asynccontextmanager
    async def under_load(
        self, *, restart_every: float = 3.0, first: float = 1.0, metrics: int = METRICS
    ) -> AsyncIterator[None]:
        """Somebody publishes all the while, whatever becomes of the connection; for `first` seconds before anything."""
        await self.load.connect()
        self.load.begin(metrics=metrics, pause=0.02, restart_every=restart_every)
        try:
            await self.until("load", self.grows(await self.rows() + 20), BACK)
            await asyncio.sleep(first)
            yield
        finally:
            await self.load.close()

    def over(self, fault: str) -> None:
        """A fault that really happened is over now; how soon everything answers is counted from the last one."""
        self._strikes.append(Strike(fault, hit=True))
        self.last_fault = time.time()

    async def everything_answers(self) -> None:
        """Each instance has an outcome for an event that is published now, behind all that still waits."""
        await self.load.close()
        await self.load.connect()
        try:
            probes = await self.ask_everybody(self.last_fault)
        finally:
            await self.load.close()
        self._probes += probes
        silent = [probe.instance for probe in probes if probe.after is None]
        assert not silent, f"{silent} did not answer; serve says:\n{self.last_words()}"

    async def evidence(self, run: Run | None = None) -> Evidence:
        await self._until_silent()
        return await super().evidence(run)

    async def judged(self) -> Evidence:
        """The checker's verdict on all that happened, once it is at rest. Raises AssertionError with its findings."""
        await self.everything_answers()
        await self.rest(60)
        # Stories are under load only while they need it, so that no rate is asked of all of them together.
        evidence = await self.evidence(Run(self.began, self.last_fault, self._strikes, frozenset(), 0.0, self._probes))
        findings = check(evidence)
        assert not findings, "\n".join(map(str, findings[:20]))
        assert sum(event.verdict is Verdict.CONFIRMED for event in evidence.published) > LEAST
        assert evidence.writes
        assert evidence.heard
        return evidence

    async def _until_silent(self) -> None:
        size, since = -1, time.monotonic()
        while time.monotonic() - since < SILENT:
            now = self.heard.stat().st_size if self.heard.exists() else 0
            if now != size:
                size, since = now, time.monotonic()
            await asyncio.sleep(0.1)

    # ---- what it said

    def lines(self, event: str) -> list[dict[str, object]]:
        """The lines of serve's log with this event."""
        return lines_of(self, event)

    async def blames(self, *names: str) -> bool:
        """Whether /readyz answers 503 and its reasons name all of these."""
        status, body = await self.page("/readyz")
        return status == 503 and all(name in " ".join(json.loads(body)["reasons"]) for name in names)


def lines_of(serving: Serving, event: str) -> list[dict[str, object]]:
    """The lines of a serve's log with this event, in their order."""
    text = serving.log.read_text("utf-8", "replace")
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{") and f'"{event}"' in line]
    return [line for line in found if line.get("event") == event]


S = TypeVar("S", bound=Scene)


@asynccontextmanager
async def scene(folder: Path, databases: Databases, vhosts: Vhosts, kind: type[S]) -> AsyncIterator[S]:
    """One on a database and a vhost of its own, prepared and not yet begun; everything is ended afterwards."""
    name = unique("scene")
    stage = kind(folder, await databases.create_database(name), await vhosts.add_vhost(name))
    try:
        await stage.prepare()
        yield stage
    finally:
        await stage.end()
        with contextlib.suppress(aio_pika.exceptions.AMQPError, OSError):
            await vhosts.delete_vhost(name)
        await databases.drop_database(name)
