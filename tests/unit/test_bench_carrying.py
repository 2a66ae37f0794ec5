"""The measurement of what carrying an event costs, in its smallest form: it still carries what it says it does."""

from benchmarks.carrying import PARTS, measure
from benchmarks.waves import Instances


async def test_each_part_is_measured_for_each_batch_after_the_first_round() -> None:
    took = await measure(3, Instances(2, 200), None)
    assert len(took) == 2 * 2, "two batches a round, in the rounds after the first"
    assert all(len(parts) == len(PARTS) and all(part >= 0 for part in parts) for parts in took)
