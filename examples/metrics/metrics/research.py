"""The research-server: an MCP server with one tool, `search`, that says what is known about an instrument.

`python -m metrics.research` serves on loopback until TERM; its URL is in var/research/url once it answers.
"""

import asyncio
import os
import socket
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import MCPServer

VAR = Path(os.environ.get("METRICS_VAR") or "var").absolute()
GOODBYE = 2
"""Seconds that open sessions get to end when the server does."""

KNOWN = {
    "GOOG": "trades 14:30-21:00 UTC; daily prices of 2004 to 2013",
    "EURUSD": "trades around the clock from Sunday 22:00 UTC to Friday 22:00 UTC; hourly prices of 2017 and 2018",
}


def search(instrument: str) -> str:
    """What is known about an instrument."""
    return KNOWN.get(instrument.upper(), "nothing is known about it")


async def serve() -> None:
    """Until TERM or INT, which uvicorn listens for."""
    tools = MCPServer("research")
    tools.add_tool(search)
    listener = _listener()
    config = uvicorn.Config(
        tools.streamable_http_app(host="127.0.0.1"), log_level="warning", timeout_graceful_shutdown=GOODBYE
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not (server.started or serving.done()):  # noqa: ASYNC110  # uvicorn sets no event
        await asyncio.sleep(0.05)
    if server.started:
        # Only now: whoever finds the URL finds a server that answers.
        _write(VAR / "research" / "url", f"http://127.0.0.1:{listener.getsockname()[1]}/mcp")
    await serving


def _listener() -> socket.socket:
    """On the port of last time, so that what is known of it stays true, unless somebody else has taken that."""
    try:
        before = int((VAR / "research" / "url").read_text().rsplit(":", 1)[1].split("/")[0])
        return socket.create_server(("127.0.0.1", before))
    except (OSError, ValueError, IndexError):
        return socket.create_server(("127.0.0.1", 0))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    aside.replace(path)


if __name__ == "__main__":
    asyncio.run(serve())
