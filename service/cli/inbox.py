"""Where the demo's people hear of it: a mail server and a web server on loopback, which take what arrives.

Real receivers for real messages, and no more than the demo needs. Nothing is sent from here.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from email import message_from_bytes, policy
from types import TracebackType
from typing import Self

from service.timeouts import time_limit

IDLE = 20.0
"""Seconds after which a caller that says nothing is left alone."""


class Inbox:
    """A context: listening while it lasts. `heard` are (channel, title) in the order in which they arrived."""

    CHANNELS = ("mail", "chat", "pager")

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> Self:
        for serve in (self._mail, self._web):
            self._servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()

    @property
    def urls(self) -> Mapping[str, str]:
        """By channel, as Apprise has it."""
        mail, web = (server.sockets[0].getsockname()[1] for server in self._servers)
        about = "from=relight@example.org&to=operations@example.org&mode=insecure"
        return {
            "mail": f"mailto://127.0.0.1:{mail}/?{about}",
            "chat": f"json://127.0.0.1:{web}/chat",
            "pager": f"json://127.0.0.1:{web}/pager",
        }

    async def _mail(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One SMTP dialogue."""
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with time_limit(IDLE):
                writer.write(b"220 ready\r\n")
                while line := await reader.readline():
                    match line.split(b" ")[0].strip().upper():
                        case b"DATA":
                            writer.write(b"354 go on\r\n")
                            mail = message_from_bytes(await reader.readuntil(b"\r\n.\r\n"), policy=policy.default)
                            self.heard.append(("mail", str(mail["Subject"])))
                            writer.write(b"250 taken\r\n")
                        case b"QUIT":
                            writer.write(b"221 bye\r\n")
                            break
                        case _:
                            writer.write(b"250 ok\r\n")
        writer.close()

    async def _web(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One POST of JSON; the channel is the path."""
        with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            async with time_limit(IDLE):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
                sizes = (line.partition(":")[2] for line in head if line.lower().startswith("content-length:"))
                body = json.loads(await reader.readexactly(int(next(sizes, "0"))))
                self.heard.append((head[0].split(" ")[1].strip("/"), str(body["title"])))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
        writer.close()
