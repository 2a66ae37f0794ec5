"""The front door of a server in a process of its own: `python -m tests.front PORT TARGET`, both ports on 127.0.0.1.

Killed with SIGKILL it is to its clients what the death of the server is: every connection is cut, nobody listens. What
stands behind it keeps what it holds, as a real S3 does and a double in memory would not. It knows no protocol.
"""

import asyncio
import contextlib
import sys

CHUNK = 65536
"""Bytes that are passed on at a time."""


class Front:
    """Passes every connection on to 127.0.0.1:`target`."""

    def __init__(self, target: int) -> None:
        self._target = target

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways, until either side ends it."""
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.close()


async def main(port: int, target: int) -> None:
    """Serves until it is ended."""
    server = await asyncio.start_server(Front(target).serve, "127.0.0.1", port, reuse_address=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
