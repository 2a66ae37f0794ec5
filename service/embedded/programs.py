"""Where the programs of PostgreSQL and RabbitMQ are on this machine; the launcher looks in the same places."""

import os
import shutil
from pathlib import Path

from service.embedded.errors import EmbeddedError

OLDEST_POSTGRES = 15
"""Debian 12's."""


def postgres_programs(version: int | None = None) -> Path:
    """The directory of initdb, postgres and psql: the newest, or that of the version which wrote the data."""
    chosen = os.environ.get("RELIGHT_POSTGRES_BIN")
    if chosen:
        return Path(chosen)
    found = {
        int(path.parent.name): path
        for path in Path("/usr/lib/postgresql").glob("*/bin")
        if path.parent.name.isdecimal() and (path / "initdb").exists()
    }
    usable = {number: path for number, path in found.items() if number >= OLDEST_POSTGRES}
    if version is not None and version not in usable:
        raise EmbeddedError(
            f"the data was made by PostgreSQL {version}, which is not installed (installed: {_list(found)})",
            did="Relight changed nothing.",
            next_step=f"install postgresql-{version}, or move the data over with its pg_dumpall",
        )
    if not usable:
        raise EmbeddedError(
            f"PostgreSQL {OLDEST_POSTGRES} or newer is not installed (found: {_list(found)})",
            next_step="apt-get install postgresql as root, run ./relight as root once, or set RELIGHT_POSTGRES_URL",
        )
    return usable[version if version is not None else max(usable)]


def rabbitmq_programs() -> Path:
    """The directory of rabbitmq-server and rabbitmqctl, never the wrappers in /usr/sbin, which change the user."""
    found = Path(os.environ.get("RELIGHT_RABBITMQ_BIN") or "/usr/lib/rabbitmq/bin")
    if not (found / "rabbitmq-server").exists():
        raise EmbeddedError(
            f"RabbitMQ is not installed (no rabbitmq-server in {found})",
            next_step="apt-get install rabbitmq-server as root, run ./relight as root once, or set RELIGHT_AMQP_URL",
        )
    return found


def epmd_program() -> Path:
    """Erlang's port mapper."""
    for candidate in (shutil.which("epmd"), "/usr/bin/epmd", "/usr/lib/erlang/bin/epmd", "/usr/local/bin/epmd"):
        if candidate and Path(candidate).exists():
            return Path(candidate)
    raise EmbeddedError(
        "Erlang's epmd is not installed", next_step="apt-get install erlang-base, or reinstall RabbitMQ"
    )


def _list(found: dict[int, Path]) -> str:
    return ", ".join(str(number) for number in sorted(found)) or "none"
