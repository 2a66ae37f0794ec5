"""The example's reporter and research-server, really run: it asks over MCP, and its connection is shown to close."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
import yaml

from schemas.system import System
from service.adapters.databases import PostgresDatabases
from service.adapters.grounds import HostSockets
from service.adapters.mcp import McpServers
from service.adapters.memory.world import MemoryWorld
from service.adapters.processes.local import SupervisedProcesses
from service.adapters.programs import LocalPrograms
from service.adapters.secrets import References
from service.clock import SystemClock
from service.errors import Retry
from tests.performing import Bench
from tests.servers import reachable_directory

EXAMPLE = Path(__file__).parents[2] / "examples" / "metrics"
ENDED = ("reporter", "research-server", "trading-server")
PUBLISHED = "insert into published values ('calculator', now(), 1, 1, 1, 1, 1, 0, false)"


async def nobody(*_: object) -> dict[str, str]:
    raise AssertionError("nothing waits for an answer here")


@pytest.fixture
async def desk() -> AsyncIterator[Bench]:
    """The example without its calculator: what that would publish is written by hand."""
    with reachable_directory() as place:
        folder = place / "metrics"
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("var", ".*", "__pycache__"))
        file = yaml.safe_load((folder / "system.yaml").read_text())
        del file["components"]["calculator"]
        file["components"]["reporter"]["needs"].remove("calculator")
        file["verify"] = [{"mcp": "all"}]
        system = System.model_validate({**file, "folder": str(folder)})
        processes, clock = SupervisedProcesses(place / "processes", SystemClock()), SystemClock()
        world = replace(
            MemoryWorld(clock).world(),
            processes=processes,
            databases=PostgresDatabases(),
            programs=LocalPrograms(),
            secrets=References({}),
            mcp=McpServers(),
            sockets=HostSockets(),
        )
        try:
            yield Bench(system, world, clock, nobody)
        finally:
            for how in ("TERM", "KILL"):
                for name in ENDED:
                    with contextlib.suppress(Retry):
                        await processes.tell(f"metrics.{name}", how)
                        await processes.wait_stopped(f"metrics.{name}", timedelta(seconds=15))


async def test_reporter_asks_the_research_server_and_its_connection_is_shown_to_close(desk: Bench) -> None:
    folder = Path(desk.system.folder)
    for name in desk.system.start_order():
        await desk.perform("component.start", name, timeout=60)
    checked = await desk.perform("check.run", check=0)
    assert checked["value"] == {"research": ["search"]}
    connection = await asyncpg.connect((folder / "var/trading/dsn").read_text())
    await connection.execute(PUBLISHED)
    await connection.close()
    report = folder / "var/reports/metrics.md"
    async with asyncio.timeout(30):
        while not (report.exists() and "trades 14:30-21:00 UTC" in report.read_text()):
            await asyncio.sleep(0.1)

    state = await desk.world.processes.state("metrics.reporter")
    url = (folder / "var/research/url").read_text()
    assert state.pid is not None
    assert await desk.world.sockets.connections(state.pid, url), "it holds no connection, so closing one proves nothing"
    result = await desk.perform("participant.disconnect", "reporter")
    assert (result["sent"], result["closed"]) == ("HUP", ["research"])
    assert await desk.world.sockets.connections(state.pid, url) == ()
    assert (await desk.world.processes.state("metrics.reporter")).running, "it left the server and goes on reporting"
    assert (await desk.perform("check.run", check=0))["passed"] is True
