"""Applies `migrations/*.sql` in order, and refuses tables that do not fit. No table is described here.

`NNNN_pre_name.sql` only adds and is applied before a new version is deployed; `NNNN_post_name.sql` removes, after it.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from service.adapters.postgres.connections import SETTINGS, Connection, open_connection, wrong_address
from service.adapters.postgres.failures import translate
from service.adapters.postgres.queries import UPKEEP
from service.errors import Misconfigured
from service.timeouts import time_limit

FOLDER = Path(__file__).parent / "migrations"

DEADLINE = timedelta(minutes=30)
"""For all migrations together, waiting for another who migrates included; large tables take their time."""

_NAME = re.compile(r"\d{4}_(pre|post)_[a-z0-9_]+\.sql")


class Phase(StrEnum):
    """Before or after the new version is deployed."""

    PRE = "pre"
    POST = "post"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `hash` is the SHA-256 (hex) of its text: a file that was applied never changes again."""

    name: str
    phase: Phase
    text: str

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations(folder: Path = FOLDER) -> tuple[Migration, ...]:
    """All of them, in order. Raises ValueError for a file whose name says no phase."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path.name} is not named like 0001_pre_what_it_does.sql")
        found.append(Migration(path.stem, Phase(match[1]), path.read_text("utf-8")))
    return tuple(found)


async def migrate(
    dsn: str, *, until: Phase = Phase.POST, known: Sequence[Migration] | None = None, deadline: timedelta = DEADLINE
) -> tuple[str, ...]:
    """Applies what is missing, each migration in a transaction of its own; the names of those applied, in order.

    `until` PRE stops before the first missing migration that must wait for the deployment. Raises Unavailable, and
    Misconfigured when an applied file was changed, tables are newer than this version, or the address is wrong.
    """
    wanted = migrations() if known is None else tuple(known)
    applied = []
    async with connected(dsn, deadline) as connection:
        await connection.execute(UPKEEP["migration_lock"])
        done = await _applied(connection)
        _refuse(_strangers(wanted, done, too_new=True))
        for migration in (one for one in wanted if one.name not in done):
            if until is Phase.PRE and migration.phase is Phase.POST:
                break
            async with connection.transaction():
                if migration == wanted[0]:
                    await connection.execute("CREATE SCHEMA IF NOT EXISTS relight")
                await connection.execute(migration.text)
                await connection.execute(UPKEEP["record_migration"], migration.name, migration.hash)
            applied.append(migration.name)
        if known is None:
            await connection.execute(UPKEEP["make_log_partitions"], datetime.now(UTC), 3)
    return tuple(applied)


async def check_schema(dsn: str, *, deadline: timedelta = timedelta(seconds=10)) -> None:
    """Raises Misconfigured when `migrate` must run first or the tables are too new; Unavailable."""
    async with connected(dsn, deadline) as connection:
        await check(connection)


async def check(connection: Connection, known: Sequence[Migration] | None = None) -> None:
    """The same on a connection that is open. Missing `post` migrations are fine: they follow the deployment.

    Unknown `pre` migrations are fine too: they only add, for a version that is about to be deployed.
    """
    wanted = migrations() if known is None else tuple(known)
    done = await _applied(connection)
    missing = [one.name for one in wanted if one.phase is Phase.PRE and one.name not in done]
    problems = _strangers(wanted, done, too_new=True)
    if missing:
        problems.append(
            f"Relight's database lacks {', '.join(missing)}; nothing was changed. Run `relight migrate` first"
        )
    _refuse(problems)


def _strangers(wanted: Sequence[Migration], done: dict[str, str], *, too_new: bool) -> list[str]:
    by_name = {one.name: one for one in wanted}
    problems = [
        f"migration {name} was changed after it was applied; nothing was changed. Restore the file, add a new one"
        for name, digest in done.items()
        if name in by_name and by_name[name].hash != digest
    ]
    newer = [name for name in done if name not in by_name and "_post_" in name]
    if too_new and newer:
        problems.append(
            f"Relight's database is newer than this version (it has {', '.join(newer)}); nothing was changed. "
            "Run the version that migrated it"
        )
    return problems


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise Misconfigured(tuple(problems))


async def _applied(connection: Connection) -> dict[str, str]:
    if not await connection.fetchval(UPKEEP["has_migrations"]):
        return {}
    return {row["name"]: row["hash"] for row in await connection.fetch(UPKEEP["applied_migrations"])}


@asynccontextmanager
async def connected(dsn: str, deadline: timedelta) -> AsyncIterator[Connection]:
    """One connection for a short while. Raises Unavailable, and Misconfigured when the address is wrong."""
    # Somebody else's migration may take long, and so may ours: only the deadline ends them.
    settings = {**SETTINGS, "application_name": "relight migrate", "lock_timeout": "0"}
    try:
        async with time_limit(deadline.total_seconds()):
            connection = await open_connection(dsn, settings, 10.0)
            try:
                yield connection
            finally:
                connection.terminate()
    except Exception as error:
        if (translated := wrong_address(error) or translate(error)) is None:
            raise
        raise translated from error
