"""Fixtures that every suite may use. The servers start when the first test asks for them, and always end.

- `postgres_server`, `rabbit_server`: the private servers themselves (one each a session), for tests that stop them.
- `postgres_url`: a fresh, empty database for this test. `migrated_url` of other suites can build on `databases`.
- `amqp_url`: a fresh vhost for this test, as its administrator; `rabbit_server.add_user(…)` makes others.
"""

import gc
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from service.embedded import PostgresServer, RabbitServer
from tests import sizes
from tests.figures import Gathering, Noting
from tests.servers import (
    Databases,
    GivenPostgres,
    GivenRabbit,
    Vhosts,
    given,
    private,
    unique,
)

GREAT = ("tests/faults/", "tests/simulation/")
"""What a great run is made of, besides what is marked for it."""
LONGEST_FIRST = ("tests/faults/", "tests/acceptance/", "tests/simulation/", "tests/integration/")
"""What begins first when several workers share an everyday run; small files fill up its end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much is undertaken; see sizes.py."""
    group = parser.getgroup("relight")
    group.addoption("--faults", action="store_true", help="only faults and simulation, at great sizes (40 minutes)")
    group.addoption("--long", action="store_true", help="the same, ten times as much")
    group.addoption("--figures", metavar="FILE", help="write what was counted and measured to FILE, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """A session ended with SIGTERM (a CI's time limit) tears its fixtures down like one ended with Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if _great(config):
        sizes.choose(sizes.LONG if config.getoption("--long") else sizes.FAULTS)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Gathering(config), "relight-figures")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Great runs leave the rest out, everyday runs what is marked for great ones.

    Nights begin first, and seeds come last. Every day the suites with the longest files begin first.
    """
    great = _great(config)
    if config.getoption("-m") and not great:
        return  # somebody says by marks what is wanted
    kept = [item for item in items if _belongs(item, great, long=config.getoption("--long"))]
    left = set(items).difference(kept)
    if left:
        config.hook.pytest_deselected(items=[item for item in items if item in left])
    if great:
        kept.sort(
            key=lambda item: (item.get_closest_marker("seeds") is not None, not item.get_closest_marker("faults"))
        )
    elif hasattr(config, "workerinput"):
        kept.sort(key=lambda item: _turn(item.nodeid))
    items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported and collected stays to the end: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


def _turn(nodeid: str) -> int:
    return next((turn for turn, suite in enumerate(LONGEST_FIRST) if nodeid.startswith(suite)), len(LONGEST_FIRST))


def _great(config: pytest.Config) -> bool:
    return bool(config.getoption("--faults") or config.getoption("--long"))


def _belongs(item: pytest.Item, great: bool, long: bool) -> bool:
    marked = item.get_closest_marker("faults") is not None
    if item.get_closest_marker("long") is not None:
        return long
    return marked or item.nodeid.startswith(GREAT) if great else not marked


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Noting:
    """For what a test counts and measures: shown at the end of the run."""
    return Noting(request.node.user_properties)


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
