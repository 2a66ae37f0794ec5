"""Documents and dumps in memory: what is written is there as a whole. The rest of the steps' world is beside this."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from schemas.backup import Contents
from service.errors import Missing, Permanent, Retry
from service.ports import Stored

T = TypeVar("T")


class MemoryStorage:
    """Documents by URL, whole or not at all."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}

    async def write(self, url: str, content: bytes) -> None:
        self._place(url)
        self.documents[url] = content

    async def read(self, url: str) -> bytes:
        self._place(url)
        if url not in self.documents:
            raise Missing(f"{url}: No such file or directory")
        return self.documents[url]

    async def write_stream(self, url: str, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        self._place(url)
        content = b"".join([chunk async for chunk in chunks])
        self.documents[url] = content
        return len(content), hashlib.sha256(content).hexdigest()

    async def read_stream(self, url: str) -> AsyncGenerator[bytes, None]:
        content = await self.read(url)
        for start in range(0, len(content), 8 << 20):
            yield content[start : start + (8 << 20)]

    async def list(self, prefix: str) -> tuple[Stored, ...]:
        self._place(prefix)
        return tuple(Stored(url, len(self.documents[url])) for url in sorted(self.documents) if url.startswith(prefix))

    async def delete(self, url: str) -> None:
        self._place(url)
        self.documents.pop(url, None)

    def _place(self, url: str) -> None:
        if not url.startswith(("file:///", "s3://")):
            raise Permanent(f"{url!r} is no place for documents here; it is written file:///an/absolute/path")


class MemoryDumps:
    """Databases by DSN; a dump is what is in them, as JSON between two marks. `seen` may say what a restored copy holds
    instead; `away` makes every database unreachable; `cut` ends a dump in the middle."""

    HEAD, TAIL = b"PGDMP", b"END"

    def __init__(self) -> None:
        self.databases: dict[str, Contents] = {}
        self.seen: Contents | None = None
        self.away = False
        self.cut = False

    async def identify(self, dsn: str) -> str:
        if self.away or dsn not in self.databases:
            raise Retry("the database is away")
        return self.databases[dsn].system_identifier

    async def dump(
        self, dsn: str, sink: Callable[[AsyncIterator[bytes]], Awaitable[T]], timeout: timedelta
    ) -> tuple[Contents, T]:
        await self.identify(dsn)
        contents = self.databases[dsn]

        async def chunks() -> AsyncIterator[bytes]:
            yield self.HEAD
            if self.cut:
                raise Retry("pg_dump was ended by signal 9: ")
            yield contents.model_dump_json().encode()
            yield self.TAIL

        return contents, await sink(chunks())

    async def readable(self, chunks: AsyncIterator[bytes], timeout: timedelta) -> None:
        await self._opened(chunks)

    async def restored(self, chunks: AsyncIterator[bytes], expected: Contents, timeout: timedelta) -> Contents:
        return self.seen or await self._opened(chunks)

    async def _opened(self, chunks: AsyncIterator[bytes]) -> Contents:
        whole = b"".join([chunk async for chunk in chunks])
        try:
            if not (whole.startswith(self.HEAD) and whole.endswith(self.TAIL)):
                raise ValueError("cut off")
            return Contents.model_validate_json(whole[len(self.HEAD) : -len(self.TAIL)])
        except ValueError as error:
            raise Permanent("the dump cannot be read: pg_restore ended with status 1") from error
