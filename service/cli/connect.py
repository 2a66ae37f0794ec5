"""How a command reaches the store and the status topic of a Relight that runs. Nothing is asked or changed here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from service.cli.home import find
from service.errors import RelightError, Unavailable
from service.settings import Settings

if TYPE_CHECKING:
    from service.adapters.postgres import PostgresStore
    from service.adapters.rabbitmq import RabbitStatusReader


@asynccontextmanager
async def store(settings: Settings) -> "AsyncIterator[PostgresStore]":
    """Relight's tables. Raises RelightError, saying where it looked, when nobody answers there."""
    from service.adapters.postgres import PostgresStore

    found = find(settings.servers)
    try:
        opened = await PostgresStore.visit(found.postgres_url)
    except Unavailable as error:
        raise RelightError(f"{error}\nIts address is from {found.by}. Does `relight serve` still run?") from error
    try:
        yield opened
    finally:
        await opened.close()


def status_topic(settings: Settings) -> "RabbitStatusReader":
    """The status topic; a broker that is away is waited for. Raises RelightError when no address is known."""
    from service.adapters.rabbitmq import RabbitStatusReader
    from service.clock import SystemClock

    return RabbitStatusReader(find(settings.servers).amqp_url, clock=SystemClock())
