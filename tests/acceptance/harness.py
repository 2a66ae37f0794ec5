"""The example system under a real `serve`: a copy of its folder, its broker users, and eyes on what really runs.

What is read here is read at the target (processes, the trading database, files), not in Relight's tables. No judging.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from schemas.system import System
from service.adapters.processes.local import SupervisedProcesses
from service.adapters.processes.record import start_time
from service.cli.serve import broker_users
from service.clock import SystemClock
from service.embedded import RabbitServer
from service.embedded.users import provide_users
from service.errors import RelightError
from tests.acceptance import witness
from tests.example import without_research
from tests.faults.evidence import Evidence, dump, read_published
from tests.faults.harness import tables_of_machines
from tests.faults.load import Load, status_log
from tests.servers import Databases, unique
from tests.serving import ROOT, Serving

EXAMPLE = ROOT / "examples" / "metrics"
SYSTEM = "metrics"
INSTANCE = f"lifecycle/{SYSTEM}"
COMPONENTS = ("trading-server", "calculator", "reporter")
"""In the order of their needs."""
LIMITS = {"drain": "15s", "stop": "4s", "start": "40s", "verify": "30s", "downtime": "1m"}
"""Short for what has to pass in a story of silence, long for everything else: the machine is busy."""
ANSWER_WITHIN = "4s"
REPORT_WITHIN = "2s"
"""A round trip is asked again when it failed, so it may be impatient."""

COUNTERS = "select trades, last_trade, win_rate, pnl, sharpe, drawdown, paused, at from published"


@dataclass(frozen=True)
class Life:
    """One process of a component: named by pid and start time; `ended` when it ended in order."""

    component: str
    pid: int
    started: int
    how: str | None
    state: str | None
    began: float
    ended: float | None = None

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.started


class House(Serving):
    """One copy of the example, one Relight, three people. `folder` must be one that any user can reach."""

    def __init__(self, folder: Path, postgres_url: str, amqp_url: str) -> None:
        super().__init__(folder, postgres_url, amqp_url, SYSTEM)
        self.example, self.users, self.switch = folder / SYSTEM, folder / "users", folder / "falsify"
        self.witness, self.published = folder / "processes.jsonl", folder / "published.jsonl"
        shutil.copytree(EXAMPLE, self.example, ignore=shutil.ignore_patterns("var", ".*", "__pycache__"))
        self.file = self.example / "system.yaml"
        self.systems = [self.file]
        self.people: dict[str, Load] = {}
        self.witness.touch()
        self.rewrite(self._watched)

    def rewrite(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Changes the system's file, as its owner would."""
        described = yaml.safe_load(self.file.read_text())
        change(described)
        self.file.write_text(yaml.safe_dump(described, sort_keys=False))

    def _watched(self, described: dict[str, Any]) -> None:
        """The same programs, each under a witness; no notice, no soak, and limits that tests can wait for."""
        without_research(described)
        given = {"WITNESS": str(self.witness), "FALSIFY": str(self.switch)}
        for name in COMPONENTS:
            component = described["components"][name]
            (module,) = (word for word in component["process"] if word.startswith("metrics."))
            component["process"] = ["python", str(Path(witness.__file__).resolve()), module]
            component["env"] = {**component.get("env", {}), **given}
        described["restart"].update(notice={"lead": "0s"}, soak="0s", limits=LIMITS, answer_within=ANSWER_WITHIN)
        for check in described["verify"]:
            if "roundtrip" in check:
                check["within"] = REPORT_WITHIN
            if "integrity" in check:
                check["tables"] = ["trades", "published"]  # without the catalogs: some twenty restarts read them

    async def move_in(self, rabbit: RabbitServer, vhost: str) -> None:
        """Relight's tables, and the users that the system's file names, each with no more rights than it needs."""
        await self.prepare()
        system = System.model_validate(yaml.safe_load(self.file.read_text()))
        files = await provide_users(rabbit, broker_users([system]), self.users, vhost=vhost)
        for name in ("svc-deploy", "ana"):
            self.people[name] = Load(files[name].read_text().strip(), SYSTEM, self.published)

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(RELIGHT_USERS=str(self.users), **more)

    async def say(self, user: str, name: str, data: Mapping[str, Any]) -> str:
        """Publishes an event as this user, confirmed by the broker; its id."""
        return await self.people[user].publish(name, dict(data), INSTANCE)

    async def opens(self) -> None:
        """Starts serve, until it is ready."""
        await self.start()
        await self.until("serve is ready", self.ready)

    async def works(self, trades: int = 10) -> None:
        """Waits until it is operational for the first time, with so many trades in the calculator's memory."""

        async def operational() -> bool:
            return await self.state() == "operational"

        async def counted() -> bool:
            return int((await self.counters()).get("trades", 0)) >= trades

        await self.until("operational for the first time", operational, 60)
        await self.until(f"{trades} trades in memory", counted)

    async def end(self) -> None:
        """Ends everything that was started, also what is stopped or deaf; then the example's own data."""
        for person in self.people.values():
            await person.close()
        await self.stop()
        processes = SupervisedProcesses(self.folder / "home" / "processes", SystemClock())
        for component in reversed(COMPONENTS):
            for how in ("CONT", "TERM", "KILL"):
                with contextlib.suppress(RelightError):
                    await processes.tell(f"{SYSTEM}.{component}", how)
                    if how != "CONT":
                        await processes.wait_stopped(f"{SYSTEM}.{component}", timedelta(seconds=10))
        subprocess.run(
            [sys.executable, "-m", "metrics.server", "--delete"],
            cwd=self.example, check=False, capture_output=True, timeout=30,
        )  # fmt: skip

    # ---- the processes

    def lives(self, component: str) -> list[Life]:
        """Every process that this component ever was, oldest first."""
        found: dict[tuple[int, int], Life] = {}
        for line in map(json.loads, self.witness.read_text().splitlines()):
            if line["component"] != component:
                continue
            key = (line["pid"], line["started"])
            if line["what"] == "began":
                found[key] = Life(component, *key, line["how"], line["state"], line["at"])
            else:
                found[key] = Life(component, *key, found[key].how, found[key].state, found[key].began, line["at"])
        return list(found.values())

    def alive(self) -> dict[str, int]:
        """The pid of each component that runs. Raises AssertionError when one runs twice."""
        pids: dict[str, int] = {}
        for component in COMPONENTS:
            running = [life.pid for life in self.lives(component) if life.alive]
            assert len(running) <= 1, f"{component} runs {len(running)} times: {running}"
            if running:
                pids[component] = running[0]
        return pids

    def signal(self, component: str, number: signal.Signals) -> None:
        """To the component's process, behind Relight's back."""
        os.kill(self.alive()[component], number)

    # ---- what it holds and shows

    async def trading(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Rows of the trading database."""
        connection = await asyncpg.connect((self.example / "var/trading/dsn").read_text(), timeout=10)
        try:
            return list(await connection.fetch(query, *arguments, timeout=10))
        finally:
            await connection.close(timeout=10)

    async def counters(self) -> dict[str, Any]:
        """What the calculator last published of its memory; empty when it never did."""
        rows = await self.trading(COUNTERS)
        return dict(rows[0]) if rows else {}

    def reporter(self) -> dict[str, Any]:
        """What the reporter last said of itself: `pid`, `reports`, `paused`."""
        found: dict[str, Any] = json.loads((self.example / "var/reports/status.json").read_text())
        return found

    async def going_on(self, trades: int = 2, within: float = 20.0) -> dict[str, Any]:
        """The counters, once new trades are counted and a new report is written: nothing is paused."""
        before, said = await self.counters(), self.reporter()
        deadline = time.monotonic() + within
        while True:
            now, says = await self.counters(), self.reporter()
            counts = now["trades"] >= before["trades"] + trades and not now["paused"]
            if counts and says["reports"] != said["reports"] and not says["paused"]:
                return now
            if time.monotonic() > deadline:
                raise AssertionError(f"something stands still for {within:.0f} s: {before} {now}; {said} {says}")
            await asyncio.sleep(0.1)

    async def offset(self) -> int:
        """Newest trade less trades counted: the same for ever, unless one is lost or doubled."""
        now = await self.counters()
        return int(now["last_trade"] - now["trades"])

    async def memory_is_the_table(self) -> None:
        """Every metric that the calculator counted one by one, computed anew by SQL over the same trades. Raises
        AssertionError when they differ, or when the table has a gap."""
        now = await self.counters()
        first = now["last_trade"] - now["trades"] + 1
        query = """
            select count(*) as trades, max(id) as last_trade, avg((pnl > 0)::int)::float8 as win_rate, sum(pnl) as pnl,
                avg(pnl / (entry * quantity)) / stddev_samp(pnl / (entry * quantity)) as sharpe
            from trades where id between $1 and $2
        """
        (row,) = await self.trading(query, first, now["last_trade"])
        table = dict(row)
        assert {name: now[name] for name in table} == pytest.approx(table, rel=1e-9)
        (every,) = await self.trading("select count(*) as n, min(id) as low, max(id) as high from trades")
        assert every["n"] == every["high"] - every["low"] + 1, "the table itself has a gap"

    def documents(self) -> dict[str, str]:
        """The system snapshots that exist: SHA-256 by URL."""
        return {
            path.as_uri(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (self.example / "var/state").rglob("*.json")
        }

    async def evidence(self) -> Evidence:
        """All that the whole file left behind, for the checker. Processes are judged by the stories themselves."""
        return Evidence(
            published=read_published(self.published),
            notifications=await status_log(self.amqp_url),
            machines=tables_of_machines(),
            documents=self.documents(),
            **await dump(self.postgres_url),
        )


@contextlib.asynccontextmanager
async def moved_in(
    folder: Path, databases: Databases, rabbit: RabbitServer, change: Callable[[dict[str, Any]], None] | None = None
) -> AsyncIterator[House]:
    """A house with a database and a vhost of its own, its file changed, nothing started; afterwards all has ended."""
    name = unique("house")
    async with contextlib.AsyncExitStack() as stack:
        postgres_url, amqp_url = await databases.create_database(name), await rabbit.add_vhost(name)
        stack.push_async_callback(rabbit.delete_vhost, name)
        stack.push_async_callback(databases.drop_database, name)
        house = House(folder, postgres_url, amqp_url)
        if change is not None:
            house.rewrite(change)
        stack.push_async_callback(house.end)
        await house.move_in(rabbit, name)
        yield house
