"""The port `Files` on this host: a system's own files and folders, tried for real and left as they were."""

import asyncio
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from service.errors import Missing, Permanent, Retry
from service.ports import FileState
from service.timeouts import time_limit

WITHIN = 30.0
"""Seconds for one file; a disk or a mount that hangs must not hold a check for ever."""
NOT_TO_BE_MENDED = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ELOOP)
"""What only a person can change. A full disk or a mount that is away may be over at the next attempt."""
PROBE = b"written by relight to see whether it can be, and deleted at once\n"

T = TypeVar("T")


class LocalFiles:
    """Files and folders of this host, by absolute path."""

    async def tried(self, path: str, *, write: bool) -> FileState:
        """Opened, listed and, with `write`, written to; see the port."""
        return await _within(path, lambda: _try(Path(path), write))

    async def sha256(self, path: str) -> str:
        """SHA-256 (hex) of the file's content, read in pieces."""
        return await _within(path, lambda: _digest(Path(path)))


async def _within(path: str, work: Callable[[], T]) -> T:
    if "\0" in path:
        raise Permanent(f"{path!r} is no path: it holds a NUL character")
    try:
        async with time_limit(WITHIN):
            return await asyncio.to_thread(work)
    except TimeoutError as error:
        raise Retry(f"{path} did not answer within {WITHIN:.0f} s; look at the disk or the mount") from error
    except FileNotFoundError as error:
        raise Missing(f"{path}: {error.strerror or error}") from error
    except OSError as error:
        why = f"{path}: {error.strerror or error}"
        raise (Permanent(why) if error.errno in NOT_TO_BE_MENDED else Retry(why)) from error


def _try(path: Path, write: bool) -> FileState:
    folder = path.is_dir()
    if folder:
        with os.scandir(path) as entries:
            next(entries, None)
        if write:
            number, probe = tempfile.mkstemp(prefix=".relight-probe-", dir=path)
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(PROBE)
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                os.unlink(probe)
    else:
        # Opening for update is the permission and the file system's word, and changes nothing of the content.
        with path.open("r+b" if write else "rb") as file:
            file.read(1)
    usage = os.statvfs(path)
    return FileState(folder, usage.f_bavail * usage.f_frsize)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
