"""The very engine that serves, in virtual time, through crashes, duplicates, disorder and delay: nothing is lost."""

import pytest

from tests.simulation import virtual
from tests.simulation.findings import findings
from tests.simulation.story import tell

SEEDS = range(25)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_dies_and_whenever_every_event_has_one_outcome_and_everything_comes_to_rest(seed: int) -> None:
    story = virtual.run(tell(seed))
    assert findings(story) == []
    assert story.crashes >= 6
    assert len(story.store.tables.log) > 20


def test_the_same_seed_tells_the_same_story_to_the_byte() -> None:
    first, second = (virtual.run(tell(7)) for _ in range(2))
    assert first.log_text == second.log_text


def test_another_seed_tells_another_story() -> None:
    assert virtual.run(tell(1)).log_text != virtual.run(tell(2)).log_text
