"""A TCP proxy on loopback that loses what it is told to lose. It knows no protocol."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit


class Mode(StrEnum):
    """What becomes of bytes: passed on, kept for ever, or the server's answers thrown away and the line cut."""

    PASS = "pass"
    HANG = "hang"
    LOSE_ANSWER = "lose answer"


class Proxy:
    """Stands between a client and `host:port`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self.mode = Mode.PASS
        self.port = 0

    def cut(self) -> None:
        """Ends every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways."""
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        mine = {writer, back}
        self._writers |= mine
        try:
            await asyncio.gather(self._pump(reader, back, answers=False), self._pump(there, writer, answers=True))
        finally:
            for one in mine:
                one.transport.abort()
            self._writers -= mine

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                while self.mode is Mode.HANG:
                    await asyncio.sleep(0.01)
                if self.mode is Mode.LOSE_ANSWER and answers:
                    break
                sink.write(data)
                await sink.drain()
        # Who has nothing more to say ends the line, and only this one.
        sink.transport.abort()


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
