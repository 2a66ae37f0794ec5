"""The components of a system are killed in every phase of its restart, and so is the trading database that one of them
runs. What died is Relight's own business, or a person's with the printed command. One system lives through the file.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from service.embedded import RabbitServer
from tests.acceptance.harness import SYSTEM, House
from tests.acceptance.killing import Phase, Promise, Stage
from tests.acceptance.victims import Component, TradingDatabase, Victim
from tests.faults.checker import check
from tests.servers import Databases, reachable_directory, unique

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
EXPECTED = {
    (victim, phase): promise
    for victim, row in PROMISES.items()
    for phase, promise in zip(PHASES, row, strict=True)
    if promise is not None
}
STORIES = 16


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(databases: Databases, rabbit_server: RabbitServer) -> AsyncIterator[Stage]:
    name = unique("kills")
    with reachable_directory() as folder:
        postgres_url, amqp_url = await databases.create_database(name), await rabbit_server.add_vhost(name)
        house = House(folder, postgres_url, amqp_url)
        house.rewrite(_patient)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(rabbit_server.delete_vhost, name)
            stack.push_async_callback(databases.drop_database, name)
            stack.push_async_callback(house.end)
            await house.move_in(rabbit_server, name)
            await house.start()
            await house.until("serve is ready", house.ready)
            components: list[Victim] = [Component(house, part) for part in ("trading-server", "calculator", "reporter")]
            victims = [*components, TradingDatabase(house)]
            stage = Stage(house, victims, EXPECTED, MOMENTS, beside=BESIDE, forgotten=FORGOTTEN)
            stack.push_async_callback(stage.watch.close)
            await house.until("operational for the first time", lambda: _operational(house), 60)
            await house.until("ten trades in memory", lambda: _counted(house, 10))
            yield stage


def _patient(described: dict[str, Any]) -> None:
    described["restart"].update(soak="1s")
    described["restart"]["limits"] = {**described["restart"]["limits"], "start": "15s", "drain": "4s"}
    described["restart"]["backup"]["reuse_within"] = "0s"


async def _operational(house: House) -> bool:
    return await house.state() == "operational"


async def _counted(house: House, trades: int) -> bool:
    return int((await house.counters()).get("trades", 0)) >= trades


@pytest.mark.parametrize("number", range(STORIES))
async def test_restart_in_which_components_die_ends_as_promised_and_the_target_is_whole(
    stage: Stage, number: int
) -> None:
    if not stage.square.left:
        pytest.skip("every pair is done")
    story = await stage.restart(number)
    print(f"{story.tell()}\n{SYSTEM} rests as {story.moves[-1].to}; {len(stage.square.left)} pairs were left")
    await stage.settle(story)


async def test_every_component_died_in_every_phase_and_the_checker_finds_nothing(stage: Stage) -> None:
    assert not stage.square.left, f"never killed there: {sorted(stage.square.left)}"
    await stage.house.rest()
    findings = check(await stage.house.evidence())
    assert not findings, "\n".join(map(str, findings[:20]))
