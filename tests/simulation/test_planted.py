"""The outside checker is proven on the engine itself: every planted bug is caught by its name, and only bugs are."""

import pytest

from service.simulation import virtual
from tests.faults.checker import Fault, Finding, check
from tests.faults.checker.losses import told
from tests.faults.evidence import Evidence
from tests.simulation.conditions import make_hard
from tests.simulation.evidence import Witness
from tests.simulation.planted import PLANTED, Plant
from tests.simulation.story import tell

SEEDS = range(12)
"""Stories in which an engine without a bug must be found to have none."""
TRIES = range(40)
"""A bug may need several stories to show: most show in the first."""


def findings(monkeypatch: pytest.MonkeyPatch, seed: int, plant: Plant | None = None) -> list[Finding]:
    """What the checker finds in the story of `seed`, told with or without a bug under hard conditions."""
    witness = Witness()
    with monkeypatch.context() as planted:
        if plant is not None:
            plant(planted)
        witness.stand_by(planted)
        make_hard(planted, witness, seed)
        evidence = virtual.run(_told(seed, witness))
    # No database is restored here: what is said to be lost was told, and never written.
    said = (f"{loss.system} says that {loss.rows} rows are lost" for loss in told(evidence))
    return [*check(evidence), *(Finding(Fault.INVENTED_NOTIFICATION, words) for words in said)]


async def _told(seed: int, witness: Witness) -> Evidence:
    story = await tell(seed)
    return witness.evidence(story, story.clock.now())


@pytest.mark.parametrize("seed", SEEDS)
def test_engine_without_a_bug_is_found_to_have_none(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings(monkeypatch, seed) == []


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted_bug_is_caught_by_its_name(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = frozenset[Fault]()
    for seed in TRIES:
        found = frozenset(finding.fault for finding in findings(monkeypatch, seed, plant))
        seen |= found
        if found & PLANTED[plant]:
            return
    raise AssertionError(f"{plant.__doc__} Not found as {sorted(PLANTED[plant])}, only as {sorted(seen)}")
