"""The very engine that serves, in virtual time, through crashes, duplicates, disorder and delay: nothing is lost."""

import json

import pytest

from machines.model import InstanceId
from service.simulation import virtual
from tests.faults.checker import check
from tests.faults.evidence import Evidence
from tests.simulation.evidence import Witness
from tests.simulation.story import Story, tell

LIFECYCLE = InstanceId("lifecycle/metrics")

SEEDS = range(25)
"""Of calm, small stories with exact expectations; the many seeds with every fault are those of `seeds.py`."""


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_dies_and_whenever_every_event_has_one_outcome_and_everything_comes_to_rest(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = Witness()
    witness.stand_by(monkeypatch)
    story, evidence = virtual.run(_told(seed, witness))
    assert check(evidence) == []
    tables = story.store.tables
    assert not tables.dead
    assert not tables.gates.rows, "an operation still waits"
    if tables.instances[LIFECYCLE].state == "operational":
        assert [one.component for one in story.world.commands.participants.values() if one.paused] == []
    assert story.crashes >= 6
    assert len(tables.log) > 20


async def _told(seed: int, witness: Witness) -> tuple[Story, Evidence]:
    story = await tell(seed)
    return story, witness.evidence(story, story.clock.now())


def test_the_stories_have_operations_that_pass_that_are_held_that_expire_and_that_are_one_too_many() -> None:
    passed = held = expired = full = 0
    for seed in SEEDS[:6]:
        story = virtual.run(tell(seed))
        bodies = [json.loads(body) for body in story.broker.bodies("relight.operations.metrics")]
        passed += sum("heldat" not in body for body in bodies)
        held += sum("heldat" in body for body in bodies)
        records = [
            row.record for row in story.store.tables.log.values() if row.event_type.endswith("operation.requested")
        ]
        expired += sum("it was not released" in record for record in records)
        full += sum("(gate.holds)" in record for record in records)
    assert min(passed, held, expired, full) > 0, (passed, held, expired, full)


def test_the_same_seed_tells_the_same_story_to_the_byte() -> None:
    first, second = (virtual.run(tell(7)) for _ in range(2))
    assert first.log_text == second.log_text


def test_another_seed_tells_another_story() -> None:
    assert virtual.run(tell(1)).log_text != virtual.run(tell(2)).log_text
