"""The private servers that everything is measured on, in a folder that is deleted afterwards, however the run ends."""

import asyncio
import contextlib
import fcntl
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchError
from service.embedded import PostgresServer, RabbitServer


@dataclass(frozen=True, slots=True)
class Place:
    """Where one Relight keeps its state: a database and a vhost, with a folder for its files."""

    name: str
    postgres_url: str
    amqp_url: str
    folder: Path


class Ground:
    """One PostgreSQL and one RabbitMQ, with fsync on, as `serve` starts them for itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = PostgresServer(folder)
        self.rabbit = RabbitServer(folder)

    async def database(self, name: str, like: str | None = None) -> str:
        """A new database; `like` names the one it is a copy of, which nobody may be using."""
        return await self.postgres.create_database(name, template=like)

    async def place(self, name: str, like: str | None = None) -> Place:
        """A new database and a new vhost."""
        folder = self.folder / name
        folder.mkdir()
        return Place(name, await self.database(name, like), await self.rabbit.add_vhost(name), folder)

    async def drop(self, place: Place) -> None:
        """Deletes what `place` made."""
        await self.postgres.drop_database(place.name)
        await self.rabbit.delete_vhost(place.name)

    async def postgres_anew(self, settings: dict[str, str]) -> None:
        """Restarts PostgreSQL with further lines in its configuration."""
        await self.postgres.stop()
        self.postgres = PostgresServer(self.folder, settings=settings)
        await self.postgres.start()


@contextlib.asynccontextmanager
async def ground(folder: Path) -> AsyncIterator[Ground]:
    """Starts both servers in `folder`, and leaves nothing of them. What a killed run left is ended first.

    Raises BenchError when another run uses the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError(f"another `relight bench` is at work in {folder}; two would measure each other") from None
        here = Ground(folder)
        try:
            await _end(here)
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o711)
            async with asyncio.TaskGroup() as both:
                both.create_task(here.postgres.start())
                both.create_task(here.rabbit.start())
            yield here
        finally:
            # Also when the run is cancelled: nobody else would end them.
            await asyncio.shield(_end(here))
            Path(lock.name).unlink(missing_ok=True)


async def _end(here: Ground) -> None:
    await asyncio.gather(here.postgres.destroy(), here.rabbit.destroy())
    await asyncio.to_thread(shutil.rmtree, here.folder, ignore_errors=True)
