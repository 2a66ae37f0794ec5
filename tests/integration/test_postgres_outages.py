"""What becomes of the store when PostgreSQL is slow, silent, restarted or gone: it says so, and goes on by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from service.adapters.postgres import PostgresStore, migrate
from service.errors import Conflict, Misconfigured, Unavailable
from tests.contract.rows import LIFECYCLE, Owner, event, says, snapshot
from tests.integration.proxy import Mode, Proxy, proxied

LEASE = timedelta(minutes=5)


@dataclass(frozen=True)
class Remote:
    """A store behind a proxy, and a connection of our own beside it."""

    store: PostgresStore
    proxy: Proxy
    beside: Any

    async def owner(self) -> Owner:
        ownership = await self.store.acquire(0, "a", LEASE)
        assert ownership is not None
        return Owner(ownership)


@pytest.fixture
async def remote(postgres_url: str) -> AsyncIterator[Remote]:
    await migrate(postgres_url)
    beside = await asyncpg.connect(postgres_url)
    async with proxied(postgres_url) as (proxy, url):
        store = await PostgresStore.connect(url, timeout=timedelta(seconds=1.5))
        yield Remote(store, proxy, beside)
        proxy.mode = Mode.PASS
        await store.close()
    await beside.close()


async def test_a_commit_whose_answer_was_lost_is_found_by_the_retry(remote: Remote) -> None:
    owner = await remote.owner()
    await remote.store.commit(owner.moved(1))
    remote.proxy.mode = Mode.LOSE_ANSWER
    with pytest.raises(Unavailable):
        await remote.store.commit(owner.moved(2))
    remote.proxy.mode = Mode.PASS
    with pytest.raises(Conflict):
        await remote.store.commit(owner.moved(2))
    found = await remote.store.prepare(0, [event(f"{LIFECYCLE}-2")], [LIFECYCLE], [])
    assert event(f"{LIFECYCLE}-2") in found.known
    assert found.instances[LIFECYCLE].snapshot == snapshot(2)
    assert [row.seq for row in await remote.store.history(LIFECYCLE)] == [1, 2]


async def test_a_silent_server_is_unavailable_in_time_and_then_used_again(remote: Remote) -> None:
    owner = await remote.owner()
    await remote.store.commit(owner.moved(1))
    remote.proxy.mode = Mode.HANG
    began = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable) as caught:
        await remote.store.commit(owner.moved(2))
    assert asyncio.get_running_loop().time() - began < 4
    assert caught.value.server == "PostgreSQL"
    remote.proxy.mode = Mode.PASS
    await remote.store.renew(owner.lease, LEASE)
    # Whether the bytes that hung arrived after all is decided by the inbox, not by a guess.
    found = await remote.store.prepare(0, [event(f"{LIFECYCLE}-2")], [], [])
    if not found.known:
        await remote.store.commit(owner.moved(2))
    assert [row.seq for row in await remote.store.history(LIFECYCLE)] == [1, 2]


async def test_sessions_ended_by_the_server_are_replaced(remote: Remote) -> None:
    owner = await remote.owner()
    await remote.store.commit(owner.moved(1))
    await remote.beside.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'relight'"
    )
    for _ in range(50):
        try:
            await remote.store.commit(owner.moved(2))
            break
        except Unavailable:
            await asyncio.sleep(0.05)
    assert [row.seq for row in await remote.store.history(LIFECYCLE)] == [1, 2]


async def test_a_server_that_is_gone_is_unavailable_and_not_an_accident() -> None:
    async with proxied("postgresql://relight@127.0.0.1:1/relight") as (_, nowhere):
        for url in (nowhere, "postgresql://relight@127.0.0.1:1/relight"):
            with pytest.raises(Unavailable):
                await PostgresStore.connect(url)


async def test_a_wrong_database_is_a_wrong_setting(postgres_url: str) -> None:
    with pytest.raises(Misconfigured, match=r"RELIGHT_POSTGRES_URL.*does not exist"):
        await PostgresStore.connect(postgres_url + "_not")


async def test_a_batch_that_meets_a_lock_gives_up_in_time_and_counts_once(remote: Remote) -> None:
    owner = await remote.owner()
    async with remote.beside.transaction():
        await remote.beside.execute("SELECT FROM relight.shards FOR UPDATE")
        with pytest.raises(Unavailable):
            await remote.store.commit(owner.moved(1))
    # The server may have gone on after we gave up; the retry tells.
    with contextlib.suppress(Conflict):
        await remote.store.commit(owner.moved(1))
    assert [row.seq for row in await remote.store.history(LIFECYCLE)] == [1]


async def test_a_cancelled_commit_leaves_no_half_used_connection(remote: Remote) -> None:
    owner = await remote.owner()
    async with remote.beside.transaction():
        await remote.beside.execute("SELECT FROM relight.shards FOR UPDATE")
        commit = asyncio.create_task(remote.store.commit(owner.moved(1)))
        await asyncio.sleep(0.2)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
    await remote.store.commit(owner.batch())
    assert len(await remote.store.history(LIFECYCLE)) <= 1


async def test_nobody_takes_a_shard_over_while_its_owner_commits(remote: Remote) -> None:
    ownership = await remote.store.acquire(0, "a", timedelta(milliseconds=300))
    assert ownership is not None
    async with remote.beside.transaction():
        await remote.beside.execute("SELECT relight.hold_shard(0, $1)", ownership.token)
        await asyncio.sleep(0.4)
        follower = asyncio.create_task(remote.store.acquire(0, "b", LEASE))
        await asyncio.sleep(0.3)
        assert not follower.done()
    following = await follower
    assert following is not None
    assert following.token > ownership.token


async def test_a_listener_comes_back_and_wakes_its_waiter(remote: Remote) -> None:
    loop = asyncio.get_running_loop()
    await remote.store.wait_for_signal(0, 10)
    remote.proxy.cut()
    await remote.store.wait_for_signal(0, 10)  # woken by the end of the connection
    await remote.store.wait_for_signal(0, 10)  # and by the new one
    began = loop.time()
    waiting = asyncio.create_task(remote.store.wait_for_signal(0, 10))
    await asyncio.sleep(0.1)
    for _ in range(50):
        try:
            await remote.store.signal([says("hello")])
            break
        except Unavailable:
            await asyncio.sleep(0.05)
    await waiting
    assert loop.time() - began < 5


async def test_waiting_ends_in_time_while_the_server_is_away() -> None:
    store = PostgresStore("postgresql://relight@127.0.0.1:1/relight")
    began = asyncio.get_running_loop().time()
    await store.wait_for_signal(0, 0.3)
    await store.wait_for_step(0.3)
    assert 0.5 < asyncio.get_running_loop().time() - began < 3
    await store.close()
    with pytest.raises(Unavailable, match="closed"):
        await store.next_timer(0)
