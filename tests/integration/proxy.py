"""A TCP proxy on loopback that loses what it is told to lose. It knows no protocol."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit


class Mode(StrEnum):
    """What becomes of bytes: passed on, kept for ever, answers lost with the line, or no line."""

    PASS = "pass"
    HANG = "hang"
    LOSE_ANSWER = "lose answer"
    REFUSE = "refuse"


class Proxy:
    """Stands between a client and `host:port`.

    Requests that hold the bytes `marked` can be aimed at: the next one sets the mode to HANG once `trap` is set, and is
    kept back itself (`held` counts those); the next `losses` of them are passed on while their answers are lost and the
    line is cut (`lost` counts those).
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._doomed: set[asyncio.StreamWriter] = set()
        self._last_word = b""
        self.mode = Mode.PASS
        self.port = 0
        self.marked: bytes | None = None
        self.trap = False
        self.held = 0
        self.losses = 0
        self.lost = 0

    def refuse(self, word: bytes = b"") -> None:
        """Ends every connection, and each new one after that word, until the mode is another."""
        self.mode, self._last_word = Mode.REFUSE, word
        self.cut()

    def cut(self) -> None:
        """Ends every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways."""
        if self.mode is Mode.REFUSE:
            writer.write(self._last_word)
            writer.close()
            return
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        mine = {writer, back}
        self._writers |= mine
        try:
            await asyncio.gather(self._requests(reader, back), self._answers(there, writer, back))
        finally:
            for one in mine:
                one.transport.abort()
            self._writers -= mine
            self._doomed -= mine

    async def _requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                is_marked = self.marked is not None and self.marked in data
                if is_marked and self.trap:
                    self.trap, self.mode = False, Mode.HANG
                self.held += is_marked and self.mode is Mode.HANG
                await self._hanging()
                if is_marked and self.losses and sink not in self._doomed:
                    self.losses -= 1
                    self._doomed.add(sink)
                sink.write(data)
                await sink.drain()
        # Who has nothing more to say ends the line, and only this one.
        sink.transport.abort()

    async def _answers(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._hanging()
                if server in self._doomed:
                    self.lost += 1
                    break
                if self.mode is Mode.LOSE_ANSWER:
                    break
                sink.write(data)
                await sink.drain()
        sink.transport.abort()

    async def _hanging(self) -> None:
        while self.mode is Mode.HANG:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server of `url`, and the URL that leads through it."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    place = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}"
    try:
        yield proxy, urlunsplit(parts._replace(netloc=place))
    finally:
        proxy.mode = Mode.PASS
        server.close()
        proxy.cut()
        await asyncio.sleep(0.05)
