"""What only the PostgreSQL store has: an append-only log, partitions, plans that stay good, several processes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from machines.model import StepStatus
from schemas.sharding import shard_of
from service.adapters.postgres import PostgresStore, migrate
from service.errors import Misconfigured, Unavailable
from service.ports import NewSignal, Observation, StepChange
from tests.contract.rows import ALERT, LIFECYCLE, MINUTE, NOW, Owner, event, log, out, says, snapshot, step, timer

LEASE = timedelta(minutes=5)
PLACES = "SELECT l.seq, c.relname FROM relight.log l JOIN pg_class c ON c.oid = l.tableoid ORDER BY l.seq"


@pytest.fixture
async def url(postgres_url: str) -> str:
    await migrate(postgres_url)
    return postgres_url


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.connect(url)
    yield store
    await store.close()


@pytest.fixture
async def sql(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def owner_of(store: PostgresStore) -> Owner:
    ownership = await store.acquire(0, "a", LEASE)
    assert ownership is not None
    return Owner(ownership)


@pytest.mark.parametrize(
    "statement", ["UPDATE relight.log SET record = ''", "DELETE FROM relight.log", "TRUNCATE relight.log"]
)
async def test_the_log_only_grows(store: PostgresStore, sql: Any, statement: str) -> None:
    await store.commit((await owner_of(store)).moved(1))
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await sql.execute(statement.format("relight.log"))
    assert await store.history(LIFECYCLE) == (log(1),)


async def test_a_schema_restored_in_place_takes_batches_again(url: str, store: PostgresStore, sql: Any) -> None:
    await store.commit((await owner_of(store)).moved(1))
    await sql.execute("DROP SCHEMA relight CASCADE")
    await migrate(url)
    owner = await owner_of(store)
    with pytest.raises(Unavailable):
        await store.commit(owner.moved(1))
    await store.commit(owner.moved(1))
    assert await store.history(LIFECYCLE) == (log(1),)


async def test_the_log_lies_in_months_and_none_is_ever_missing(store: PostgresStore, sql: Any) -> None:
    owner = await owner_of(store)
    now = datetime.now(UTC)
    await store.commit(owner.moved(1))  # an old month: the default partition takes it
    await store.commit(owner.moved(2, log=(log(2, at=now),)))
    await store.prune(NOW)
    places = await sql.fetch(
        "SELECT seq, relname AS place FROM relight.log l JOIN pg_class c ON c.oid = l.tableoid ORDER BY seq"
    )
    assert [tuple(row) for row in places] == [(1, "log_default"), (2, f"log_{now:%Y_%m}")]
    assert await store.history(LIFECYCLE) == (log(1), log(2, at=now))
    later = NOW + timedelta(days=40)
    await store.commit(owner.moved(3, log=(log(3, at=later),)))
    assert (
        await sql.fetchval("SELECT relname FROM relight.log l JOIN pg_class c ON c.oid = l.tableoid WHERE seq = 3")
        == "log_2026_04"
    )


async def test_observations_of_a_minute_add_up(store: PostgresStore, sql: Any) -> None:
    owner = await owner_of(store)
    seen, next_minute = Observation(ALERT, NOW, 2, 3.5), Observation(ALERT, NOW + MINUTE, 1, 1.0)
    await store.commit(owner.batch(observations=(seen, next_minute, seen)))
    await store.commit(owner.batch(observations=(seen,)))
    rows = await sql.fetch("SELECT minute, count, total FROM relight.observations ORDER BY minute")
    assert [tuple(row) for row in rows] == [(NOW, 6, 10.5), (NOW + MINUTE, 1, 1.0)]


async def test_stored_text_is_the_hashed_text(store: PostgresStore, sql: Any) -> None:
    await store.commit((await owner_of(store)).moved(1))
    assert await sql.fetchval("SELECT record FROM relight.log") == log(1).record
    assert await sql.fetchval("SHOW fsync") == "on"


async def test_what_one_process_tells_wakes_another(url: str, store: PostgresStore) -> None:
    other = await PostgresStore.connect(url)
    loop = asyncio.get_running_loop()
    await other.wait_for_signal(0, 10)
    await other.wait_for_step(0.01)
    signalled = asyncio.create_task(other.wait_for_signal(0, 10))
    readied = asyncio.create_task(other.wait_for_step(10))
    await asyncio.sleep(0.05)
    began = loop.time()
    await store.signal([says("hello")])
    await signalled
    await store.commit((await owner_of(store)).moved(1, steps_new=(step("pause"),)))
    await readied
    assert loop.time() - began < 2
    [row] = await other.claim("w2", ["local"], NOW, LEASE, 1)
    assert row.key.name == "pause"
    await other.close()


async def test_with_more_shards_what_waits_moves_once_nobody_works(url: str, store: PostgresStore) -> None:
    systems = ["metrics", "trading", "ledger", "quotes"]
    ownership = await store.acquire(0, "a", LEASE)
    assert ownership is not None
    owner = Owner(ownership)
    messages = tuple(out("one") for _ in range(2))
    await store.commit(owner.batch(timers=(timer("deadline"),), outbox=messages))
    await store.signal([NewSignal(name, name) for name in systems])
    with pytest.raises(Misconfigured, match="RELIGHT_SHARDS"):
        await PostgresStore.connect(url, shards=4)
    assert len((await store.pending(0, NOW, 10))[0]) == 4
    await store.release(ownership)
    wide = await PostgresStore.connect(url, shards=4)
    for shard in range(4):
        signals, timers = await wide.pending(shard, NOW, 10)
        assert [one.body for one in signals] == [name for name in systems if shard_of(name, 4) == shard]
        mine = shard_of("metrics", 4) == shard
        assert timers == ((timer("deadline"),) if mine else ())
        assert [row.message for row in await wide.unsent(shard, 10)] == (list(messages) if mine else [])
    assert await store.acquire(0, "a", LEASE) is None  # it still counts one shard
    visitor = await PostgresStore.visit(url)
    await visitor.signal([says("from the command line")])
    [*_, last] = (await wide.pending(shard_of("metrics", 4), NOW, 10))[0]
    assert last.body == says("from the command line").body
    await visitor.close()
    await wide.close()


async def test_a_command_may_come_before_the_first_replica(url: str) -> None:
    visitor = await PostgresStore.visit(url)
    await visitor.signal([says("early")])
    store = await PostgresStore.connect(url, shards=4)
    [signal] = (await store.pending(shard_of("metrics", 4), NOW, 10))[0]
    assert signal.body == says("early").body
    await visitor.close()
    await store.close()


FILL = """
INSERT INTO relight.instances SELECT 'alert/s' || n || '/m', 's' || n, 'alert', 1, 'c0ffee', 1, 1, 'normal', 1, now(),
    NULL, NULL, '{}', '', 0 FROM generate_series(1, 20000) n;
INSERT INTO relight.steps SELECT 'run/s' || n || '/r', 1, 'pause', 's' || n, 'local', 0, '{}', 'done', 'pausing',
    'c0ffee', 1, NULL, NULL, NULL, NULL, NULL, '{}', NULL FROM generate_series(1, 20000) n;
INSERT INTO relight.timers SELECT 'run/s' || n || '/r', 'deadline', 1, now() + interval '1 day', n % 8
    FROM generate_series(1, 20000) n;
INSERT INTO relight.signals (shard, system, body, local) SELECT n % 8 + 1, 's', '{}', false
    FROM generate_series(1, 20000) n;
INSERT INTO relight.outbox (shard, exchange, routing_key, message_id, body) SELECT n % 8 + 1, 'x', 's.y', n::text, '{}'
    FROM generate_series(1, 20000) n;
INSERT INTO relight.inbox SELECT 'svc', 'old-' || n, '\\x00', '{}', now() FROM generate_series(1, 20000) n;
INSERT INTO relight.log SELECT 'alert/s' || n || '/m', 1, 1, 'transition', now(), 'a', 'b', 'svc', 'e', 't', NULL, NULL,
    NULL, 1, 'c0ffee', '{}', '', '' FROM generate_series(1, 20000) n;
INSERT INTO relight.attempts SELECT 'svc', 'old-' || n, 1 FROM generate_series(1, 20000) n;
INSERT INTO relight.observations SELECT 'alert/s' || n || '/m', now(), 1, 1 FROM generate_series(1, 20000) n;
"""

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'relight'"

SCANS = """
SELECT relname, seq_scan FROM pg_stat_user_tables
WHERE schemaname = 'relight' AND relname NOT IN ('settings', 'migrations', 'shards')
"""


@pytest.mark.parametrize("planned_while_small", [True, False])
async def test_events_and_steps_never_read_a_table_through(url: str, sql: Any, planned_while_small: bool) -> None:
    await (await PostgresStore.connect(url)).close()  # the first of all settles the shards, and may look everywhere
    before = await scans(sql)
    store = await PostgresStore.connect(url, writers=1, others=1)
    owner = await owner_of(store)
    if planned_while_small:
        for seq in range(1, 9):
            await use_everything(store, owner, seq)
    await sql.execute(FILL)
    if not planned_while_small:
        await sql.execute("ANALYZE")
    for seq in range(9, 17) if planned_while_small else range(1, 9):
        await use_everything(store, owner, seq)
    await store.close()
    assert await scans(sql) == before


async def test_sent_rows_are_deleted_without_looking_at_what_was_deleted_before(url: str, sql: Any) -> None:
    """A flood deletes faster than anybody vacuums: what a commit costs may not grow with it."""
    await sql.execute("ALTER TABLE relight.outbox SET (autovacuum_enabled = false)")
    looked = []
    for deleted in (1, 100):
        store = await PostgresStore.connect(url, writers=1)
        owner = await owner_of(store)
        for _ in range(deleted):
            sent = await store.commit(owner.batch(outbox=tuple(out(str(number)) for number in range(200))))
            before = await index_blocks(store, sql)
            await store.commit(owner.batch(sent=sent))
        looked.append(await index_blocks(store, sql) - before)
        await store.close()
    assert looked[1] <= looked[0] + 10, "beside the few leaves of these 200 rows"


async def index_blocks(store: PostgresStore, sql: Any) -> int:
    """Blocks of the outbox's index that were looked at, once the writing session has told its own."""
    await store._writers.value("SELECT pg_stat_force_next_flush()")
    await store._writers.value("SELECT 1")
    found = await sql.fetchval(
        "SELECT idx_blks_hit + idx_blks_read FROM pg_statio_user_tables WHERE relname = 'outbox'"
    )
    return int(found)


async def scans(sql: Any) -> dict[str, int]:
    """Sequential scans by table, once every session of a store has ended and told its own."""
    for _ in range(200):
        if not await sql.fetchval(SESSIONS):
            return {row["relname"]: row["seq_scan"] for row in await sql.fetch(SCANS)}
        await asyncio.sleep(0.05)
    raise AssertionError("the store's sessions do not end")


async def use_everything(store: PostgresStore, owner: Owner, seq: int) -> None:
    """Every statement of the two hot ways, once."""
    token = owner.lease.token
    await store.prepare(0, [event("new"), event("newer")], [LIFECYCLE, ALERT], ["metrics"])
    rows = (step("pause", entry=seq), step("flush", entry=seq), step("later", StepStatus.PLANNED, entry=seq))
    deadline = timer("deadline", NOW, entry=seq)
    moved = snapshot(seq, deadline_at=NOW + MINUTE)
    first, second = await store.commit(
        owner.moved(
            seq,
            snapshot=moved,
            log=(log(seq, at=datetime.now(UTC)),),
            leave=((LIFECYCLE, seq - 1),),
            steps_new=rows,
            timers=(deadline,),
            outbox=(out("one"), out("two")),
            observations=(Observation(ALERT, NOW, 1, 1.0),),
        )
    )
    await store.renew(owner.lease, LEASE)
    await store.count_attempt(0, token, event(f"tried-{seq}"))
    await store.undeliverable(0, token, first, "full")
    await store.unsent(0, 10)
    waiting, done = await store.claim("w", ["local", "m2"], NOW, LEASE, 10)
    await store.renew_claim(done, LEASE)
    await store.taken([waiting, done])
    await store.let_go(done)
    await store.context(done)
    await store.wait(waiting, NOW + MINUTE, says("waiting"))
    await store.finish(done, StepStatus.DONE, {}, None, None, says("done"))
    signals, timers = await store.pending(0, NOW, 10)
    await store.next_timer(0)
    answer = StepChange(waiting.key, None, answer={"outcome": "done"})
    await store.commit(
        owner.batch(
            sent=(second,),
            signals_done=tuple(one.id for one in signals),
            timers_fired=timers,
            step_changes=(answer, StepChange(rows[2].key, StepStatus.WAIVED)),
        )
    )
