"""The port `Storage` for `file://` URLs. Other schemes get rooms of their own."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.errors import Permanent, Retry

LARGEST = 1 << 30
"""Bytes that are read back at most: a document is held in memory to be hashed."""
NOT_TO_BE_MENDED = (PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""What only a person can change; everything else (disk full, mount away) may be over at the next attempt."""
WITHIN = 120.0
"""Seconds for one document; a disk or a mount that hangs must not hold a step for ever."""


class FileStorage:
    """Documents on this machine's file systems, by absolute path."""

    async def write(self, url: str, content: bytes) -> None:
        """Atomic and durable. Raises Retry (disk full, mount away), Permanent (no such place, not allowed)."""
        await _within(url, asyncio.to_thread(_write, _path(url), content))

    async def read(self, url: str) -> bytes:
        """The whole document. Raises Permanent when it is not there, not readable or larger than a gigabyte."""
        return await _within(url, asyncio.to_thread(_read, _path(url)))


def _path(url: str) -> Path:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not path.is_absolute():
        raise Permanent(f"{url!r} is no place for documents here; it is written file:///an/absolute/path")
    return path


async def _within(url: str, work: Coroutine[None, None, bytes]) -> bytes:
    try:
        async with asyncio.timeout(WITHIN):
            return await work
    except TimeoutError as error:
        raise Retry(f"{url} did not answer within {WITHIN:.0f} s; look at the disk or the mount") from error
    except NOT_TO_BE_MENDED as error:
        raise Permanent(f"{url}: {error.strerror}") from error
    except OSError as error:
        raise Retry(f"{url}: {error.strerror or error}") from error


def _write(path: Path, content: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    number, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return content


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > LARGEST:
        raise Permanent(f"{path} has {size} bytes; at most {LARGEST} are read back")
    return path.read_bytes()
