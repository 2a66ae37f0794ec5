"""A third of the seeds, so that several workers share them; see `seeds.py`."""

import pytest

from tests.figures import Noting
from tests.simulation.seeds import all_judged, chunks, name


@pytest.mark.seeds
@pytest.mark.parametrize("seeds", chunks(1), ids=name)
def test_nothing_is_found_in_the_stories_of_these_seeds(
    seeds: range, monkeypatch: pytest.MonkeyPatch, figures: Noting
) -> None:
    assert all_judged(seeds, monkeypatch) == []
    figures.count(seeds=len(seeds))
