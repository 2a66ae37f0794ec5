"""PostgreSQL refuses, deadlocks, throws everybody out, lets nobody in, keeps its answers, and has no room, under load.

The server is this file's own, on a small disk of its own where one can be mounted; serve reaches it through a proxy.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg
import pytest
import pytest_asyncio

from service.embedded import PostgresServer
from tests.acceptance.surroundings import Disk, small_disk
from tests.faults.scene import BACK, Scene, scene
from tests.integration.proxy import Proxy, proxied
from tests.servers import Vhosts, reachable_directory

one_loop = pytest.mark.asyncio(loop_scope="module")

COMMIT = b"relight.transition"
"""What stands in the request of a commit that makes a transition, and in no other request to PostgreSQL."""
ROOM = 160 << 20
"""Bytes of the server's disk: several times a new server's files, and little enough to be filled at once."""
CONNECTIONS = 30
LOSSES = 8
LEASES = 3.0
"""Seconds that an outage lasts: longer than a lease, so that the owner has to find its shard again."""
SETTINGS = {
    "max_connections": str(CONNECTIONS), "min_wal_size": "32MB", "max_wal_size": "32MB", "shared_buffers": "16MB",
}  # fmt: skip

REFUSING = """
CREATE SEQUENCE witness.refusals;
CREATE FUNCTION witness.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    number bigint := nextval('witness.refusals');
BEGIN
    IF number % 3 = 1 THEN
        RAISE EXCEPTION 'could not serialize access due to the test' USING ERRCODE = '40001';
    ELSIF number % 3 = 2 THEN
        RAISE EXCEPTION 'deadlock detected by the test' USING ERRCODE = '40P01';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER refuse AFTER INSERT ON relight.log FOR EACH STATEMENT EXECUTE FUNCTION witness.refuse();
"""
"""Two commits of three are refused at their end; a sequence counts on through what is rolled back."""

CROSSING = """
DO $$ BEGIN
    PERFORM FROM relight.instances WHERE machine = 'alert' FOR UPDATE;
    WHILE NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    PERFORM FROM relight.shards FOR UPDATE;
END $$
"""
"""Takes what a commit takes in the other order: what it waits for last first, and its lease's row once it waits."""


@dataclass(frozen=True)
class Mood:
    """A scene, and what stands between it and its database."""

    stage: Scene
    server: PostgresServer
    proxy: Proxy
    disk: Disk

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(self.stage.postgres_url, timeout=10)

    async def goes_on(self) -> None:
        """Under the load that still lasts."""
        await self.stage.until("ready", self.stage.ready, BACK)
        await self.stage.until("it goes on", self.stage.grows(await self.stage.rows() + 20), BACK)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mood(vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mood]:
    async with AsyncExitStack() as stack:
        # The server's home is the disk's root, below a folder that its user may pass, unlike pytest's own.
        directory = stack.enter_context(reachable_directory())
        disk = stack.enter_context(small_disk(directory / "postgres", ROOM))
        server = PostgresServer(directory, settings=SETTINGS)
        stack.push_async_callback(server.destroy)
        await server.start()
        stage = await stack.enter_async_context(scene(tmp_path_factory.mktemp("mood") / "a", server, vhosts, Scene))
        proxy, url = await stack.enter_async_context(proxied(stage.postgres_url))
        await stage.begin(RELIGHT_POSTGRES_URL=url)
        yield Mood(stage, server, proxy, disk)


@one_loop
async def test_serialization_failures_and_deadlocks_are_tried_again_and_cost_no_event(mood: Mood) -> None:
    # What waited at the take-over was tried alone, and counted.
    counted = "SELECT coalesce(sum(attempts), 0) FROM relight.attempts"
    before = await mood.stage.value(counted)
    async with mood.stage.under_load():
        connection = await mood.connect()
        await connection.execute(REFUSING)
        try:
            await mood.stage.until("commits were refused", lambda: refused(mood, 30), BACK)
        finally:
            await connection.execute("DROP TRIGGER refuse ON relight.log")
            await connection.close()
        mood.stage.over("commits refused")
        await mood.goes_on()
    assert mood.stage.lines("intake.waits")
    assert await mood.stage.value(counted) == before
    assert await mood.stage.value("SELECT count(*) FROM relight.dead_letters") == 0


@one_loop
async def test_real_deadlock_with_a_stranger_is_survived(mood: Mood) -> None:
    async with mood.stage.under_load():
        stranger = await mood.connect()
        # It waits longer than Relight's own session, so that the deadlock ends with Relight's transaction.
        await stranger.execute("SET deadlock_timeout = '30s'")
        await stranger.execute(CROSSING, timeout=BACK)
        await stranger.close()
        mood.stage.over("a deadlock")
        await mood.goes_on()
    assert any("deadlock detected" in str(line["error"]) for line in mood.stage.lines("intake.waits"))


@one_loop
async def test_every_session_ended_again_and_again_under_load_loses_nothing(mood: Mood) -> None:
    async with mood.stage.under_load():
        connection = await mood.connect()
        ended = 0
        for _ in range(8):
            ended += await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.3)
        await connection.close()
        mood.stage.over("every session ended")
        assert ended > 16
        await mood.goes_on()


@one_loop
async def test_server_without_a_free_connection_is_waited_for_by_name(mood: Mood) -> None:
    async with mood.stage.under_load():
        strangers: list[asyncpg.Connection[asyncpg.Record]] = []
        try:
            await take_every_connection(mood, strangers)
            await mood.stage.until("503 says why", lambda: mood.stage.blames("too many clients"), BACK)
            await asyncio.sleep(LEASES)
        finally:
            await asyncio.gather(*(stranger.close(timeout=10) for stranger in strangers))
        mood.stage.over("no free connection")
        await mood.goes_on()


@one_loop
async def test_commits_whose_answers_are_lost_have_their_effect_once(mood: Mood) -> None:
    before = await mood.stage.counted('relight_events_total{outcome="duplicate"}')
    async with mood.stage.under_load():
        mood.proxy.marked, mood.proxy.losses = COMMIT, LOSSES
        await mood.stage.until("answers were lost", lambda: lost(mood), BACK)
        mood.stage.over("lost answers of commits")
        await mood.goes_on()
    assert mood.proxy.lost == LOSSES
    # They had taken effect: what was tried again was known already.
    assert await mood.stage.counted('relight_events_total{outcome="duplicate"}') > before


@one_loop
async def test_full_disk_is_said_and_once_there_is_room_again_everything_goes_on(mood: Mood) -> None:
    async with mood.stage.under_load():
        mood.disk.fill()
        try:
            await mood.stage.until("503 says why", lambda: mood.stage.blames("PostgreSQL", "No space left"), BACK)
            await asyncio.sleep(LEASES)
        finally:
            mood.disk.filler.unlink()
        if not mood.server.running():
            # It ends itself when it cannot write its own log; who runs it starts it again.
            await mood.server.start()
        mood.stage.over("a full disk")
        await mood.goes_on()


@one_loop
async def test_after_all_moods_the_checker_finds_nothing(mood: Mood) -> None:
    await mood.stage.judged()


async def refused(mood: Mood, times: int) -> bool:
    return bool(await mood.stage.value("SELECT last_value >= $1 FROM witness.refusals", times))


async def lost(mood: Mood) -> bool:
    return mood.proxy.lost >= LOSSES


async def take_every_connection(mood: Mood, strangers: "list[asyncpg.Connection[asyncpg.Record]]") -> None:
    """Takes what is free, ends Relight's sessions and takes their places too, until none of Relight's is left."""
    query = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name <> 'stranger'
    """
    deadline = asyncio.get_running_loop().time() + BACK
    refusals = 0
    while refusals < 3:
        assert asyncio.get_running_loop().time() < deadline, "Relight was always quicker"
        try:
            settings = {"application_name": "stranger"}
            strangers.append(await asyncpg.connect(mood.stage.postgres_url, timeout=10, server_settings=settings))
            refusals = 0
        except asyncpg.TooManyConnectionsError:
            # Full, with Relight's sessions or without.
            ended = await strangers[0].fetchval(query)
            refusals = 0 if ended else refusals + 1
