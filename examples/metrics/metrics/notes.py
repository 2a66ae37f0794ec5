"""What the reporter asks the research-server, over one MCP session that it keeps open until it is told to end it."""

import asyncio
import contextlib
import importlib
from collections.abc import Iterable

EVERY = 5.0
"""Seconds between two rounds of questions; what is known about an instrument hardly ever changes."""
AGAIN = 1.0
"""Seconds before a server that went away is asked again."""
ANSWER_WITHIN = 5.0
"""Seconds for one answer."""


class Notes:
    """Notes by instrument, as far as the server said any. `url` of the server, None when there is none."""

    def __init__(self, url: str | None, instruments: Iterable[str]) -> None:
        self._url, self._instruments = url, tuple(instruments)
        self._told = asyncio.Event()
        self.known: dict[str, str] = {}

    def disconnect(self) -> None:
        """Ends the session, for good: what follows is a new process."""
        self._told.set()

    async def run(self) -> None:
        """Until `disconnect`. A server that is away delays the notes and nothing else."""
        if self._url is None:
            return
        await asyncio.to_thread(importlib.import_module, "mcp")  # it takes a second
        while not self._told.is_set():
            try:
                await self._session(self._url)
            except Exception as error:  # noqa: BLE001  # the SDK has no common base for what goes wrong
                print(f"no research: {type(error).__name__}: {error}", flush=True)
                await self._wait(AGAIN)

    async def _session(self, url: str) -> None:
        from mcp import Client

        async with Client(url, mode="legacy") as client:
            while not self._told.is_set():
                for instrument in self._instruments:
                    async with asyncio.timeout(ANSWER_WITHIN):
                        answer = await client.call_tool("search", {"instrument": instrument})
                    self.known[instrument] = " ".join(getattr(part, "text", "") for part in answer.content)
                await self._wait(EVERY)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._told.wait()
