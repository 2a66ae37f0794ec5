"""One long night: the real process is killed at every crash point under load, restarted, and judged from outside."""

import signal
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from service.crash import POINTS
from tests.faults.checker import check
from tests.faults.evidence import Verdict
from tests.faults.harness import METRICS, Stage
from tests.servers import Databases, Vhosts, unique

one_loop = pytest.mark.asyncio(loop_scope="module")
"""The load goes on while one test ends and the next begins."""

PASSAGES = {
    "intake.before_commit": 15,
    "intake.after_commit": 20,
    "intake.after_ack": 25,
    "outbox.before_publish": 10,
    "outbox.after_confirm": 15,
    "outbox.after_delete": 10,
    "runner.after_claim": 4,
    "runner.after_effect": 6,
    "runner.after_record": 8,
    "owner.after_acquire": 1,
    "owner.after_release": 1,
}
"""At which passage each place kills: late enough that the process is in the middle of its work, and of a restart."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def night(databases: Databases, vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """A stage whose load goes on from the first kill to the last."""
    name = unique("night")
    postgres_url, amqp_url = await databases.create_database(name), await vhosts.add_vhost(name)
    stage = Stage(tmp_path_factory.mktemp("night"), postgres_url, amqp_url, urlsplit(amqp_url).username or "guest")
    try:
        await stage.prepare()
        await stage.start()
        await stage.until("operational for the first time", lambda: _is(stage, "operational"))
        await stage.load.connect()
        stage.load.begin(metrics=METRICS, pause=0.015, restart_every=1.0)
        stage.process.kill() if stage.process else None
        await stage.died()
        yield stage
    finally:
        await stage.load.close()
        await stage.end()
        await databases.drop_database(name)
        await vhosts.delete_vhost(name)


async def _is(stage: Stage, state: str) -> bool:
    return await stage.state() == state


def test_every_crash_point_is_visited() -> None:
    assert PASSAGES.keys() <= POINTS.keys()


@one_loop
@pytest.mark.parametrize("place", PASSAGES)
async def test_process_dies_there_and_the_next_one_takes_over(night: Stage, place: str) -> None:
    await night.start(f"{place}:{PASSAGES[place]}")
    if place == "owner.after_release":
        await night.until("a shard owned", lambda: _owned(night))
        before = await night.value("SELECT count(*) FROM relight.log")
        await night.until("something decided", lambda: _more(night, before))
        assert night.process is not None
        night.process.send_signal(signal.SIGTERM)
    assert await night.died() == -signal.SIGKILL, night.last_words()
    before = await night.value("SELECT count(*) FROM relight.log")
    await night.start()
    await night.until("the next owner goes on with the load", lambda: _more(night, before + 5))
    night.process.kill() if night.process else None
    assert await night.died() == -signal.SIGKILL


async def _owned(stage: Stage) -> bool:
    return bool(await stage.value("SELECT count(*) FROM relight.shards WHERE until > now()"))


async def _more(stage: Stage, before: int) -> bool:
    return bool(await stage.value("SELECT count(*) > $1 FROM relight.log", before))


@one_loop
async def test_after_all_kills_the_checker_finds_nothing(night: Stage) -> None:
    await night.start()
    await night.load.stop()
    await night.rest()
    assert await night.state() == "operational"
    wished = await night.load.restart("one more, undisturbed")
    await night.until("the last restart", lambda: _finished(night, wished))
    await night.rest()
    evidence = await night.evidence()
    findings = check(evidence)
    assert not findings, "\n".join(map(str, findings[:20]))
    # A night in which little happened would prove little.
    assert sum(event.verdict is Verdict.CONFIRMED for event in evidence.published) > 100
    assert len(evidence.log) > 100
    assert {effect.what for effect in evidence.effects} == {"start", "stop", "pause", "flush", "resume"}


async def _finished(stage: Stage, wished: str) -> bool:
    query = """
        SELECT count(*) FROM relight.log later JOIN relight.log asked USING (instance)
        WHERE asked.event_id = $1 AND later.seq > asked.seq AND later.state_to = 'operational'
    """
    return bool(await stage.value(query, wished))
