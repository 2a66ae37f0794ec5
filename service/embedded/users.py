"""The broker users of a private RabbitMQ: one for each name that the systems' files allow, and one a component.

Each may do only what its part needs. Passwords are generated and stay; a name that no file has any more is deleted.
Which names there are is decided by the caller.
"""

import asyncio
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from service.embedded.errors import EmbeddedError
from service.embedded.place import write_private
from service.embedded.rabbitmq import USER as ADMINISTRATOR
from service.embedded.rabbitmq import RabbitServer

TAG = "relight-user"
"""Marks, on the broker, the users that were made here: only those are ever deleted."""

TEMPORARY = r"amq\.gen-.+|amq_.+"
"""Names of queues that brokers and clients invent."""


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """Somebody who speaks to the broker. `component`: (system, component) whose commands it may hear, or None.

    `operates`: the systems whose operations it may take from their queues.
    """

    name: str
    component: tuple[str, str] | None = None
    operates: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rights:
    """Regular expressions over names, as RabbitMQ has them; `topic`: the routing keys heard on relight.commands."""

    configure: str
    write: str
    read: str
    topic: str | None = None


def rights(user: BrokerUser) -> Rights:
    """The least a user needs.

    Everybody publishes to relight.events and has queues of its own (named after it, or invented). People and services
    hear relight.status and its log; a component hears its own commands on relight.commands, and nobody else's.
    Operations are read from the one queue that Relight made for them; nobody binds another.
    """
    name = re.escape(user.name)
    own = rf"{name}|{name}\..+|relight\.participant\.{name}(\..+)?|{TEMPORARY}"
    heard = r"relight\.commands" if user.component is not None else r"relight\.status|relight\.status\.log"
    heard += "".join(rf"|relight\.operations\.{re.escape(system)}" for system in sorted(user.operates))
    topic = None
    if user.component is not None:
        system, component = user.component
        topic = rf"^{re.escape(system)}\.{re.escape(component)}\..+$"
    return Rights(f"^({own})$", rf"^(relight\.events|{own})$", rf"^({heard}|{own})$", topic)


async def provide_users(
    server: RabbitServer, users: Iterable[BrokerUser], folder: Path, *, vhost: str = "/"
) -> dict[str, Path]:
    """Makes these users on the broker and writes each one's AMQP URL to `<folder>/<name>.url` (0600); files by name.

    Users made here earlier that are not among `users` are deleted with their files. Raises EmbeddedError.
    """
    wanted = {user.name: user for user in users}
    if ADMINISTRATOR in wanted:
        raise EmbeddedError(
            f"a system's file allows the user {ADMINISTRATOR!r}; on the private RabbitMQ that is the administrator",
            did="No users were made.",
            next_step="name the person or service that may do this, such as `svc-deploy`",
        )
    await asyncio.to_thread(_private, folder)
    api = server.management()
    for there in await api.get("/users"):
        if TAG in there.get("tags", []) and there["name"] not in wanted:
            await server.delete_user(there["name"])
            _file(folder, there["name"]).unlink(missing_ok=True)
    files = {}
    for name, user in wanted.items():
        file = _file(folder, name)
        password = _password(file) or secrets.token_urlsafe(24)
        await api.put(f"/users/{quote(name, safe='')}", {"password": password, "tags": TAG})
        given = rights(user)
        await server.set_permissions(name, vhost=vhost, configure=given.configure, write=given.write, read=given.read)
        if given.topic is not None:
            await api.put(
                f"/topic-permissions/{quote(vhost, safe='')}/{quote(name, safe='')}",
                {"exchange": "relight.commands", "write": "^$", "read": given.topic},
            )
        write_private(file, server.url_for(vhost, name, password) + "\n")
        files[name] = file
    return files


def _private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{quote(name, safe='')}.url"


def _password(file: Path) -> str | None:
    """The password given earlier, so that a restart of Relight does not lock its clients out."""
    try:
        password = urlsplit(file.read_text().strip()).password
    except (FileNotFoundError, ValueError):
        return None
    return unquote(password) if password else None
