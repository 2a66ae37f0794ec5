"""The one `Storage` that Relight uses: each document goes to the adapter of its URL's scheme. Nothing is kept here."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from service.errors import Permanent
from service.ports import Storage, Stored


class StorageByScheme:
    """`{"file": …, "s3": …}`: which adapter keeps what."""

    def __init__(self, places: Mapping[str, Storage]) -> None:
        self._places = places

    async def write(self, url: str, content: bytes) -> None:
        await self._at(url).write(url, content)

    async def read(self, url: str) -> bytes:
        return await self._at(url).read(url)

    async def write_stream(self, url: str, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        return await self._at(url).write_stream(url, chunks)

    def read_stream(self, url: str) -> AsyncGenerator[bytes, None]:
        return self._at(url).read_stream(url)

    async def list(self, prefix: str) -> tuple[Stored, ...]:
        return await self._at(prefix).list(prefix)

    async def delete(self, url: str) -> None:
        await self._at(url).delete(url)

    def _at(self, url: str) -> Storage:
        """Raises Permanent for a URL whose scheme nobody keeps."""
        scheme, separator, _ = url.partition("://")
        place = self._places.get(scheme) if separator else None
        if place is None:
            known = ", ".join(f"{name}://" for name in sorted(self._places))
            raise Permanent(f"{url!r} is no place for documents here; it begins with one of {known}")
        return place
