"""A night of kills at the door: the real process dies under load wherever events are taken in and told, and goes on."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from service.crash import POINTS
from tests import sizes
from tests.faults import kills
from tests.faults.night import Night
from tests.faults.night import night as a_night
from tests.figures import Noting
from tests.servers import Databases, Vhosts

one_loop = pytest.mark.asyncio(loop_scope="module")
"""The load goes on while one test ends and the next begins."""

PLAN, OTHER = kills.plans(sizes.now().service_kills)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def night(databases: Databases, vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    """A stage whose load goes on from the first kill to the last."""
    async with a_night(tmp_path_factory.mktemp("night"), databases, vhosts) as stage:
        yield stage


def test_every_crash_point_is_in_one_of_the_two_nights() -> None:
    assert {place for place, _ in (*PLAN, *OTHER)} == POINTS.keys()
    everyday = sizes.now() is sizes.EVERYDAY
    assert len(PLAN) + (0 if everyday else len(OTHER)) == sizes.now().service_kills
    assert kills.plans(60, 1) == kills.plans(60, 1) != kills.plans(60, 2)


@one_loop
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("place", "passage"), PLAN, ids=kills.names(PLAN))
async def test_process_dies_there_and_the_next_one_goes_on(night: Night, place: str, passage: int) -> None:
    await kills.kill(night, place, passage)


@one_loop
@pytest.mark.timeout(1500)
async def test_after_all_kills_the_checker_finds_nothing(night: Night, figures: Noting) -> None:
    await kills.judge(night, PLAN, figures)
