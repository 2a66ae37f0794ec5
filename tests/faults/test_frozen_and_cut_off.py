"""Two replicas, of which one is frozen, or cut off from PostgreSQL or RabbitMQ: the other follows, the first yields.

The replicas stand on two hosts as far as Relight knows: each serves a place of its own, and only the first has a
system's components. Each reaches the servers through proxies of its own.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime

import pytest
import pytest_asyncio

from tests.faults.harness import SYSTEM
from tests.faults.scene import BACK, Scene, lines_of, scene
from tests.integration.proxy import Mode, Proxy, proxied
from tests.servers import Databases, Vhosts
from tests.serving import Serving

one_loop = pytest.mark.asyncio(loop_scope="module")

COMMIT = b"relight.transition"
"""What stands in the request of a commit that makes a transition, and in no other request to PostgreSQL."""
BROKEN_LINES = [Mode.REFUSE, pytest.param(Mode.HANG, marks=pytest.mark.faults)]
"""Silence takes several timeouts to be noticed, and each owner that is frozen has it as well."""
FREEZES = 20
"""Owners that are frozen one after the other with `--faults`, the one that follows each time next."""
TOKEN = "SELECT token FROM relight.shards WHERE shard = 0"
LEASE = "3s"
"""Longer than the shortest: an owner stops when a fifth of it is left, which a busy machine must not use up."""
AFTER = 1.5 * float(LEASE.removesuffix("s"))
"""Seconds that a replica stays frozen or cut off after another one has taken over: the lease is long over then."""


@dataclass(frozen=True)
class Replica:
    """A serve behind a proxy before each of its servers."""

    name: str
    serving: Serving
    postgres: Proxy
    rabbit: Proxy
    environment: dict[str, str]

    async def start(self) -> None:
        await self.serving.start(**self.environment)

    async def owns(self) -> bool:
        _, body = await self.serving.page("/readyz")
        return bool(body) and "owns no shard" not in body

    async def is_well(self) -> bool:
        """Ready, or not ready for no other reason than that the other one owns the shard."""
        status, _ = await self.serving.page("/readyz")
        return bool(status) and all("owns no shard" in why for why in await self.serving.reasons())


@dataclass(frozen=True)
class Pair:
    stage: Scene
    replicas: tuple[Replica, Replica]

    async def owner_and_other(self) -> tuple[Replica, Replica]:
        """Who owns the shard now, and who does not."""
        deadline = time.monotonic() + BACK
        while time.monotonic() < deadline:
            one, other = self.replicas
            owning = [await one.owns(), await other.owns()]
            if owning == [True, False]:
                return one, other
            if owning == [False, True]:
                return other, one
            await asyncio.sleep(0.1)
        raise AssertionError(f"nobody owns the shard alone; the first says:\n{self.stage.last_words()}")

    async def taken_over_by(self, other: Replica) -> None:
        """It owns the shard and goes on with the load."""
        await other.serving.until(f"{other.name} owns the shard", other.owns, BACK)
        await self.stage.until(f"{other.name} goes on", self.stage.grows(await self.stage.rows() + 20), BACK)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(databases: Databases, vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        folder = tmp_path_factory.mktemp("pair")
        stage = await stack.enter_async_context(scene(folder / "a", databases, vhosts, Scene))
        (folder / "b").mkdir()
        second = Serving(folder / "b", stage.postgres_url, stage.amqp_url, SYSTEM)
        second.systems = stage.systems
        replicas = []
        for name, serving in (("local", stage), ("elsewhere", second)):
            postgres, postgres_url = await stack.enter_async_context(proxied(stage.postgres_url))
            rabbit, amqp_url = await stack.enter_async_context(proxied(stage.amqp_url))
            postgres.marked = COMMIT
            environment = {
                "RELIGHT_POSTGRES_URL": postgres_url, "RELIGHT_AMQP_URL": amqp_url, "RELIGHT_PLACES": name,
                "RELIGHT_LEASE": LEASE,
            }  # fmt: skip
            replicas.append(Replica(name, serving, postgres, rabbit, environment))
        first, other = replicas
        try:
            await stage.begin(**first.environment)
            await other.start()
            await other.serving.until("the second replica is well", other.is_well, BACK)
            yield Pair(stage, (first, other))
        finally:
            await second.stop()


@one_loop
async def test_owner_frozen_for_longer_than_its_lease_writes_and_acknowledges_nothing_when_it_is_back(
    pair: Pair,
) -> None:
    async with pair.stage.under_load():
        await frozen_with_a_commit_on_its_way(pair)
    await pair.stage.everything_answers()


async def frozen_with_a_commit_on_its_way(pair: Pair) -> None:
    owner, other = await pair.owner_and_other()
    assert owner.serving.process is not None
    lost, held = owner.serving.said("owner.lost"), owner.postgres.held
    token = await pair.stage.value(TOKEN)
    owner.postgres.trap = True
    try:
        await owner.serving.until("a commit is on its way", lambda: more_held(owner, held), BACK)
        owner.serving.process.send_signal(signal.SIGSTOP)
        await pair.stage.until("the lease is another's", lambda: is_newer(pair, token), BACK)
        # The commit arrives now, while its sender sleeps, and before the other one has moved what it would move: the
        # broker still waits for a word of the sleeper. Only its token can refuse it.
        owner.postgres.mode = Mode.PASS
        await pair.taken_over_by(other)
        await asyncio.sleep(AFTER)
    finally:
        owner.postgres.trap, owner.postgres.mode = False, Mode.PASS
        owner.serving.process.send_signal(signal.SIGCONT)
    pair.stage.over("a frozen owner")
    await owner.serving.until("the one that was frozen yields", lambda: has_said(owner, "owner.lost", lost), BACK)
    await owner.serving.until("it is well", owner.is_well, BACK)
    assert owner.serving.process.returncode is None
    assert await pair.stage.value("SELECT count(*) FROM witness.writes WHERE what <> 'claim' AND token <> held") == 0
    # An acknowledgement on a channel that the broker has closed, or of what is acknowledged, would end in these words.
    assert "PRECONDITION_FAILED" not in owner.serving.log.read_text("utf-8", "replace")


@one_loop
@pytest.mark.parametrize("mode", BROKEN_LINES)
async def test_owner_cut_off_from_postgresql_yields_and_is_well_again_afterwards(pair: Pair, mode: Mode) -> None:
    async with pair.stage.under_load():
        owner, other = await pair.owner_and_other()
        yielded = len(lines_of(owner.serving, "owner.lost"))
        break_off(owner.postgres, mode)
        # From here on nobody prolongs this lease.
        lease_ends = await pair.stage.value("SELECT until FROM relight.shards WHERE shard = 0")
        try:
            await pair.taken_over_by(other)
            assert not await owner.owns()
            stopped = str(lines_of(owner.serving, "owner.lost")[yielded]["at"])
            assert datetime.fromisoformat(stopped) < lease_ends, "it stopped when another one could have followed"
            await owner.serving.until("it says what it waits for", lambda: waits_for(owner, "postgres"), BACK)
        finally:
            owner.postgres.mode = Mode.PASS
        pair.stage.over("an owner cut off from PostgreSQL")
        await owner.serving.until("it is well", owner.is_well, BACK)
    await pair.stage.everything_answers()


@one_loop
@pytest.mark.parametrize("mode", BROKEN_LINES)
async def test_owner_cut_off_from_rabbitmq_leaves_the_shard_to_a_replica_that_is_not(pair: Pair, mode: Mode) -> None:
    async with pair.stage.under_load():
        owner, other = await pair.owner_and_other()
        break_off(owner.rabbit, mode)
        try:
            await pair.taken_over_by(other)
            await owner.serving.until("it says what it waits for", lambda: waits_for(owner, "RabbitMQ"), BACK)
        finally:
            owner.rabbit.mode = Mode.PASS
        pair.stage.over("an owner cut off from RabbitMQ")
        await owner.serving.until("it is well", owner.is_well, BACK)
    await pair.stage.everything_answers()


@pytest.mark.faults
@pytest.mark.timeout(FREEZES * 60)
@one_loop
async def test_owners_frozen_one_after_the_other_lose_nothing(pair: Pair) -> None:
    async with pair.stage.under_load():
        for _ in range(FREEZES):
            await frozen_with_a_commit_on_its_way(pair)
    await pair.stage.judged()


@one_loop
async def test_after_all_that_the_checker_finds_nothing(pair: Pair) -> None:
    await pair.stage.judged()


def break_off(proxy: Proxy, mode: Mode) -> None:
    if mode is Mode.REFUSE:
        proxy.refuse()
    proxy.mode = mode


async def is_newer(pair: Pair, token: int) -> bool:
    return bool(await pair.stage.value(TOKEN) > token)


async def more_held(replica: Replica, before: int) -> bool:
    return replica.postgres.held > before


async def has_said(replica: Replica, event: str, before: int) -> bool:
    return replica.serving.said(event) > before


async def waits_for(replica: Replica, server: str) -> bool:
    return any(server in why for why in await replica.serving.reasons())
