"""A third of the seeds, so that several workers share them; see `seeds.py`."""

import pytest

from tests.figures import Noting
from tests.simulation.seeds import Tally, chunks, name

TALLY = Tally(0)


@pytest.mark.seeds
@pytest.mark.parametrize("seeds", chunks(0), ids=name)
def test_nothing_is_found_in_the_stories_of_these_seeds(
    seeds: range, monkeypatch: pytest.MonkeyPatch, figures: Noting
) -> None:
    assert TALLY.judge(seeds, monkeypatch, figures) == []


@pytest.mark.seeds
def test_every_fault_struck_shards_were_taken_over_and_systems_were_restarted_in_these_stories() -> None:
    """After all of the above: it judges what they counted."""
    assert TALLY.missing() == []
