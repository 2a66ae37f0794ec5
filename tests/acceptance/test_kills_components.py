"""The components of a system are killed in every phase of its restart, and so is the trading database that one of them
runs. What died is Relight's own business, or a person's with the printed command. One system lives through the file.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from service.embedded import RabbitServer
from tests.acceptance.harness import moved_in
from tests.acceptance.killing import Phase, Promise, Stage, expected
from tests.acceptance.victims import Component, TradingDatabase, Victim
from tests.servers import Databases, reachable_directory

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150), pytest.mark.asyncio(loop_scope="module")]

PHASES = tuple(Phase)[1:]
ON, BACK, EITHER, DEGRADED, HALTED, ADOPTED = Promise
PROMISES: dict[str, tuple[Promise | None, ...]] = {
    #                 notifying preserving resuming shutting_down initializing verifying restoring
    "trading-server": (DEGRADED, None, DEGRADED, None, HALTED, None, ADOPTED),
    "trading-database": (None, DEGRADED, None, ON, None, HALTED, None),
    "calculator": (ON, ON, DEGRADED, ON, HALTED, HALTED, HALTED),
    "reporter": (ON, ON, DEGRADED, ON, ON, HALTED, ADOPTED),
}
"""None: the trading-server and its database end with each other, so in each phase one of them is killed. In restoring
the last look finds whoever died after its own last step; a retry starts the calculator with what it flushed, and is not
offered where the calculator works on past that.
"""
MOMENTS = {
    ("trading-server", Phase.NOTIFYING): "backup:",
    ("trading-server", Phase.INITIALIZING): "start:calculator",
    ("calculator", Phase.INITIALIZING): "start:reporter",
}
"""Where the kill waits for a step; elsewhere it is at the entry."""
BESIDE = frozenset({("reporter", Phase.RESUMING), ("reporter", Phase.INITIALIZING), ("reporter", Phase.VERIFYING)})
"""It dies beside another there; what its death alone leads to is shown where it dies in restoring."""
FORGOTTEN = frozenset(("calculator", phase) for phase in PHASES[:3])
"""What it holds is its memory, and a crash before the flush loses that: the metrics begin anew."""
EXPECTED = expected(PROMISES, PHASES)
STORIES = 16
"""At most: those after the last pair are skipped."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(databases: Databases, rabbit_server: RabbitServer) -> AsyncIterator[Stage]:
    with reachable_directory() as folder:
        async with moved_in(folder, databases, rabbit_server, _patient) as house:
            await house.opens()
            components: list[Victim] = [Component(house, part) for part in ("trading-server", "calculator", "reporter")]
            victims = [*components, TradingDatabase(house)]
            stage = Stage(house, victims, EXPECTED, MOMENTS, beside=BESIDE, forgotten=FORGOTTEN)
            await house.works()
            yield stage
            await stage.watch.close()


def _patient(described: dict[str, Any]) -> None:
    described["restart"].update(soak="1s")
    described["restart"]["limits"] = {**described["restart"]["limits"], "start": "15s", "drain": "4s"}
    described["restart"]["backup"]["reuse_within"] = "0s"


@pytest.mark.parametrize("number", range(STORIES))
async def test_restart_in_which_components_die_ends_as_promised_and_the_target_is_whole(
    stage: Stage, number: int
) -> None:
    await stage.play(number)


async def test_every_component_died_in_every_phase_and_the_checker_finds_nothing(stage: Stage) -> None:
    await stage.judge()
