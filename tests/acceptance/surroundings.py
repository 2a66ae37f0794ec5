"""What a system stands among, to be broken by stories: a small disk that can be full, an MCP server that can be away.

No judging.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mcp_process import McpProcess, mcp_server

DISK = 24 << 20
"""Bytes of each small disk: several times the example's database, so that what the text asks for can be freed."""
PAGE = 4096
"""Bytes that a memory file system gives and takes at a time."""


@dataclass
class Disk:
    """A small file system at `folder`, or why there is none; a file in it takes the room that a story wants taken."""

    folder: Path
    missing: str = ""

    @property
    def filler(self) -> Path:
        return self.folder / "filler"

    def fill(self) -> None:
        """To the last byte. Skips the story where a file system cannot be mounted."""
        if self.missing:
            pytest.skip(f"no small file system can be mounted here: {self.missing}")
        with contextlib.suppress(OSError), self.filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(PAGE))
        assert os.statvfs(self.folder).f_bavail == 0

    def free(self, least: int) -> None:
        """Gives back so many bytes, in whole pages, and not one page more."""
        os.truncate(self.filler, self.filler.stat().st_size - -(-least // PAGE) * PAGE)


@contextmanager
def small_disk(folder: Path, size: int = DISK) -> Iterator[Disk]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0711", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        missing = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        missing = str(error)
    try:
        yield Disk(folder, missing)
    finally:
        if not missing:
            subprocess.run(["umount", "--lazy", str(folder)], check=False, timeout=10)


@dataclass
class Servers:
    """The MCP server that the system uses: one process at a time, always at the same address."""

    port: int
    stack: AsyncExitStack
    now: McpProcess | None = None

    async def start(self) -> None:
        self.now = await self.stack.enter_async_context(mcp_server("search", port=self.port))

    async def die(self) -> None:
        self.tell(signal.SIGKILL)

    def tell(self, number: signal.Signals) -> None:
        assert self.now is not None
        os.kill(self.now.pid, number)
