"""A night of kills in restarts: the real process and supervisors die around every effect of a step, and it goes on."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests import sizes
from tests.faults import kills
from tests.faults.night import Night
from tests.faults.night import night as a_night
from tests.figures import Noting
from tests.servers import Databases, Vhosts

pytestmark = pytest.mark.faults

one_loop = pytest.mark.asyncio(loop_scope="module")
"""The load goes on while one test ends and the next begins."""

_, PLAN = kills.plans(sizes.now().service_kills)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def night(databases: Databases, vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    """A stage whose load goes on from the first kill to the last."""
    async with a_night(tmp_path_factory.mktemp("night"), databases, vhosts) as stage:
        yield stage


@one_loop
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("place", "passage"), PLAN, ids=kills.names(PLAN))
async def test_process_dies_there_and_the_restart_goes_on(night: Night, place: str, passage: int) -> None:
    await kills.kill(night, place, passage)


@one_loop
@pytest.mark.timeout(1500)
async def test_after_all_kills_the_checker_finds_nothing(night: Night, figures: Noting) -> None:
    await kills.judge(night, PLAN, figures)
