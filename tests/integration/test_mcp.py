"""MCP servers as they are met: a real one of the official SDK, one that is gone, a silent one, one that is none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from service.adapters.mcp import McpServers
from service.embedded.ports import free_port
from service.errors import Permanent, Retry
from tests.mcp_process import mcp_server

LONG = timedelta(seconds=20)
SHORT = timedelta(milliseconds=500)


async def test_tools_of_a_real_server_are_listed_by_name() -> None:
    async with mcp_server("search", "fetch") as server:
        assert await McpServers().tools(server.url, None, LONG) == ("fetch", "search")


async def test_token_is_sent_and_without_it_the_refusal_is_permanent_and_said() -> None:
    async with mcp_server("search", token="hush") as server:
        assert await McpServers().tools(server.url, "hush", LONG) == ("search",)
        with pytest.raises(Permanent, match="refused us without a token"):
            await McpServers().tools(server.url, None, LONG)
        with pytest.raises(Permanent, match="refused the token") as refused:
            await McpServers().tools(server.url, "wrong-hush", LONG)
    assert "hush" not in str(refused.value)


async def test_server_that_is_gone_is_tried_again() -> None:
    with pytest.raises(Retry, match="connection attempts failed"):
        await McpServers().tools(f"http://127.0.0.1:{free_port()}/mcp", None, LONG)


async def test_server_that_says_nothing_costs_no_more_than_the_time_it_was_given() -> None:
    async with anybody(lambda: asyncio.sleep(30)) as url:
        began = asyncio.get_running_loop().time()
        with pytest.raises(Retry, match=r"did not answer within 0\.5 s"):
            await McpServers().tools(url, None, SHORT)
        assert asyncio.get_running_loop().time() - began < 5


async def test_web_server_that_is_no_mcp_server_is_tried_again_and_says_so() -> None:
    async with anybody(lambda: asyncio.sleep(0)) as url:
        with pytest.raises(Retry, match=r"Unexpected content type: text/plain \(HTTP 200\)"):
            await McpServers().tools(url, None, LONG)


async def test_cancelled_question_ends_at_once_as_cancelled() -> None:
    async with anybody(lambda: asyncio.sleep(30)) as url:
        question = asyncio.create_task(McpServers().tools(url, None, LONG))
        await asyncio.sleep(0.3)
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(5):
                await question


@asynccontextmanager
async def anybody(before: Callable[[], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL of a web server that answers every request with a plain word, after `before`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await before()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    finally:
        server.close()
