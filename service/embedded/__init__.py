"""Private PostgreSQL and RabbitMQ on this machine, started and stopped for you.

Real servers, as ordinary processes with data that stays; loopback only, generated passwords. Nothing here knows
what Relight keeps in them.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from service.cancellation import to_the_end
from service.embedded.errors import EmbeddedError
from service.embedded.node import RabbitPorts
from service.embedded.postgres import PostgresServer
from service.embedded.processes import PAUSE
from service.embedded.rabbitmq import RabbitServer

__all__ = ["Embedded", "EmbeddedError", "Endpoints", "PostgresServer", "RabbitPorts", "RabbitServer"]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where both servers answer; the URLs carry passwords and are not shown by `repr`."""

    postgres_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    management_url: str = field(repr=False)


class Embedded:
    """Both servers of one directory. Several processes may use them at once; the last to stop stops the servers.

    After a SIGKILL of their users the servers stay, and the next `start` adopts them.
    """

    def __init__(self, directory: Path) -> None:
        """Nothing is touched yet."""
        self.directory = Path(directory)
        self.postgres = PostgresServer(self.directory)
        self.rabbit = RabbitServer(self.directory)
        self._use: int | None = None

    async def start(self) -> Endpoints:
        """Start both, or adopt those that still run; returns when both answer."""
        async with self._alone():
            try:
                await self._start_both()
            except BaseException:
                # Also when we are cancelled: what was half started is nobody's.
                await to_the_end(self._stop_unused())
                raise
            if self._use is None:
                self._use = os.open(self.directory / "in-use.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._use, fcntl.LOCK_SH)
        return self.endpoints

    async def stop(self) -> None:
        """Stop both cleanly, unless another process uses them too."""
        async with self._alone():
            if self._use is not None:
                os.close(self._use)
                self._use = None
            await self._stop_unused()

    async def destroy(self) -> None:
        """End both at once and delete their data, whoever uses them."""
        async with self._alone():
            if self._use is not None:
                os.close(self._use)
                self._use = None
            await asyncio.gather(self.postgres.destroy(), self.rabbit.destroy())

    @property
    def endpoints(self) -> Endpoints:
        """Where both answer; known once they were started."""
        return Endpoints(self.postgres.url, self.rabbit.url, self.rabbit.management_url)

    async def _start_both(self) -> None:
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self.postgres.start())
                both.create_task(self.rabbit.start())
        except ExceptionGroup as group:
            # One reason is enough for a person; the other server was cancelled because of it.
            raise group.exceptions[0] from None

    async def _stop_unused(self) -> None:
        use = os.open(self.directory / "in-use.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            await asyncio.gather(self.postgres.stop(), self.rabbit.stop())
        finally:
            os.close(use)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Only one process at a time starts or stops the servers of a directory."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.directory / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                await asyncio.sleep(PAUSE)
            yield
        finally:
            os.close(lock)
