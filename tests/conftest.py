"""Fixtures that every suite may use. The servers start when the first test asks for them, and always end.

- `postgres_server`, `rabbit_server`: the private servers themselves (one each a session), for tests that stop them.
- `postgres_url`: a fresh, empty database for this test. `migrated_url` of other suites can build on `databases`.
- `amqp_url`: a fresh vhost for this test, as its administrator; `rabbit_server.add_user(…)` makes others.
"""

import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from service.embedded import PostgresServer, RabbitServer
from tests.servers import (
    Databases,
    GivenPostgres,
    GivenRabbit,
    Vhosts,
    given,
    private,
    unique,
)


def pytest_configure() -> None:
    """A session ended with SIGTERM (a CI's time limit) tears its fixtures down like one ended with Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's private PostgreSQL. A test that stops it starts it again."""
    with private(PostgresServer) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """The session's private RabbitMQ. A test that stops it starts it again."""
    with private(RabbitServer) as server:
        yield server


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Databases:
    """Creates and drops databases: on RELIGHT_POSTGRES_URL if that is set, else on the private server."""
    if url := given("RELIGHT_POSTGRES_URL"):
        return GivenPostgres(url)
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server


@pytest.fixture(scope="session")
def vhosts(request: pytest.FixtureRequest) -> Vhosts:
    """Creates and deletes vhosts: on RELIGHT_AMQP_URL if that is set, else on the private broker."""
    if url := given("RELIGHT_AMQP_URL"):
        return GivenRabbit(url, given("RELIGHT_RABBITMQ_API"))
    server: RabbitServer = request.getfixturevalue("rabbit_server")
    return server


@pytest.fixture
async def postgres_url(databases: Databases) -> AsyncIterator[str]:
    """The URL of an empty database that only this test uses; dropped afterwards, with all sessions in it."""
    name = unique("test")
    yield await databases.create_database(name)
    await databases.drop_database(name)


@pytest.fixture
async def amqp_url(vhosts: Vhosts) -> AsyncIterator[str]:
    """The URL of an empty vhost that only this test uses; deleted afterwards."""
    name = unique("test")
    yield await vhosts.add_vhost(name)
    await vhosts.delete_vhost(name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `faults` is left out, unless `-m` says what is wanted."""
    if config.getoption("-m"):
        return
    left_out = [item for item in items if item.get_closest_marker("faults")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("faults")]
