"""The port `Mcp` with the official SDK: a new connection for each question. The only file that imports the SDK.

The SDK takes a second to import, so that happens at the first question and in a thread. Its failures come as nested
groups, its own read timeout does not end a server that says nothing, and a client is left in the task that entered it.
"""

import asyncio
import importlib
from datetime import timedelta
from typing import TYPE_CHECKING

from service.errors import Permanent, Retry, leaves
from service.timeouts import time_limit

if TYPE_CHECKING:
    import httpx2

PAGES = 100
"""Pages of a list of tools that are read at most; a server that always names another one must not hold a check."""
TOKEN_REFUSED = (401, 403)


class McpServers:
    """MCP servers by the URL of their streamable HTTP endpoint."""

    async def tools(self, url: str, token: str | None, timeout: timedelta) -> tuple[str, ...]:
        """The names of its tools, sorted; `token` is sent as bearer token. Raises Retry, or Permanent if refused."""
        statuses: list[int] = []
        await _import()
        try:
            async with time_limit(timeout.total_seconds()):
                return await _ask(url, token, statuses)
        except TimeoutError as error:
            raise Retry(f"it did not answer within {timeout.total_seconds():g} s") from error
        except Exception as error:  # the SDK has no common base, and wraps whatever happens in groups
            why = "; ".join(dict.fromkeys(str(leaf) or type(leaf).__name__ for leaf in leaves(error)))
            said = f" (HTTP {statuses[-1]})" if statuses else ""
            if statuses and statuses[-1] in TOKEN_REFUSED:
                raise Permanent(f"it refused {'the token' if token else 'us without a token'}{said}: {why}") from error
            raise Retry(f"{why}{said}") from error


async def _import() -> None:
    try:
        await asyncio.to_thread(importlib.import_module, "mcp")
    except ImportError as error:
        raise Permanent("MCP servers need the extra `mcp` of relight (the packages of requirements.lock)") from error


async def _ask(url: str, token: str | None, statuses: list[int]) -> tuple[str, ...]:
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async def note(response: "httpx2.Response") -> None:
        statuses.append(response.status_code)

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    names: set[str] = set()
    async with (
        httpx2.AsyncClient(headers=headers, event_hooks={"response": [note]}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        cursor: str | None = None
        for _ in range(PAGES):
            page = await client.list_tools(cursor=cursor)
            names |= {tool.name for tool in page.tools}
            cursor = page.next_cursor
            if cursor is None:
                break
    return tuple(sorted(names))
