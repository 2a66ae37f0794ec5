"""Relight's own database is restored from an older backup: nothing goes on by itself, and a person is called.

The real `serve`, real servers, and a real pg_dump of Relight's own tables.
"""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiormq
import asyncpg
import pytest

from service.adapters.postgres import migrate
from service.embedded.programs import postgres_programs
from tests.faults.checker import check
from tests.faults.checker.validity import every_instance_answers
from tests.faults.evidence import Probe, Run, Strike
from tests.faults.harness import SYSTEM, Stage
from tests.faults.load import status_log

LIFECYCLE = f"lifecycle/{SYSTEM}"
LOST = "halted.database_lost"


@dataclass
class House:
    """One system under one Relight whose database can be put back."""

    stage: Stage
    backup: Path
    began: float

    async def back_up(self) -> None:
        """As a backup does: beside the running Relight, and of one moment."""
        await self._run("pg_dump", "--format=custom", "--schema=relight", f"--file={self.backup}")

    async def restore(self) -> None:
        await drop_tables(self.stage)
        await self._run("pg_restore", "--no-owner", str(self.backup))

    async def _run(self, program: str, *words: str) -> None:
        command = [str(postgres_programs() / program), f"--dbname={self.stage.postgres_url}", *words]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    async def killed(self) -> None:
        assert self.stage.process is not None
        self.stage.process.kill()
        await self.stage.died()

    async def comes_to(self, state: str, within: float = 40.0) -> None:
        async def there() -> bool:
            return await self.stage.state() == state

        await self.stage.until(f"it stands {state}", there, within)

    async def restarted(self, reason: str) -> str:
        """A whole restart; the id of the event that asked for it."""
        wished = await self.stage.load.restart(reason)
        await self.stage.until(f"the restart {reason!r}", lambda: self.stage.came_up_after(wished), 60)
        await self.stage.rest()
        return wished

    def run(self, over: float, probes: list[Probe]) -> Run:
        """What was done to the service, its last fault over at `over` (Unix time), and who was asked afterwards."""
        return Run(self.began, over, [Strike("a restored database", hit=True)], frozenset(), 0.0, probes)

    async def judged(self, restored: float, probes: list[Probe]) -> None:
        """Asserts that the checker finds nothing in a run whose last fault was over at `restored` (Unix time)."""
        findings = check(await self.stage.evidence(self.run(restored, probes)))
        assert not findings, "\n".join(map(str, findings))

    async def epoch(self) -> int:
        found: int = await self.stage.value("SELECT epoch FROM relight.settings")
        return found

    async def act(self, what: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self.stage.command, "act", LIFECYCLE, what, "--reason", "looked at it")

    async def status(self) -> str:
        return (await asyncio.to_thread(self.stage.command, "status", COLUMNS="300")).stdout

    async def lost(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(
            await self.stage.value("SELECT data FROM relight.instances WHERE instance = $1", LIFECYCLE)
        )["lost"]
        return data

    def effects(self) -> list[str]:
        return self.stage.effects.read_text().splitlines()


@pytest.fixture
async def house(postgres_url: str, amqp_url: str, tmp_path: Path) -> AsyncIterator[House]:
    stage = Stage(tmp_path / "house", postgres_url, amqp_url, urlsplit(amqp_url).username or "guest")
    here = House(stage, tmp_path / "relight.dump", time.time())
    try:
        await stage.prepare()
        await stage.start()
        await here.comes_to("operational")
        await stage.load.connect()
        yield here
    finally:
        await stage.load.close()
        await stage.end()


async def test_restored_database_moves_nothing_calls_a_person_and_goes_on_once_somebody_has_adopted(
    house: House,
) -> None:
    stage = house.stage
    await house.restarted("before the backup")
    await house.back_up()
    forgotten = await house.restarted("after the backup")
    warned = await stage.load.publish("metric.observed", {"metric": "m0", "value": 95.0}, f"alert/{SYSTEM}/m0")
    await stage.rest()
    told_before = {(note.data["instance"], note.data["epoch"], note.data["seq"]) for note in await heard(stage)}
    await house.killed()
    await house.restore()
    restored = time.time()
    before = house.effects()
    kept = await rows(stage)
    gone = told_before - kept
    assert gone, "the story needs something that is lost"

    await stage.start()
    await house.comes_to(LOST)
    probes = await stage.ask_everybody(restored)
    await stage.rest()

    assert await house.epoch() == 2
    assert house.effects() == before, "something was stopped, started or told by a Relight that knows less than it did"
    lost = await house.lost()
    assert lost["rows"] == len(gone)
    assert {event["id"] for event in lost["events"]} == {forgotten, warned}
    shown = await house.status()
    assert f"{len(gone)} published rows of {SYSTEM} are missing" in shown
    assert f"relight act {LIFECYCLE} adopt" in shown
    assert "retry" not in shown
    said = [note for note in await heard(stage) if note.data["epoch"] == 2 and note.type == "transition"]
    assert [note.data["to"] for note in said if note.data["instance"] == LIFECYCLE] == [LOST]
    waits = [note for note in await status_log(stage.amqp_url) if note.type == "wait" and note.data["state"] == LOST]
    assert any("adopt" in act for note in waits for act in note.data["acts"])
    assert stage.said("owner.found_loss") == 1

    refused = await stage.load.restart("too early")
    await stage.until("an answer", lambda: inbox(stage, refused))
    assert (await outcome(stage, refused)) == {LIFECYCLE: "refused"}
    assert (await house.act("retry")).returncode != 0

    assert (await house.act("adopt")).returncode == 0
    await house.comes_to("operational")
    await house.restarted("after the loss")
    assert await house.epoch() == 2
    await house.judged(restored, probes)


@pytest.mark.faults
async def test_database_restored_to_the_middle_of_a_restart_performs_none_of_its_steps(house: House) -> None:
    stage = house.stage
    await stage.load.restart("in the middle")
    await stage.until("the stopping", lambda: logged(stage, "shutting_down"), 30)
    await house.back_up()
    await house.comes_to("operational")
    await stage.rest()
    await house.killed()
    await house.restore()
    restored = time.time()
    before = house.effects()
    await stage.start()
    await house.comes_to(LOST)
    probes = await stage.ask_everybody(restored)
    await stage.rest()
    assert house.effects() == before
    open_steps = (
        "SELECT count(*) FROM relight.steps WHERE status IN ('ready', 'running', 'waiting', 'planned', 'unknown')"
    )
    assert await stage.value(open_steps) == 0
    assert (await house.act("adopt")).returncode == 0
    await house.comes_to("operational")
    await stage.rest()
    await house.judged(restored, probes)


@pytest.mark.faults
async def test_new_database_where_the_stream_knows_the_system_is_a_loss_that_one_adopt_accepts(house: House) -> None:
    stage = house.stage
    await house.killed()
    before = house.effects()
    await drop_tables(stage)
    await migrate(stage.postgres_url)
    restored = time.time()
    await stage.start()
    await house.comes_to(LOST)
    probes = await stage.ask_everybody(restored)
    assert await house.epoch() == 2
    assert house.effects() == before
    assert (await house.act("adopt")).returncode == 0
    await house.comes_to("operational")
    since = [json.loads(line)["what"] for line in house.effects()[len(before) :]]
    assert not {"start", "stop"} & set(since), "what runs already is found, and neither stopped nor started"
    await stage.rest()
    await house.judged(restored, probes)


@pytest.mark.faults
@pytest.mark.parametrize("how", ["killed", "ended"])
async def test_ordinary_ends_and_a_stream_without_its_past_are_no_loss(house: House, how: str) -> None:
    stage = house.stage
    await house.restarted("once")
    for _ in range(2):
        if how == "killed":
            await stage.load.restart("on the way")
            await asyncio.sleep(0.5)
            await house.killed()
        else:
            await stage.stop()
        await stage.start()
        await stage.until("it takes the shard over", stage.ready)
        await stage.rest()
    await stage.stop()
    await trimmed(stage.amqp_url)
    over = time.time()
    await stage.start()
    await stage.until("it takes the shard over", stage.ready)
    # The other promises are not judged here: what the stream was to have told is no longer in it.
    evidence = await stage.evidence(house.run(over, await stage.ask_everybody(over)))
    assert not list(every_instance_answers(evidence))
    await house.restarted("with an empty stream")
    assert await house.epoch() == 1
    assert stage.said("owner.found_loss") == 0
    assert not await stage.value("SELECT count(*) FROM relight.log WHERE epoch > 1")


# --- what is read


async def heard(stage: Stage) -> list[Any]:
    """Each notification of a log row, once."""
    found = {note.id: note for note in await status_log(stage.amqp_url) if note.data.get("seq") is not None}
    return list(found.values())


async def drop_tables(stage: Stage) -> None:
    connection = await asyncpg.connect(stage.postgres_url, timeout=10, command_timeout=30)
    await connection.execute("DROP SCHEMA relight CASCADE")
    await connection.close(timeout=10)


async def rows(stage: Stage) -> set[tuple[str, int, int]]:
    connection = await asyncpg.connect(stage.postgres_url, timeout=10, command_timeout=30)
    found = await connection.fetch("SELECT instance, epoch, seq FROM relight.log")
    await connection.close(timeout=10)
    return {tuple(row) for row in found}


async def logged(stage: Stage, state: str) -> bool:
    return bool(await stage.value("SELECT count(*) FROM relight.log WHERE state_to = $1", state))


async def inbox(stage: Stage, event: str) -> bool:
    return bool(await stage.value("SELECT count(*) FROM relight.inbox WHERE id = $1", event))


async def outcome(stage: Stage, event: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(
        await stage.value("SELECT outcomes::text FROM relight.inbox WHERE id = $1", event)
    )
    return found


async def trimmed(amqp_url: str) -> None:
    """The stream begins anew, as if its age had taken all that it held."""
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    await channel.queue_delete("relight.status.log")
    await connection.close()
