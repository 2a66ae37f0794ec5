"""Who else plays a part in the demo: people with a channel each, and a back office that is in the way for a while."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.inbox import Inbox
from service.embedded.place import write_private
from service.errors import RelightError

if TYPE_CHECKING:
    from service.cli.stage import Stage

STAYS = 1.5
"""Seconds that the back office goes on after it was named: long enough to be read on a terminal."""
OPEN_WITHIN = 20.0
"""Seconds for its transaction to be open."""
BOOKED_WITHIN = 10.0
"""Seconds for its correction to be booked once it may."""


def channels(stage: "Stage", inbox: Inbox) -> None:
    """Writes where people listen, beside the system's file that names it, before Relight is started."""
    folder = stage.example / "var" / "channels"
    folder.mkdir(mode=0o700, parents=True)
    for name, url in inbox.urls.items():
        write_private(folder / name, url)
    references = ", ".join(f'"file:var/channels/{name}"' for name in inbox.urls)
    everybody = "".join(f"  {severity}: [{references}]\n" for severity in ("info", "warning", "critical"))
    file = stage.example / "system.yaml"
    file.write_text(f"{file.read_text()}\nchannels:\n{everybody}")


class BackOffice:
    """A stranger's transaction in the trading database: it writes, so a restart waits until it is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def begin(self) -> None:
        """Returns once its transaction is open. Raises RelightError when that takes too long."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "metrics.correction",
            cwd=self._folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        said = b""
        with contextlib.suppress(TimeoutError):
            said = await asyncio.wait_for(self._process.stdout.readline(), OPEN_WITHIN)
        if said.strip() != b"open":
            raise RelightError("the back office of the demo could not correct a trade")

    async def finish(self) -> None:
        """Books the correction."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), BOOKED_WITHIN)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def in_the_way(folder: Path, named: asyncio.Event) -> AsyncIterator[BackOffice]:
    """It may begin in here; it finishes a little after it was named, and at the end at the latest."""
    office = BackOffice(folder)

    async def give_way() -> None:
        await named.wait()
        await asyncio.sleep(STAYS)
        await office.finish()

    waiting = asyncio.create_task(give_way())
    try:
        yield office
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await office.finish()


def received(inbox: Inbox) -> Iterator[tuple[str, str]]:
    """(title, channels) of what arrived, each title once, in order."""
    for title in dict.fromkeys(title for _, title in inbox.heard):
        yield title, ", ".join(dict.fromkeys(channel for channel, what in inbox.heard if what == title))
