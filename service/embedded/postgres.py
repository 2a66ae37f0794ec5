"""A private PostgreSQL on this machine: loopback only, passwords only, data that stays.

SQL is spoken through `psql`; the client library lives in the adapters, and this room knows none of them.
"""

import asyncio
import contextlib
import json
import re
import secrets
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from service.cancellation import begun, to_the_end
from service.embedded import ports, processes
from service.embedded.errors import EmbeddedError, tail
from service.embedded.place import Account, private_directory, settle, unsettle, write_private
from service.embedded.programs import postgres_programs

USER = "relight"
"""The role that owns everything; there is no other superuser."""

START_DEADLINE = 60.0
"""Seconds until the server must answer; recovery after a crash is replayed within it."""

STOP_DEADLINE = 30.0
"""Seconds for a clean stop; then it is ended at once, and recovers at its next start."""

COMMAND_DEADLINE = 60.0
"""Seconds for initdb and for one SQL command given here."""

PORT_CHOICES = 5
"""How often another port is chosen when somebody was faster."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What is remembered between runs, in a file that only we may read."""

    port: int
    password: str


class PostgresServer:
    """One server under `directory`; several live side by side under different names or directories."""

    def __init__(self, directory: Path, *, name: str = "postgres", settings: Mapping[str, str] | None = None) -> None:
        """Nothing is touched yet. `settings` are lines for postgresql.conf, such as `{"log_statement": "'all'"}`."""
        self.directory = Path(directory)
        self.name = name
        self._settings = dict(settings or {})
        self._account = Account.current()
        self._home: Path | None = None
        self._record: _Record | None = None

    # ---- what others need to know

    @property
    def url(self) -> str:
        """`postgresql://…` of the database `relight`, with the generated password."""
        return self.url_for("relight")

    def url_for(self, database: str) -> str:
        """The same for another database of this server."""
        record = self._known()
        return f"postgresql://{USER}:{quote(record.password, safe='')}@127.0.0.1:{record.port}/{database}"

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; it is kept from run to run unless somebody else takes it meanwhile."""
        return self._known().port

    @property
    def home(self) -> Path:
        """Where data, log and passwords are; see `place.settle` for when this is not below `directory`."""
        if self._home is None:
            self._home = settle(self.directory, self._account) / self.name
        return self._home

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self.home / "server.log"

    @property
    def pids(self) -> list[int]:
        """All its processes, for tests that end them."""
        return processes.working_in(self._data)

    def running(self) -> bool:
        """Whether its main process lives, whoever started it."""
        return self._postmaster() is not None

    # ---- its life

    async def start(self) -> None:
        """Start it, or adopt the one of this directory that still runs; returns when it answers."""
        private_directory(self.home, self._account)
        self._load()
        if self.running() and self._record is not None:
            await self._until_it_answers(None)
            return
        # Backends of a killed server keep its shared memory until they notice; they hold nothing of value.
        await self._end_all()
        programs = postgres_programs(self._data_version())
        if not self._data.exists():
            await self._initialise(programs)
        for _ in range(PORT_CHOICES):
            port = self._record.port if self._record and ports.is_free(self._record.port) else ports.free_port()
            self._remember(port)
            if await self._try(programs):
                return
        raise EmbeddedError(f"the private PostgreSQL found its port taken {PORT_CHOICES} times in a row", log=self.log)

    async def stop(self) -> None:
        """Stop it cleanly: sessions are ended, everything is on disk. Does nothing when it does not run."""
        postmaster = self._postmaster()
        if postmaster is not None:
            everyone = [postmaster, *self.pids]
            processes.send([postmaster], signal.SIGINT)
            await processes.gone(everyone, STOP_DEADLINE)
        await self._end_all()

    async def kill(self) -> None:
        """End all its processes at once with SIGKILL, as a power cut would; the next start recovers."""
        await self._end_all()

    async def destroy(self) -> None:
        """End it at once and delete its data; a clean stop would only write what is deleted next."""
        await self._end_all()
        await asyncio.to_thread(shutil.rmtree, self.home, ignore_errors=True)
        self._record_file.unlink(missing_ok=True)
        self._record = None
        unsettle(self.directory, self.home.parent)

    # ---- databases

    async def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if given (nobody may be using that); returns its URL."""
        source = f" TEMPLATE {_identifier(template)}" if template else ""
        await self.sql(f"CREATE DATABASE {_identifier(name)}{source}")
        return self.url_for(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database if it exists, ending the sessions in it."""
        await self.sql(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")

    async def sql(self, text: str, *, database: str = "relight") -> str:
        """Perform SQL as the owner and return the rows, tab separated; raises EmbeddedError with its message."""
        done = await self._psql(text, database)
        if done.status != 0:
            raise EmbeddedError(f"the private PostgreSQL refused a command: {done.said}")
        return done.output

    # ---- inside

    @property
    def _data(self) -> Path:
        return self.home / "data"

    @property
    def _record_file(self) -> Path:
        # Beside the data, not in it, and owned by us: the server needs neither its port nor the password.
        return self.home.parent / f"{self.name}.json"

    def _known(self) -> _Record:
        self._load()
        if self._record is None:
            raise EmbeddedError(
                f"the private PostgreSQL of {self.directory} was never started",
                next_step="start it first (for a checkout: ./relight serve)",
            )
        return self._record

    def _load(self) -> None:
        if self._record is None:
            with contextlib.suppress(FileNotFoundError):
                self._record = _Record(**json.loads(self._record_file.read_text()))

    def _remember(self, port: int) -> None:
        password = self._record.password if self._record else secrets.token_urlsafe(24)
        record = _Record(port, password)
        if record != self._record:
            write_private(self._record_file, json.dumps({"port": port, "password": password}) + "\n")
            self._record = record

    def _data_version(self) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return int((self._data / "PG_VERSION").read_text())
        return None

    def _postmaster(self) -> int | None:
        """The main process, proven by its working directory: a pid alone may be somebody else's by now."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        return pid if pid in self.pids else None

    async def _initialise(self, programs: Path) -> None:
        """Make the data directory, first under another name: an interrupted one is made anew."""
        fresh = self.home / "data.new"
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        # Data that is gone takes its password along.
        self._record = None
        self._remember(ports.free_port())
        secret = write_private(self.home / "pwfile", self._known().password + "\n", self._account)
        try:
            done = await processes.run(
                [
                    programs / "initdb",
                    f"--pgdata={fresh}",
                    f"--username={USER}",
                    f"--pwfile={secret}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                ],
                account=self._account,
                env={"HOME": str(self.home)},
                timeout=COMMAND_DEADLINE,
            )
        finally:
            secret.unlink()
        if done.status != 0:
            raise EmbeddedError(f"PostgreSQL's data directory {fresh} could not be made:\n{done.said}")
        with (fresh / "postgresql.conf").open("a") as file:
            file.write("\ninclude 'relight.conf' # written anew by Relight at each start\n")
        (fresh / "relight.conf").touch()
        fresh.replace(self._data)

    async def _write_settings(self, programs: Path) -> None:
        settings = {
            "port": str(self.port),
            "listen_addresses": "'127.0.0.1'",
            # No socket file: its path may be at most 107 bytes long, and a checkout's is not ours to choose.
            "unix_socket_directories": "''",
            "password_encryption": "'scram-sha-256'",
            "max_connections": "100",
            "fsync": "on",
            "full_page_writes": "on",
            "wal_compression": await self._wal_compression(programs),
            "timezone": "'UTC'",
            "log_timezone": "'UTC'",
            "log_line_prefix": "'%m [%p] %q%u@%d '",
            **self._settings,
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        write_private(self._data / "relight.conf", text, self._account)

    async def _wal_compression(self, programs: Path) -> str:
        """lz4 where this PostgreSQL was built with it; asked of the program itself."""
        for method in ("lz4", "on"):
            done = await processes.run(
                [programs / "postgres", "-D", self._data, "-c", f"wal_compression={method}", "-C", "wal_compression"],
                account=self._account,
                timeout=COMMAND_DEADLINE,
            )
            if done.status == 0:
                return method
        return "off"

    async def _try(self, programs: Path) -> bool:
        """Start it once; false when somebody else took the port meanwhile."""
        await self._write_settings(programs)
        # Whoever wrote it is gone (see `start`), and its pid may be in use by another program by now.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        begins = self.log.stat().st_size if self.log.exists() else 0
        starting = asyncio.to_thread(
            processes.start_detached,
            [programs / "postgres", "-D", self._data],
            account=self._account,
            env={"HOME": str(self.home)},
            log=self.log,
        )
        # It works in its data folder, by which `_end_all` finds it, only a moment later.
        server = await begun(starting, processes.end_at_once)
        try:
            return await self._until_it_answers(server.pid, begins)
        except BaseException:
            # Also when we are cancelled: a half-started server is nobody's.
            processes.send([server.pid], signal.SIGINT)
            await to_the_end(self._end_all(grace=5.0))
            raise

    async def _until_it_answers(self, started: int | None, begins: int = 0) -> bool:
        deadline = time.monotonic() + START_DEADLINE
        said = ""
        while time.monotonic() < deadline:
            if started is not None and not processes.alive(started):
                if self._port_was_taken(begins):
                    return False
                raise EmbeddedError("the private PostgreSQL ended while it started", log=self.log)
            if self._ready():
                done = await self._psql("SELECT 1", "postgres")
                if done.status == 0:
                    await self._own_database()
                    return True
                said = done.said
            await asyncio.sleep(processes.PAUSE)
        raise EmbeddedError(
            f"the private PostgreSQL did not answer within {START_DEADLINE:.0f} s. {said}", log=self.log
        )

    def _ready(self) -> bool:
        """PostgreSQL writes its status into the eighth line of its pid file."""
        with contextlib.suppress(OSError, IndexError):
            return (self._data / "postmaster.pid").read_text().split("\n")[7].strip() == "ready"
        return False

    def _port_was_taken(self, begins: int) -> bool:
        with self.log.open("rb") as file:
            file.seek(begins)
            return b"could not bind" in file.read()

    async def _own_database(self) -> None:
        done = await self._psql("SELECT 1 FROM pg_database WHERE datname = 'relight'", "postgres")
        if done.status == 0 and not done.output.strip():
            done = await self._psql("CREATE DATABASE relight", "postgres")
        if done.status != 0:
            raise EmbeddedError(f"the database relight could not be created: {done.said}", log=self.log)

    async def _psql(self, text: str, database: str) -> processes.Finished:
        record = self._known()
        return await processes.run(
            # The password is in the environment, the SQL on stdin: neither is seen by `ps`.
            [postgres_programs(self._data_version()) / "psql", "-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-f", "-"],
            env={
                "PGHOST": "127.0.0.1",
                "PGPORT": str(record.port),
                "PGUSER": USER,
                "PGPASSWORD": record.password,
                "PGDATABASE": database,
                "PGCONNECT_TIMEOUT": "10",
                "PGSSLMODE": "disable",
                "PGAPPNAME": "relight-embedded",
                "HOME": "/nonexistent",
            },
            stdin=text,
            timeout=COMMAND_DEADLINE,
        )

    async def _end_all(self, grace: float = 0.0) -> None:
        """End every process of it that is left."""
        if grace and await processes.gone(self.pids, grace):
            return
        for _ in range(10):
            if not (left := self.pids):
                return
            processes.send(left, signal.SIGKILL)
            await processes.gone(left, STOP_DEADLINE)
        raise EmbeddedError(
            f"processes of the private PostgreSQL do not end: {self.pids}",
            next_step="look at them with ps; a process in state D waits for a disk",
        )

    def last_words(self) -> list[str]:
        """The end of its log, for a report."""
        return tail(self.log)


def _identifier(name: str) -> str:
    """A quoted SQL name; only the names that Relight itself gives are taken."""
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,62}", name):
        raise EmbeddedError(f"{name!r} is no name for a database here: lower case letters, digits, _ and -")
    return f'"{name}"'
