"""A PostgreSQL for one restore: private, reachable through a socket in a closed folder alone, and gone afterwards.

What a killed Relight left of one is ended and deleted by the next.
"""

import asyncio
import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.adapters.pg_tools.child import Account, Child, started
from service.adapters.pg_tools.contents import connected
from service.adapters.pg_tools.programs import Tools
from service.cancellation import begun, to_the_end
from service.errors import Permanent, Retry
from service.timeouts import time_limit

NAME = "relight-scratch-"
"""How the folders begin: `relight-scratch-<pid>-<random>`. Their owner holds a lock in them while it lives."""
LOCK = "owner.lock"
YOUNG = 60.0
"""Seconds in which a folder may be without its lock: somebody is just making it."""
USER, DATABASE = "relight_scratch", "restored"
ORDINARY = "nobody"
"""As whom the server runs when Relight is root: PostgreSQL refuses root."""
ROOM = 200 << 20
"""Bytes that an empty server and its log of changes need, beside the database itself."""
START_WITHIN, STOP_WITHIN, COMMAND_WITHIN = 60.0, 10.0, 60.0
LOOK = 0.02
LONGEST_SOCKET = 107
"""Bytes that the path of a socket may have."""

SETTINGS = """
listen_addresses = ''
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
# Nothing here outlives the test, so nothing has to survive a crash.
fsync = off
full_page_writes = off
synchronous_commit = off
wal_level = minimal
max_wal_senders = 0
max_wal_size = '256MB'
autovacuum = off
max_connections = 10
shared_buffers = '64MB'
timezone = 'UTC'
log_timezone = 'UTC'
"""

ROLES = """
select format('create role %I', r) from unnest($1::text[]) r
where r not like 'pg\\_%' and not exists (select from pg_roles where rolname = r)
"""
CREATE = "select format('create database %I template template0 encoding %L locale ''C''', $1::text, $2::text)"


@dataclass(frozen=True, slots=True)
class Server:
    """A running one. `arguments` for asyncpg and `environment` for libpq lead to the database that is restored into."""

    arguments: dict[str, str] = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        names = {"host": "PGHOST", "user": "PGUSER", "password": "PGPASSWORD", "database": "PGDATABASE"}
        return {names[name]: value for name, value in self.arguments.items()}

    async def prepare(self, roles: Sequence[str], encoding: str) -> None:
        """Roles first, so that what is restored keeps its owners; then the empty database."""
        async with connected(None, {}, **{**self.arguments, "database": "postgres"}) as connection:
            for row in await connection.fetch(ROLES, list(roles)):
                await connection.execute(row[0])
            await connection.execute(await connection.fetchval(CREATE, DATABASE, encoding))


@contextlib.asynccontextmanager
async def scratch_server(base: Path, tools: Tools, size: int) -> AsyncIterator[Server]:
    """Running for as long as the block; `size` is what will be restored (bytes). Raises Permanent without room for it
    or without a user to run as, Retry when it does not start."""
    account, base = _account(), base.resolve()
    await asyncio.to_thread(_sweep, base)
    _room(base, size)
    folder = await begun(asyncio.to_thread(_make, base, account), lambda made: asyncio.to_thread(_remove, made))
    try:
        password = await _initialise(folder, tools, account)
        home = {"HOME": str(folder / "server")}
        # Its log goes to the child's errors; standard output is not used by it.
        async with started([tools["postgres"], "-D", str(folder / "server" / "data")], home, account=account) as child:
            try:
                await _until_ready(child, folder)
                yield Server(
                    {
                        "host": str(folder / "server"),
                        "user": USER,
                        "password": password,
                        "database": DATABASE,
                    }
                )
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGQUIT)  # at once: there is nothing to keep
    finally:
        await to_the_end(asyncio.to_thread(_remove, folder))


def _account() -> Account | None:
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(ORDINARY)
    except KeyError:
        raise Permanent(
            f"there is no user {ORDINARY} on this machine, and PostgreSQL does not run as root: a backup cannot be "
            f"restored in a test here. Run Relight as an ordinary user, or create the user {ORDINARY}"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def _room(base: Path, size: int) -> None:
    free, needed = shutil.disk_usage(base).free, size + size // 4 + ROOM
    if free < needed:
        raise Permanent(
            f"a restore test needs some {needed >> 20} MiB in {base}, and {free >> 20} MiB are free; make room, or set "
            "RELIGHT_SCRATCH to a folder with more"
        )


def _make(base: Path, account: Account | None) -> Path:
    """`<base>/relight-scratch-…/server`; only its user may enter the inner one."""
    folder = Path(tempfile.mkdtemp(prefix=f"{NAME}{os.getpid()}-", dir=base))
    if len(os.fsencode(folder / "server" / ".s.PGSQL.5432")) > LONGEST_SOCKET:
        folder.rmdir()
        raise Permanent(f"the path {base} is too long for a socket below it; set RELIGHT_SCRATCH to a shorter one")
    _locks[folder] = os.open(folder / LOCK, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(_locks[folder], fcntl.LOCK_EX)
    folder.chmod(0o711)
    server = folder / "server"
    server.mkdir(mode=0o700)
    if account is not None:
        os.chown(server, account.uid, account.gid)
    return folder


_locks: dict[Path, int] = {}
"""The locks held by this process, one a folder that it has made and not yet deleted."""


async def _initialise(folder: Path, tools: Tools, account: Account | None) -> str:
    server, password = folder / "server", secrets.token_urlsafe(24)
    aside = server / "password"
    with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(password)
    if account is not None:
        os.chown(aside, account.uid, account.gid)
    command = [tools["initdb"], f"--pgdata={server / 'data'}", f"--username={USER}", f"--pwfile={aside}", "--no-sync"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
    async with started(command, {"HOME": str(server)}, account=account) as child, time_limit(COMMAND_WITHIN):
        if status := await child.ended():
            raise Retry(f"a scratch PostgreSQL could not be made in {folder} (status {status}): {child.said()}")
    aside.unlink()
    with (server / "data" / "postgresql.conf").open("a") as file:
        file.write(f"{SETTINGS}unix_socket_directories = '{server}'\n")
    return password


async def _until_ready(child: Child, folder: Path) -> None:
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, IndexError):
            if (folder / "server" / "data" / "postmaster.pid").read_text().split("\n")[7].strip() == "ready":
                return
        if child.status is not None:
            break
        await asyncio.sleep(LOOK)
    raise Retry(f"the scratch PostgreSQL in {folder} did not start: {child.said()}")


def _sweep(base: Path) -> None:
    """Ends and deletes what Relights that were killed have left here."""
    for folder in base.glob(f"{NAME}*"):
        try:
            about = folder.lstat()
        except FileNotFoundError:
            continue
        if folder in _locks or not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            continue
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            if time.time() - about.st_mtime > YOUNG:
                _remove(folder)
            continue
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
        os.close(lock)


def _remove(folder: Path) -> None:
    data, deadline = folder / "server" / "data", time.monotonic() + STOP_WITHIN
    while (left := _working_in(data)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK)
    shutil.rmtree(folder, ignore_errors=True)
    if (lock := _locks.pop(folder, None)) is not None:
        os.close(lock)


def _working_in(data: Path) -> list[int]:
    """A server's processes stand in its data folder, whoever their parent is now; a pid alone may be anybody's."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if os.readlink(f"{entry.path}/cwd") == str(data):
                    found.append(int(entry.name))
    return found
