"""Restarts of a real system while a critical operation runs in its database: waited for, named, never cut through."""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
import yaml

from tests.acceptance.terminal import ME, WHY, paste, relight, says, stands
from tests.faults.harness import SYSTEM, Stage
from tests.servers import Databases, Vhosts, unique

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

LIFECYCLE = f"lifecycle/{SYSTEM}"
QUIET = "preparing_for_restart.awaiting_quiet"
RUNNING = "select string_agg(name, ', ') from settlements where state = 'running'"
FIRST = "- [x] Verify no critical operations in progress: "


@dataclass
class Bank:
    """The system, and the session of somebody else who settles in its database."""

    stage: Stage
    session: asyncpg.Connection

    async def begin(self, name: str) -> None:
        await self.session.execute("insert into settlements values ($1, 'running')", name)

    async def finish(self) -> None:
        await self.session.execute("update settlements set state = 'done'")

    async def restart(self) -> str:
        """Asks for a restart; what `relight status` says once it waits for the operation."""
        await relight(self.stage, "restart", SYSTEM, "--reason", "tonight")
        return await says(self.stage, "interlock is being performed", "again after: sql work: expected None")

    def pids(self) -> dict[str, int]:
        folder = self.stage.folder / "home" / "processes"
        found = {name: folder / f"{SYSTEM}.{name}" / "state.json" for name in ("worker", "front")}
        return {name: int(json.loads(file.read_text())["pid"]) for name, file in found.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bank(databases: Databases, vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bank]:
    name, work = unique("critical"), unique("work")
    postgres_url, work_url = await databases.create_database(name), await databases.create_database(work)
    amqp_url = await vhosts.add_vhost(name)
    stage = Stage(tmp_path_factory.mktemp("critical"), postgres_url, amqp_url, urlsplit(amqp_url).username or "guest")
    described = yaml.safe_load(stage.file.read_text())
    described["databases"] = {"work": {"url": "file:work"}}
    described["restart"]["critical"] = [{"sql": "work", "query": RUNNING, "is": None}]
    # One story waits until it is over, the others must have read and written before it is.
    described["restart"]["limits"]["critical"] = "25s"
    stage.file.write_text(yaml.safe_dump(described))
    (stage.file.parent / "work").write_text(work_url)
    async with contextlib.AsyncExitStack() as stack:
        for drop in (databases.drop_database(work), databases.drop_database(name), vhosts.delete_vhost(name)):
            stack.push_async_callback(_wait_for, drop)
        stack.push_async_callback(stage.end)
        session = await asyncpg.connect(work_url, timeout=10)
        stack.push_async_callback(session.close)
        await session.execute("create table settlements (name text, state text)")
        await stage.prepare()
        await stage.start()
        await stage.until("ready", stage.ready)
        await stands(stage, "operational")
        yield Bank(stage, session)


async def _wait_for(work: Any) -> None:
    await work


async def test_critical_operation_is_named_and_waited_for_and_then_the_restart_goes_on(bank: Bank) -> None:
    before = bank.pids()
    await bank.begin("settlement 4711")
    text = await bank.restart()
    assert f"{LIFECYCLE} " in text
    assert QUIET in text
    assert "found 'settlement 4711'" in text
    assert "then: give the restart up and resume" in text
    assert bank.pids() == before
    await bank.finish()
    await stands(bank.stage, "shutting_down", "starting_up.initializing", "starting_up.verifying", "operational")
    await stands(bank.stage, "operational")
    assert bank.pids() != before
    report = await relight(bank.stage, "report", LIFECYCLE)
    (line,) = (line for line in report.splitlines() if line.startswith(FIRST))
    assert "✓ proven by interlock (sql work null at " in line
    assert "finding to the contrary" in line


async def test_critical_operation_that_does_not_end_gives_the_restart_up_and_nothing_was_stopped(bank: Bank) -> None:
    before = bank.pids()
    await bank.begin("settlement 4712")
    await bank.restart()
    await stands(bank.stage, "operational")
    assert bank.pids() == before
    text = await says(bank.stage, "the last restart was given up", f"in {QUIET}; nothing was stopped")
    assert "interlock: " in text
    assert "found 'settlement 4712'" in text
    await bank.finish()


async def test_waived_interlock_goes_on_without_it_and_ends_degraded(bank: Bank) -> None:
    before = bank.pids()
    await bank.begin("settlement 4713")
    text = await bank.restart()
    await paste(bank.stage, text, "waive", step="interlock")
    await stands(bank.stage, "degraded")
    assert bank.pids() != before
    await says(bank.stage, f"{ME} waived interlock ({WHY}) until")
    report = await relight(bank.stage, "report", LIFECYCLE)
    (line,) = (line for line in report.splitlines() if "Verify no critical operations in progress" in line)
    assert line.startswith("- [ ]")
    assert line.endswith(f"✗ interlock was waived by {ME}: {WHY}")
    await bank.finish()
    await paste(bank.stage, await says(bank.stage, "for ever: degraded"), "adopt")
    await stands(bank.stage, "operational")
