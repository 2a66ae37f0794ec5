"""One child process with streams in or out: bounded memory, its own process group, and nothing of it left behind.

Pipes are read and written as they become ready, so that neither a thread nor a growing buffer waits for a slow disk.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from service.cancellation import begun, to_the_end
from service.children import base_environment
from service.errors import Permanent
from service.timeouts import time_limit

KEPT = 64 * 1024
"""Bytes of a child's errors that are kept."""
SAID = 2000
"""Characters of them that an error repeats: the end says why it gave up."""
CHUNK = 1 << 20
"""Bytes that are read at most at a time, and asked for as the pipe's size."""
LOOK = 0.02
"""Seconds between two looks at whether it has ended."""
GRACE = 2.0
"""Seconds between TERM, with which pg_dump takes its query back, and KILL."""


@dataclass(frozen=True, slots=True)
class Account:
    """As whom a child runs, when not as ourselves."""

    uid: int
    gid: int


class Child:
    """A running child. `status` once it has ended: negative is the signal."""

    def __init__(self, process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        return self._process.poll()

    async def output(self) -> AsyncIterator[bytes]:
        """What it writes to standard output, as it comes, until it closes it."""
        assert self._process.stdout is not None  # noqa: S101  # asked for when it was started
        number = self._process.stdout.fileno()
        while True:
            try:
                chunk = os.read(number, CHUNK)
            except BlockingIOError:
                await _ready(number, write=False)
                continue
            if not chunk:
                return
            yield chunk

    async def feed(self, chunks: AsyncIterator[bytes]) -> None:
        """Writes all of it to standard input and closes that; stops when the child wants no more."""
        assert self._process.stdin is not None  # noqa: S101
        number = self._process.stdin.fileno()
        with contextlib.suppress(BrokenPipeError):
            async for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    try:
                        rest = rest[os.write(number, rest) :]
                    except BlockingIOError:
                        await _ready(number, write=True)
        self._process.stdin.close()

    async def ended(self) -> int:
        """Its exit status, once it has ended by itself."""
        while (status := self._process.poll()) is None:  # noqa: ASYNC110  # a child's end sets no event
            await asyncio.sleep(LOOK)
        return status

    def said(self) -> str:
        """The end of what it wrote to standard error."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - KEPT))
        return self._errors.read(KEPT).decode("utf-8", "replace").strip()[-SAID:]

    async def end(self) -> None:
        """TERM to its group, KILL a little later; returns when it is gone. Safe when it has ended already."""
        for number, grace in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 10 * GRACE)):
            if self._process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(TimeoutError):
                async with time_limit(grace):
                    await self.ended()


@contextlib.asynccontextmanager
async def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    reads: bool = False,
    writes: bool = False,
    account: Account | None = None,
) -> AsyncIterator[Child]:
    """The child, ended with its group when the block is left in whatever way. `reads`: it is fed; `writes`: its output
    is wanted. Raises Permanent when it cannot be run."""
    with tempfile.TemporaryFile() as errors:
        # In a thread, and not by the loop: uvloop cannot start a process as another user.
        # The thread starts it all the same: nobody else would end it.
        starting = asyncio.to_thread(_popen, command, environment, reads, writes, errors, account)
        try:
            process = await begun(starting, lambda started: Child(started, errors).end())
        except OSError as error:
            raise Permanent(f"the program {command[0]} cannot be run: {error.strerror}") from error
        child = Child(process, errors)
        try:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    os.set_blocking(pipe.fileno(), False)
                    with contextlib.suppress(OSError):  # a user's share of large pipes may be used up
                        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, CHUNK)
            yield child
        finally:
            await to_the_end(child.end())
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def _popen(
    command: Sequence[str],
    environment: Mapping[str, str],
    reads: bool,
    writes: bool,
    errors: IO[bytes],
    account: Account | None,
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
        stdout=subprocess.PIPE if writes else subprocess.DEVNULL,
        stderr=errors,
        bufsize=0,
        env={**base_environment(), **environment},
        cwd="/",
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


async def _ready(number: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    (loop.add_writer if write else loop.add_reader)(number, wake)
    try:
        await ready
    finally:
        (loop.remove_writer if write else loop.remove_reader)(number)
