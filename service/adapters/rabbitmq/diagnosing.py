"""What is wrong with the broker, its user's rights, and the queue types Relight needs. What is declared is deleted."""

import uuid

import aiormq
from yarl import URL

from service.adapters.rabbitmq.connection import CONNECT_TIMEOUT, SERVER, ask, close, explain
from service.adapters.rabbitmq.names import EVENTS_EXCHANGE, STATUS_EXCHANGE
from service.errors import Unavailable

OLDEST = (3, 10)
"""Major and minor version."""


async def diagnose(amqp_url: str) -> tuple[str, list[tuple[str, str]]]:
    """(what was found, problems as (what, how to mend it)). Raises Unavailable."""
    url = URL(amqp_url)
    user, vhost = url.user or "guest", url.path[1:].replace("%2F", "/") or "/"
    connection = aiormq.Connection(url.update_query(name="relight doctor"))
    problems: list[tuple[str, str]] = []
    try:
        await ask(connection.connect(), CONNECT_TIMEOUT)
        version = _text(connection.server_properties.get("version"))
        found = f"RabbitMQ {version}, vhost {vhost} as {user}"
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < OLDEST:
            problems.append((f"RabbitMQ {version} is too old", "Relight needs 3.10 or newer"))
        rights = f"rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'"
        for kind, words in (("quorum", "a quorum queue"), ("stream", "the stream of the status log")):
            if (why := await _declares(connection, kind)) is not None:
                problems.append(
                    (f"{words} cannot be made: {why}", f"{rights}; and see that all feature flags are enabled")
                )
        taken = {name: await _exchange(connection, name) for name in (EVENTS_EXCHANGE, STATUS_EXCHANGE)}
        mend = f"{rights}; or delete the other exchange of that name"
        problems += [(f"the exchange {name} cannot be used: {why}", mend) for name, why in taken.items() if why]
        return found, problems
    except aiormq.AMQPError as error:
        raise Unavailable(SERVER, explain(error)) from error
    finally:
        await close(connection)


async def _declares(connection: aiormq.Connection, kind: str) -> str | None:
    """Why a queue of this type cannot be made; None when it was made, and deleted again."""
    name = f"relight.doctor.{uuid.uuid4()}"
    channel = await ask(connection.channel(), CONNECT_TIMEOUT)
    try:
        await ask(channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind}), CONNECT_TIMEOUT)
        await ask(channel.queue_delete(name), CONNECT_TIMEOUT)
        await ask(channel.close(), CONNECT_TIMEOUT)
    except aiormq.AMQPChannelError as error:
        return explain(error)
    return None


async def _exchange(connection: aiormq.Connection, name: str) -> str | None:
    """Why `name` is not, and cannot become, Relight's exchange. One that is missing is made by `serve`."""
    channel = await ask(connection.channel(), CONNECT_TIMEOUT)
    try:
        await ask(channel.exchange_declare(name, exchange_type="topic", durable=True, passive=True), CONNECT_TIMEOUT)
        await ask(channel.close(), CONNECT_TIMEOUT)
    except aiormq.ChannelNotFoundEntity:
        return None
    except aiormq.AMQPChannelError as error:
        return explain(error)
    return None


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
