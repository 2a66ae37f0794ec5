"""The ports of a Relight that only looks: each can be read through, and refrains from whatever would change anything.

An action that is handed these changes nothing, whatever it is and whatever it tries; no action has to know.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import NoReturn, TypeVar

from schemas.backup import Contents
from service.errors import Permanent, Refrained
from service.ports import Dumps, Files, FileState, HttpAnswer, Severity, Storage, Stored, Told

T = TypeVar("T")


def _refrain(what: str) -> NoReturn:
    raise Refrained(f"{what}: this Relight only looks")


class LookingStorage:
    """Documents that are read and listed."""

    def __init__(self, storage: Storage) -> None:
        self._read, self._read_stream, self._list = storage.read, storage.read_stream, storage.list

    async def read(self, url: str) -> bytes:
        return await self._read(url)

    def read_stream(self, url: str) -> AsyncGenerator[bytes, None]:
        return self._read_stream(url)

    async def list(self, prefix: str) -> tuple[Stored, ...]:
        return await self._list(prefix)

    async def write(self, url: str, content: bytes) -> None:
        _refrain(f"{url} was not written")

    async def write_stream(self, url: str, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        _refrain(f"{url} was not written")

    async def delete(self, url: str) -> None:
        _refrain(f"{url} was not deleted")


class LookingFiles:
    """Files that are opened for reading; whether they could be written is asked of the kernel, not tried."""

    def __init__(self, files: Files) -> None:
        self._tried, self._sha256 = files.tried, files.sha256

    async def tried(self, path: str, *, write: bool) -> FileState:
        """Raises Permanent, like the real port, when our user may not write to it."""
        state = await self._tried(path, write=False)
        if write and not os.access(path, os.W_OK):
            raise Permanent(f"{path}: Permission denied")
        return state

    async def sha256(self, path: str) -> str:
        return await self._sha256(path)


class LookingDumps:
    """Which server it is; nothing is dumped or restored."""

    def __init__(self, dumps: Dumps) -> None:
        self._identify = dumps.identify

    async def identify(self, dsn: str) -> str:
        return await self._identify(dsn)

    async def dump(
        self, dsn: str, sink: Callable[[AsyncIterator[bytes]], Awaitable[T]], timeout: timedelta
    ) -> tuple[Contents, T]:
        _refrain("no database was dumped")

    async def readable(self, chunks: AsyncIterator[bytes], timeout: timedelta) -> None:
        _refrain("no dump was unpacked")

    async def restored(self, chunks: AsyncIterator[bytes], expected: Contents, timeout: timedelta) -> Contents:
        _refrain("no dump was restored")


class NoCommands:
    """Nobody is told anything over AMQP."""

    async def send(self, routing_key: str, command_id: str, body: str) -> bool:
        _refrain(f"{routing_key} was not sent")


class NoPrograms:
    """No program is run."""

    async def run(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, timeout: timedelta
    ) -> tuple[int, str, str]:
        _refrain(f"the program {command[0]} was not run")


class NoHttp:
    """No request is sent: even a GET may do something to a participant."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: timedelta
    ) -> HttpAnswer:
        _refrain("no request was sent to the participant")


class NoNotifier:
    """Nobody is told."""

    async def tell(
        self, urls: Mapping[str, str], title: str, body: str, severity: Severity, within: timedelta
    ) -> Mapping[str, Told]:
        _refrain("nobody was told")
