"""The wall clock jumps forward and back under a running serve, while PostgreSQL's stays right: leases do not care.

It is set through the Clock port, by `clocked`: decision 0025 says why not beneath Python.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from tests.faults import clocked, doubles
from tests.faults.harness import SYSTEM
from tests.faults.scene import BACK, LIFECYCLE, Scene, scene
from tests.servers import Databases, Vhosts

one_loop = pytest.mark.asyncio(loop_scope="module")

HOUR = 3600
LASTING = "lasting"
"""A measurement whose alert waits for a second."""


class Clocked(Scene):
    """A scene whose serve has a clock that can be set, and whose worker can be held up while it is told to pause."""

    @property
    def off(self) -> Path:
        """Holds by how many seconds the clock is off."""
        return self.folder / "clock"

    @property
    def hold(self) -> Path:
        """While this file exists, the worker's pause does not end."""
        return self.folder / "hold"

    def set(self, seconds: int) -> None:
        """Relight's wall clock is off by so many seconds from now on."""
        aside = self.off.with_suffix(".new")
        aside.write_text(f"{seconds:+d}")
        aside.replace(self.off)

    def describe_slow(self) -> None:
        """The stage's system with an alert that lasts, and a pause that can be held up."""
        system = yaml.safe_load(self.file.read_text())
        tell = [sys.executable, "-E", "-S", str(Path(doubles.__file__ or "").resolve()), "pause"]
        held = 'while [ -e "$0" ]; do sleep 0.05; done; exec "$@"'
        system["components"]["worker"]["participant"]["pause"] = {"command": ["sh", "-c", held, str(self.hold), *tell]}
        system["alerts"].append({"metric": LASTING, "warning": 70, "critical": 90, "for": "1s"})
        self.file.write_text(yaml.safe_dump(system))

    @asynccontextmanager
    async def held_in_its_pause(self) -> AsyncIterator[str]:
        """Under load, with a restart that stands in the middle of its pause; the id of the event that asked for it."""
        self.hold.touch()
        try:
            async with self.under_load(restart_every=HOUR):
                await self.until("the worker is told to pause", self.is_pausing, BACK)
                query = (
                    "SELECT event_id FROM relight.log WHERE event_type = $1 AND instance = $2 ORDER BY seq DESC LIMIT 1"
                )
                yield await self.value(query, "relight.restart.requested", LIFECYCLE)
        finally:
            self.hold.unlink(missing_ok=True)

    async def is_pausing(self) -> bool:
        query = "SELECT count(*) > 0 FROM relight.steps WHERE instance = $1 AND name = $2 AND status = 'running'"
        return bool(await self.value(query, LIFECYCLE, "pause:worker"))

    async def went(self, wished: str, event_type: str, to: str) -> bool:
        """Whether after that event the lifecycle went there for that reason."""
        query = """
            SELECT count(*) > 0 FROM relight.log later JOIN relight.log asked USING (instance)
            WHERE asked.event_id = $1 AND later.seq > asked.seq AND later.event_type = $2 AND later.state_to = $3
        """
        return bool(await self.value(query, wished, event_type, to))

    async def is_off(self) -> timedelta:
        """By how much the lifecycle's newest row, at Relight's time, is ahead of PostgreSQL's clock."""
        query = "SELECT at - clock_timestamp() FROM relight.log WHERE instance = $1 ORDER BY seq DESC LIMIT 1"
        found: timedelta = await self.value(query, LIFECYCLE)
        return found

    async def measured(self, value: float) -> None:
        await self.load.publish("metric.observed", {"metric": LASTING, "value": value}, f"alert/{SYSTEM}/{LASTING}")

    async def alert_is(self, state: str) -> bool:
        query = "SELECT state FROM relight.instances WHERE instance = $1"
        return bool(await self.value(query, f"alert/{SYSTEM}/{LASTING}") == state)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(
    databases: Databases, vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Clocked]:
    async with scene(tmp_path_factory.mktemp("clocks") / "a", databases, vhosts, Clocked) as stage:
        stage.describe_slow()
        stage.set(0)
        stage.program = ("-m", clocked.__name__)
        await stage.begin(**{clocked.VARIABLE: str(stage.off)})
        yield stage


@one_loop
async def test_hour_forward_passes_the_deadline_of_a_restart_which_is_given_up_and_the_lease_stays(
    stage: Clocked,
) -> None:
    async with stage.held_in_its_pause() as wished:
        stage.set(HOUR)
        resuming = "preparing_for_restart.resuming"
        await stage.until("it is given up", lambda: stage.went(wished, "relight.timer.fired", resuming), BACK)
        await stage.until("operational again", stage.is_operational, BACK)
    assert stage.said("owner.lost") == 0
    assert await stage.is_off() > timedelta(minutes=50)


@one_loop
async def test_hour_back_in_a_restart_lets_it_go_on_and_what_begins_then_has_its_time(stage: Clocked) -> None:
    async with stage.held_in_its_pause() as wished:
        stage.set(-HOUR)
        stage.hold.unlink()
        await stage.until("it has ended", lambda: stage.went(wished, "relight.step.reported", "operational"), BACK)
        await stage.measured(95.0)
        await stage.until("an alert that waits for a second", lambda: stage.alert_is("critical"), BACK)
    assert stage.said("owner.lost") == 0
    assert await stage.is_off() < -timedelta(minutes=50)


@one_loop
async def test_clock_that_is_right_again_leaves_nothing_behind(stage: Clocked) -> None:
    stage.set(0)
    stage.over("a clock that was wrong")
    async with stage.under_load():
        await stage.measured(10.0)
        await stage.until("the alert is over", lambda: stage.alert_is("normal"), BACK)
    await stage.judged()
