"""Starting the real MCP server of the tests, and ending it. What it serves is in `mcp_server.py`."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from service.embedded.ports import free_port

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class McpProcess:
    """`url` of its endpoint on 127.0.0.1, its `port` and its `pid`."""

    url: str
    port: int
    pid: int


@asynccontextmanager
async def mcp_server(*tools: str, token: str = "", port: int | None = None) -> AsyncIterator[McpProcess]:
    """A server that lists `tools`, answering already; at `port`, or at one that is free."""
    port = port or free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.mcp_server",
        str(port),
        *tools,
        cwd=ROOT,
        env={**os.environ, "MCP_TOKEN": token},
    )
    try:
        async with asyncio.timeout(40):
            while True:
                if process.returncode is not None:
                    raise RuntimeError(f"the MCP server of the tests ended with status {process.returncode}")
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.1)
        yield McpProcess(f"http://127.0.0.1:{port}/mcp", port, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
