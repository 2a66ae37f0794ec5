"""Disconnecting a real component from a real MCP server: its word is compared with the sockets of this host."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.system import Mcp, System
from service.adapters.grounds import HostSockets
from service.adapters.mcp import McpServers
from service.adapters.memory.world import MemoryWorld
from service.adapters.processes.local import SupervisedProcesses
from service.clock import SystemClock
from service.embedded.ports import free_port
from service.errors import Retry
from tests.mcp_process import McpProcess, mcp_server
from tests.performing import Bench

CLIENT = """
import asyncio, pathlib, signal, sys
from mcp import Client

async def main(url, listens):
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, told.set if listens == "listens" else lambda: None)
    async with Client(url, mode="legacy") as client:
        await client.list_tools()
        pathlib.Path("connected").touch()
        await told.wait()
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""
"""A component that holds a session of the official SDK open, and closes it when it is sent USR1."""


async def nobody(*_: object) -> dict[str, str]:
    raise AssertionError("nothing waits for an answer here")


@asynccontextmanager
async def connected(folder: Path, server: McpProcess, how: str) -> AsyncIterator[Bench]:
    file = {
        "system": "shop",
        "folder": str(folder),
        "storage": {"state": "file:///var/shop"},
        "mcp": {"research": {"url": server.url}},
        "components": {
            "agent": {
                "process": [sys.executable, "-c", CLIENT, server.url, how],
                "needs": ["research"],
                "participant": {"disconnect": {"signal": "USR1"}},
            }
        },
        "verify": [{"mcp": "all"}],
    }
    processes = SupervisedProcesses(folder / "processes", clock := SystemClock())
    world = replace(MemoryWorld(clock).world(), processes=processes, sockets=HostSockets(), mcp=McpServers())
    desk = Bench(System.model_validate(file), world, clock, nobody)
    await desk.perform("component.start", "agent")
    try:
        async with asyncio.timeout(40):
            while not (folder / "connected").exists():
                await asyncio.sleep(0.1)
        yield desk
    finally:
        if (await processes.state("shop.agent")).running:
            await processes.tell("shop.agent", "KILL")


async def test_component_that_disconnects_is_shown_to_have_no_connection_left(tmp_path: Path) -> None:
    async with mcp_server("search") as server, connected(tmp_path, server, "listens") as desk:
        pid = (await desk.world.processes.state("shop.agent")).pid
        assert pid is not None
        assert await HostSockets().connections(pid, server.url)
        result = await desk.perform("participant.disconnect", "agent")
        assert (result["sent"], result["closed"]) == ("USR1", ["research"])
        assert await HostSockets().connections(pid, server.url) == ()


async def test_component_that_only_says_so_is_found_out(tmp_path: Path) -> None:
    async with mcp_server("search") as server, connected(tmp_path, server, "deaf") as desk:
        with pytest.raises(
            Retry, match=rf"agent was told to disconnect, but is still connected: research: pid .*:{server.port}"
        ):
            await desk.perform("participant.disconnect", "agent")


async def test_connection_to_the_backup_of_a_server_counts_as_one_to_the_server(tmp_path: Path) -> None:
    async with mcp_server("search") as server, connected(tmp_path, server, "deaf") as desk:
        away = Mcp(url=f"http://127.0.0.1:{free_port()}/mcp", backup=server.url)
        desk.system = desk.system.model_copy(update={"mcp": {"research": away}})
        with pytest.raises(Retry, match=rf"still connected: research: pid .*:{server.port}"):
            await desk.perform("participant.disconnect", "agent")
        checked = await desk.perform("check.run", check=0)
        assert checked["value"] == {"research": ["search"]}
        assert str(checked["detail"]).startswith(f"research answered at its backup ({server.url}), not ({away.url}): ")


async def test_component_that_does_not_run_holds_no_connection(tmp_path: Path) -> None:
    async with mcp_server("search") as server, connected(tmp_path, server, "deaf") as desk:
        await desk.world.processes.tell("shop.agent", "KILL")
        while (await desk.world.processes.state("shop.agent")).running:
            await asyncio.sleep(0.05)
        result = await desk.perform("participant.disconnect", "agent")
        assert (result["running"], result["closed"]) == (False, ["research"])
