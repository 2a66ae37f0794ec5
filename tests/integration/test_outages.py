"""Servers away at the start or later: said once, waited for, gone on by itself, and nothing confirmed is lost.

The servers are this file's own; every story leaves them running.
"""

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import pytest_asyncio

from service.embedded import PostgresServer, RabbitServer
from tests.faults.harness import SYSTEM
from tests.faults.load import SOURCE
from tests.faults.scene import BACK, Scene
from tests.servers import own, unique

one_loop = pytest.mark.asyncio(loop_scope="module")

LOADED = 3
"""Measurements of the load: what is asked afterwards is asked of another one, which nothing that waits still moves."""
AWAY = 3.0
"""Seconds that an outage lasts here: long enough that each retry, if it were said, would be heard many times."""
TELLING = 3
"""How often one kind of line may stand in the log for one outage: once for each connection and a shard."""


postgres, rabbit = own(PostgresServer), own(RabbitServer)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(
    postgres: PostgresServer, rabbit: RabbitServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    """One system for the whole file, watched from its beginning; a story starts serve if it does not run."""
    name = unique("outage")
    urls = await postgres.create_database(name), await rabbit.add_vhost(name)
    stage = Scene(tmp_path_factory.mktemp("outage"), *urls)
    try:
        await stage.prepare()
        await stage.begin()
        yield stage
    finally:
        await stage.end()


@pytest_asyncio.fixture(loop_scope="module")
async def serving(stage: Scene, postgres: PostgresServer, rabbit: RabbitServer) -> Scene:
    """Serve runs and is ready."""
    await _all_run(postgres, rabbit)
    if stage.process is None or stage.process.returncode is not None:
        await stage.start()
    await stage.until("ready", stage.ready, BACK)
    await rabbit.write_out()
    return stage


async def _all_run(postgres: PostgresServer, rabbit: RabbitServer) -> None:
    """A story that failed may have left one of them away."""
    for server in (postgres, rabbit):
        if not server.running():
            await server.start()


async def _ended(stage: Scene) -> None:
    if stage.process is not None and stage.process.returncode is None:
        stage.process.terminate()
        await stage.died()


@one_loop
async def test_postgres_away_at_the_start_is_waited_for(
    stage: Scene, postgres: PostgresServer, rabbit: RabbitServer
) -> None:
    await _all_run(postgres, rabbit)
    await _ended(stage)
    await postgres.stop()
    await stage.start()
    async with said_once(stage):
        await stage.until("503 that names PostgreSQL", lambda: stage.blames("postgres"), BACK)
        await asyncio.sleep(AWAY)
        await postgres.start()
        stage.over("postgres away at the start")
        await stage.until("ready", stage.ready, BACK)
    await an_event_is_applied(stage)


@one_loop
async def test_rabbitmq_away_at_the_start_is_waited_for(
    stage: Scene, postgres: PostgresServer, rabbit: RabbitServer
) -> None:
    await _all_run(postgres, rabbit)
    await _ended(stage)
    await rabbit.stop()
    await stage.start()
    async with said_once(stage):
        await stage.until("503 that names RabbitMQ", lambda: stage.blames("RabbitMQ"), BACK)
        await asyncio.sleep(AWAY)
        await rabbit.start()
        stage.over("rabbitmq away at the start")
        await stage.until("ready", stage.ready, BACK)
    await an_event_is_applied(stage)


@one_loop
async def test_postgres_killed_under_load_comes_back_and_nothing_is_lost(
    serving: Scene, postgres: PostgresServer
) -> None:
    async with serving.under_load(metrics=LOADED), said_once(serving):
        await postgres.kill()
        await serving.until("503 that names PostgreSQL", lambda: serving.blames("postgres"), BACK)
        await asyncio.sleep(AWAY)
        await postgres.start()
        serving.over("postgres killed")
        await serving.until("ready", serving.ready, BACK)
    await an_event_is_applied(serving)


@one_loop
async def test_rabbitmq_killed_under_load_comes_back_and_its_consumers_too(
    serving: Scene, rabbit: RabbitServer
) -> None:
    async with serving.under_load(metrics=LOADED), said_once(serving):
        await rabbit.kill()
        await serving.until("503 that names RabbitMQ", lambda: serving.blames("RabbitMQ"), BACK)
        await asyncio.sleep(AWAY)
        await rabbit.start()
        serving.over("rabbitmq killed")
        await serving.until("ready", serving.ready, BACK)
    await an_event_is_applied(serving)


@one_loop
async def test_both_killed_at_once_come_back(serving: Scene, postgres: PostgresServer, rabbit: RabbitServer) -> None:
    await asyncio.gather(postgres.kill(), rabbit.kill())
    await serving.until("503 that names both", lambda: serving.blames("postgres", "RabbitMQ"), BACK)
    await asyncio.gather(postgres.start(), rabbit.start())
    serving.over("both killed")
    await serving.until("ready", serving.ready, BACK)
    await an_event_is_applied(serving)


@one_loop
@pytest.mark.parametrize("queue", ["relight.intake.metrics.0", "relight.intake.control.0", "relight.unrouted"])
async def test_queue_deleted_under_its_consumer_is_made_again(serving: Scene, rabbit: RabbitServer, queue: str) -> None:
    async with said_once(serving):
        await api(rabbit, "DELETE", f"queues/{vhost(serving)}/{queue}")
        serving.over(f"{queue} deleted")
        await serving.until("the queue again, with a consumer", lambda: consumed(serving, rabbit, queue), BACK)
    await an_event_is_applied(serving)
    await an_event_is_refused(serving)


@one_loop
async def test_connections_closed_by_an_operator_are_made_again(serving: Scene, rabbit: RabbitServer) -> None:
    await serving.until("its connections", lambda: other_connections(serving, rabbit, set()), BACK)
    closed = await connections(serving, rabbit)
    for name in closed:
        await api(rabbit, "DELETE", f"connections/{quote(name, safe='')}")
    serving.over("connections closed")
    await serving.until("other connections", lambda: other_connections(serving, rabbit, closed), BACK)
    await serving.until("ready", serving.ready, BACK)
    await an_event_is_applied(serving)


@one_loop
async def test_sessions_ended_by_an_operator_are_opened_again(serving: Scene, postgres: PostgresServer) -> None:
    database = urlsplit(serving.postgres_url).path[1:]
    await postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
    serving.over("sessions ended")
    await an_event_is_applied(serving)
    await serving.until("ready", serving.ready, BACK)


@one_loop
async def test_after_all_outages_the_checker_finds_nothing(serving: Scene) -> None:
    await serving.judged()
    assert serving.process is not None
    assert serving.process.returncode is None


# ---- what the stories ask


async def an_event_is_applied(stage: Scene) -> None:
    """A fresh publisher's event moves its alert, and is told on the status topic."""
    await stage.load.close()
    await stage.load.connect()
    state = await stage.value("SELECT state FROM relight.instances WHERE instance = $1", f"alert/{SYSTEM}/m5")
    data = {"metric": "m5", "value": 1.0 if state == "critical" else 99.0}
    key = await stage.load.publish("metric.observed", data, f"alert/{SYSTEM}/m5")
    await stage.until("a fresh event applied", lambda: has_outcome(stage, key, "applied"), BACK)
    await stage.until("it was told", lambda: told(stage), BACK)


async def an_event_is_refused(stage: Scene) -> None:
    """The control lane works, and so does what nobody bound."""
    before = await stage.value("SELECT count(*) FROM relight.dead_letters")
    for word in ("restart.requested", "something.else"):
        # The same bytes twice would be one event, known already.
        await stage.load.raw(f"nonsense {uuid.uuid4()}".encode(), f"{SYSTEM}.{word}")
    await stage.until("both refused", lambda: more_dead(stage, before + 2), BACK)


async def has_outcome(stage: Scene, key: str, outcome: str) -> bool:
    query = "SELECT outcomes::text FROM relight.inbox WHERE source = $1 AND id = $2"
    found = await stage.value(query, SOURCE, key)
    return bool(found) and outcome in json.loads(found).values()


async def told(stage: Scene) -> bool:
    return bool(await stage.value("SELECT count(*) = 0 FROM relight.outbox"))


async def more_dead(stage: Scene, count: int) -> bool:
    return bool(await stage.value("SELECT count(*) >= $1 FROM relight.dead_letters", count))


@asynccontextmanager
async def said_once(stage: Scene) -> AsyncIterator[None]:
    """Whatever is said of what goes wrong inside, it is said once a connection and not at every attempt."""
    before, began = len(lines(stage.log)), time.monotonic()
    yield
    heard = Counter(line["event"] for line in lines(stage.log)[before:] if line.get("level") in ("warning", "error"))
    seconds = time.monotonic() - began
    assert heard, "nothing was said of it"
    assert max(heard.values()) <= TELLING, f"in {seconds:.0f} s: {heard}"


def lines(log: Path) -> list[dict[str, Any]]:
    """The log's lines that are events."""
    return [json.loads(line) for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("{")]


# ---- the broker's management API


def vhost(stage: Scene) -> str:
    return urlsplit(stage.amqp_url).path[1:]


async def api(rabbit: RabbitServer, method: str, path: str) -> Any:
    """One call; the answer's JSON, None when it has no body."""

    def call() -> Any:
        import base64
        import urllib.request

        parts = urlsplit(rabbit.management_url)
        request = urllib.request.Request(f"http://{parts.hostname}:{parts.port}/api/{path}", method=method)
        word = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    return await asyncio.to_thread(call)


async def consumed(stage: Scene, rabbit: RabbitServer, queue: str) -> bool:
    consumers = await api(rabbit, "GET", f"consumers/{vhost(stage)}")
    return any(one["queue"]["name"] == queue for one in consumers)


async def connections(stage: Scene, rabbit: RabbitServer) -> set[str]:
    found = await api(rabbit, "GET", f"vhosts/{vhost(stage)}/connections")
    return {one["name"] for one in found if one.get("user_provided_name", "").startswith("relight")}


async def other_connections(stage: Scene, rabbit: RabbitServer, before: set[str]) -> bool:
    return len(await connections(stage, rabbit) - before) >= 2
