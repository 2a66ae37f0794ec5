"""Bugs of the transaction, the acknowledgement and the SQL, planted into the real `serve` and caught by their names."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from _pytest.mark import ParameterSet

from tests.faults import planted
from tests.faults.checker import Fault, Finding, check
from tests.faults.evidence import Run, Strike
from tests.faults.harness import METRICS, Stage, staged
from tests.servers import Databases, Vhosts
from tests.serving import ROOT

TAKEN_OVER = "the shard taken over by somebody else"
RATE = 5.0
"""Events a second that must be confirmed while a bug is at work: a tenth of what is published."""

PLANTED: dict[str, tuple[str, Fault]] = {
    "ack_before_commit": ("intake.before_commit:20", Fault.LOST_EVENT),
    "notifications_outside_of_the_transaction": ("intake.before_commit:40", Fault.MISSING_NOTIFICATION),
    "outbox_row_deleted_before_its_confirm": ("outbox.before_publish:20", Fault.MISSING_NOTIFICATION),
    "seq_repeated": ("intake.after_ack:40", Fault.GAP_IN_SEQ),
    "claim_of_what_somebody_is_at": ("intake.after_ack:40", Fault.STOLEN_CLAIM),
    "lease_token_not_checked": (TAKEN_OVER, Fault.OLD_TOKEN),
}
"""Each bug of `planted.py`: what happens to the run, and the finding by which it must be caught."""

EVERY_DAY = frozenset({"ack_before_commit", "lease_token_not_checked", TAKEN_OVER})
"""What every run of the tests shows; each takes some ten seconds of two processors, so that the others wait for
`--faults`."""

HONEST = ("intake.before_commit:20", "outbox.before_publish:20", TAKEN_OVER)


class Wrong(Stage):
    """A stage whose serve has a bug: `none` for one that has none."""

    bug = "none"

    async def start(self, crash_at: str | None = None, **more: str) -> None:
        environment = self.environment(**more) | ({"RELIGHT_CRASH_AT": crash_at} if crash_at else {})
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.faults.planted", self.bug, "serve", "--systems", str(self.file),
                cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip


@asynccontextmanager
async def spoilt(databases: Databases, vhosts: Vhosts, folder: Path, bug: str) -> AsyncIterator[Wrong]:
    """A system that is up, watched and under load; the bug comes with the next life of serve."""
    async with staged(folder, databases, vhosts, Wrong) as stage:
        await stage.start()
        await stage.until("operational", lambda: _operational(stage))
        await stage.watch()
        await stage.load.connect()
        stage.load.begin(metrics=METRICS, pause=0.02, restart_every=2.0)
        assert stage.process is not None
        stage.process.kill()
        await stage.died()
        stage.bug = bug
        if bug in planted.SQL:
            await execute(stage, planted.SQL[bug])
        yield stage


async def _operational(stage: Stage) -> bool:
    return await stage.state() == "operational"


async def execute(stage: Stage, statement: str) -> None:
    connection = await asyncpg.connect(stage.postgres_url, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=10)


async def suffer(stage: Wrong, fault: str) -> list[Finding]:
    """One fault in the middle of the load, then an end in peace, and what the checker says of it all."""
    began = time.time()
    if fault == TAKEN_OVER:
        before = await stage.value("SELECT count(*) FROM relight.log")
        await stage.start()
        await stage.until("it decides", lambda: _decided(stage, before + 20))
        await execute(
            stage,
            "UPDATE relight.shards SET owner = 'another', token = relight.next_token(),"
            " until = clock_timestamp() + interval '2 s'",
        )
        before = await stage.value("SELECT count(*) FROM relight.log")
        await stage.until("somebody goes on", lambda: _decided(stage, before + 20))
    else:
        await stage.start(fault)
        await stage.died()
        await stage.start()
    last_fault = time.time()
    await stage.until("ready", stage.ready)
    await stage.load.stop()
    probes = await stage.ask_everybody(last_fault)
    try:
        await stage.rest(20.0)
    except AssertionError:
        # With a bug it may never rest; without one it is found in what is left.
        if stage.bug == "none":
            raise
    place = fault.split(":", maxsplit=1)[0]
    places = frozenset({place} if ":" in fault else ())
    run = Run(began, last_fault, [Strike(place, hit=True)], places, RATE, probes)
    return check(await stage.evidence(run))


async def _decided(stage: Stage, count: int) -> bool:
    return bool(await stage.value("SELECT count(*) >= $1 FROM relight.log", count))


def _now_or_in_long_runs(names: Iterable[str]) -> list[ParameterSet]:
    return [pytest.param(one, marks=() if one in EVERY_DAY else pytest.mark.faults) for one in names]


@pytest.mark.parametrize("fault", _now_or_in_long_runs(HONEST))
async def test_serve_without_a_bug_is_found_to_have_none(
    fault: str, databases: Databases, vhosts: Vhosts, tmp_path: Path
) -> None:
    async with spoilt(databases, vhosts, tmp_path, "none") as stage:
        found = await suffer(stage, fault)
    assert not found, "\n".join(map(str, found[:20]))


@pytest.mark.parametrize("bug", _now_or_in_long_runs(PLANTED))
async def test_planted_bug_is_caught_by_its_name(
    bug: str, databases: Databases, vhosts: Vhosts, tmp_path: Path
) -> None:
    fault, name = PLANTED[bug]
    async with spoilt(databases, vhosts, tmp_path, bug) as stage:
        found = await suffer(stage, fault)
    assert name in {finding.fault for finding in found}, f"found only {[str(one) for one in found[:20]]}"


def test_every_bug_that_can_be_planted_is() -> None:
    assert PLANTED.keys() == planted.BUGS.keys()
