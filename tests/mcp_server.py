"""A real MCP server of the official SDK as a process: `python -m tests.mcp_server PORT TOOL…`.

Each TOOL is listed and gives its argument back. With a token in MCP_TOKEN, whoever does not send it is answered 401.
"""

import argparse
import os

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send


def echo(text: str) -> str:
    """What every tool of this server does."""
    return text


class Guarded:
    """An application that answers 401 without the bearer token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers") or []).get(b"authorization", b"").decode()
        if scope["type"] != "http" or given == f"Bearer {self.token}":
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})


def main() -> None:
    """Serves until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("tools", nargs="*")
    given = parser.parse_args()
    token = os.environ.get("MCP_TOKEN", "")
    server = MCPServer("test")
    for tool in given.tools:
        server.add_tool(echo, name=tool)
    app: ASGIApp = server.streamable_http_app(host="127.0.0.1")
    uvicorn.run(Guarded(app, token) if token else app, host="127.0.0.1", port=given.port, log_level="error")


if __name__ == "__main__":
    main()
