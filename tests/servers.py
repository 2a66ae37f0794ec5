"""Real servers for tests: private ones that are started once a session, or those that two variables name.

Fixtures for everybody are in conftest.py; what they return is described here.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest

from service.embedded import PostgresServer, RabbitServer
from service.embedded.management import Management

T = TypeVar("T")


class Databases(Protocol):
    """Where a test gets a database of its own from."""

    async def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create one and return its URL."""
        ...

    async def drop_database(self, name: str) -> None:
        """Drop one, ending the sessions in it."""
        ...


class Vhosts(Protocol):
    """Where a test gets a vhost of its own from."""

    async def add_vhost(self, name: str) -> str:
        """Create one and return its URL."""
        ...

    async def delete_vhost(self, name: str) -> None:
        """Delete one with all in it."""
        ...


@dataclass(frozen=True)
class GivenPostgres:
    """A server somebody runs for us: RELIGHT_POSTGRES_URL, of a role that may create databases."""

    url: str

    async def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database there and return its URL."""
        await self._execute(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    async def drop_database(self, name: str) -> None:
        """Drop it."""
        await self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@dataclass(frozen=True)
class GivenRabbit:
    """A broker somebody runs for us: RELIGHT_AMQP_URL. Without its API, each test empties the one vhost by name."""

    url: str
    api: str | None

    async def add_vhost(self, name: str) -> str:
        """Create a vhost through the management API, or return the given one."""
        if self.api is None:
            return self.url
        user = quote(urlsplit(self.url).username or "guest", safe="")
        await self._call("PUT", f"/vhosts/{name}", {})
        await self._call("PUT", f"/permissions/{name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    async def delete_vhost(self, name: str) -> None:
        """Delete it."""
        if self.api is not None:
            await self._call("DELETE", f"/vhosts/{name}", None)

    async def _call(self, method: str, path: str, body: dict[str, str] | None) -> None:
        parts = urlsplit(self.api or "")
        user, password = parts.username or "guest", parts.password or "guest"
        management = Management(parts.port or 15672, user, password)
        await (management.delete(path) if body is None else management.put(path, body))


def unique(prefix: str) -> str:
    """A name that no other test has used."""
    return f"{prefix}_{secrets.token_hex(6)}"


LEFTOVERS = "relight-test-"
"""How the directories of private servers begin; their owner holds a lock in them while it lives."""


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """A temporary directory that the servers' user can reach; pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix=LEFTOVERS))
    directory.chmod(0o711)
    with (directory / "owner.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory
    shutil.rmtree(directory, ignore_errors=True)


def end_leftovers() -> None:
    """End the servers of test sessions that were killed with SIGKILL, and delete their directories."""
    for directory in Path(tempfile.gettempdir()).glob(f"{LEFTOVERS}*"):
        with contextlib.suppress(OSError), (directory / "owner.lock").open("r+") as lock:
            if directory.stat().st_uid != os.getuid():
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            wait_for(PostgresServer(directory).destroy())
            wait_for(RabbitServer(directory).destroy())
            shutil.rmtree(directory, ignore_errors=True)


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine from a fixture that outlives every test's event loop."""
    return asyncio.run(work)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not leave servers behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


S = TypeVar("S", PostgresServer, RabbitServer)


@contextmanager
def private(kind: type[S]) -> Iterator[S]:
    """A server of this kind for one pytest session, ended and deleted afterwards however the session ends."""
    end_leftovers()
    with reachable_directory() as directory:
        server = kind(directory)
        try:
            wait_for(server.start())
            yield server
        finally:
            with undisturbed():
                wait_for(server.destroy())


def own(kind: type[S]) -> Any:
    """A fixture: a private server of one file's own, for stories that kill or stop it."""

    @pytest.fixture(scope="module")
    def server() -> Iterator[S]:
        """This file's own server; a story that stops it starts it again."""
        with private(kind) as started:
            yield started

    return server


def given(variable: str) -> str | None:
    """The URL in an environment variable, if it is set."""
    return os.environ.get(variable) or None
