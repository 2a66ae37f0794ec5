"""The port `Storage` for `file://` URLs. Other schemes get rooms of their own."""

import asyncio
import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import quote, unquote, urlsplit

from service.cancellation import begun
from service.crash import crash_point
from service.errors import Full, Missing, Permanent, Retry
from service.ports import Stored
from service.timeouts import time_limit

LARGEST = 1 << 30
"""Bytes that are read back at most: a document is held in memory to be hashed."""
NOT_TO_BE_MENDED = (PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""What only a person can change; everything else (disk full, mount away) may be over at the next attempt."""
WITHIN = 120.0
"""Seconds for one document or one part of a stream; a disk or a mount that hangs must not hold a step for ever."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
PART = 1 << 20
"""Bytes of a stream that are read at a time."""

T = TypeVar("T")


class FileStorage:
    """Documents on this machine's file systems, by absolute path."""

    async def write(self, url: str, content: bytes) -> None:
        """Atomic and durable. Raises Full, Retry (mount away), Permanent (no such place, not allowed)."""
        path = _path(url)
        try:
            await _within(url, lambda: _write(path, content))
        except Full as error:
            missing = max(len(content) - error.free, 0)
            more = f"free at least {missing} more there" if missing else "its quota or its number of files is used up"
            raise Full(f"{error}, and {len(content)} are needed: {more}", error.free) from error

    async def read(self, url: str) -> bytes:
        """The whole document. Raises Missing when it is not there, Permanent: not readable, larger than a gigabyte."""
        path = _path(url)
        return await _within(url, lambda: _read(path))

    async def write_stream(self, url: str, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        """Written aside and synced; under its name only once `chunks` ended well. Raises as `write`, and what `chunks`
        raises; then nothing is left of it, and the `free` bytes of Full are those that are left then."""
        path = _path(url)
        size, digest = 0, hashlib.sha256()

        def put(chunk: bytes) -> None:
            file.write(chunk)
            digest.update(chunk)

        # The thread goes on all the same: what it makes must not stay.
        file = await begun(_within(url, lambda: _aside(path)), lambda made: _within(url, lambda: _discard(made)))
        try:
            async for chunk in chunks:
                await _within(url, lambda chunk=chunk: put(chunk))  # type: ignore[misc]  # bound now, not later
                size += len(chunk)
            await _within(url, lambda: _publish(file, path))
        except Full as error:
            _discard(file)
            raise await _within(url, lambda: _no_room(url, path, f"was full after some {size} bytes of it;")) from error
        except BaseException:
            # Not awaited: also when this task is being cancelled, what is half written goes away at once.
            _discard(file)
            raise
        return size, digest.hexdigest()

    async def read_stream(self, url: str) -> AsyncGenerator[bytes, None]:
        """The document in parts of a megabyte. Raises as `read`, without its bound."""
        path = _path(url)
        file = await _within(url, lambda: path.open("rb", buffering=0))
        try:
            while part := await _within(url, lambda: file.read(PART)):
                yield part
        finally:
            file.close()

    async def list(self, prefix: str) -> tuple[Stored, ...]:
        """Every document whose URL begins with `prefix`, by URL; what is being written aside is none."""
        path = _path(prefix)
        within = prefix.endswith("/")
        return await _within(prefix, lambda: _list(path, path if within else path.parent, whole=within))

    async def delete(self, url: str) -> None:
        """Gone afterwards, whether it was there or not."""
        path = _path(url)
        await _within(url, lambda: path.unlink(missing_ok=True))


def _path(url: str) -> Path:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    ours = parts.scheme == "file" and parts.netloc in ("", "localhost")
    if not ours or not path.is_absolute() or "\0" in str(path):
        raise Permanent(f"{url!r} is no place for documents here; it is written file:///an/absolute/path")
    return path


async def _within(url: str, work: Callable[[], T]) -> T:
    """The answer of `work`, done in a thread; the errors of the file system say what to do."""
    try:
        async with time_limit(WITHIN):
            return await asyncio.to_thread(work)
    except TimeoutError as error:
        raise Retry(f"{url} did not answer within {WITHIN:.0f} s; look at the disk or the mount") from error
    except FileNotFoundError as error:
        raise Missing(f"{url}: {error.strerror}") from error
    except NOT_TO_BE_MENDED as error:
        raise Permanent(f"{url}: {error.strerror}") from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise await asyncio.to_thread(_no_room, url, _path(url)) from error
        raise Retry(f"{url}: {error.strerror or error}") from error


def _no_room(url: str, path: Path, how: str = "is full:") -> Full:
    """Which file system is full, and how much is left on it."""
    place = path.parent
    while not place.exists() or not (place.is_mount() or place == place.parent):
        place = place.parent
    usage = os.statvfs(place)
    free, total = usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize
    words = f"the file system at {place} {how} {free} of its {total} bytes are free"
    return Full(f"{url}: {os.strerror(errno.ENOSPC)}; {words}", free)


def _write(path: Path, content: bytes) -> None:
    file = _aside(path)
    try:
        file.write(content)
        _publish(file, path)
    except BaseException:
        _discard(file)
        raise


def _aside(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    number, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(number)
    return Path(aside).open("wb")


def _publish(file: BinaryIO, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    crash_point("storage.after_aside")
    os.replace(file.name, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    crash_point("storage.after_publish")


def _discard(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # closing flushes, and the disk may be full
        file.close()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file.name)


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > LARGEST:
        raise Permanent(f"{path} has {size} bytes; at most {LARGEST} are read back")
    return path.read_bytes()


def _list(prefix: Path, folder: Path, *, whole: bool) -> tuple[Stored, ...]:
    paths = sorted(folder.rglob("*")) if folder.is_dir() else ()
    return tuple(
        Stored("file://" + quote(str(path)), path.stat().st_size)
        for path in paths
        if (whole or str(path).startswith(str(prefix))) and path.is_file() and not path.name.startswith(".")
    )
