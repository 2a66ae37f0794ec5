"""Planted bugs in the stories of the seeds, with every fault in them: what judges the seeds finds each, by its word."""

import pytest

from tests.simulation.planted import (
    Plant,
    ack_before_commit,
    claim_that_is_not_exclusive,
    lease_token_not_checked,
    outbox_row_deleted_before_its_confirm,
    timer_that_is_lost,
)
from tests.simulation.seeds import judged

TRIES = range(40)
"""Everyday seeds, in every run; a bug may need several to show."""
WORDS: dict[Plant, str] = {
    ack_before_commit: "lost",
    lease_token_not_checked: "token",
    claim_that_is_not_exclusive: "stolen",
    outbox_row_deleted_before_its_confirm: "notifications",
    timer_that_is_lost: "overdue",
}
"""Each bug, and how the finding of `relight simulate` begins that must be made of it."""


@pytest.mark.parametrize("plant", WORDS, ids=lambda plant: plant.__name__)
def test_planted_bug_is_found_by_both_judges_of_the_seeds(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {f"--trace: {WORDS[plant]}: ", "outside checker: "}
    seen = set[str]()
    for seed in TRIES:
        with monkeypatch.context() as planted:
            plant(planted)
            lines = judged(seed, planted)[1]
        seen |= {want for want in wanted if any(want in line for line in lines)}
        if seen == wanted:
            return
    raise AssertionError(f"{plant.__doc__} Not found in {len(TRIES)} stories: {sorted(wanted - seen)}")
