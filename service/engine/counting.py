"""What a committed batch adds to the counters and to the log of the process: once a batch, not once an event."""

from collections import Counter
from collections.abc import Iterable

import structlog

from service import metrics
from service.ports import Batch

MEASURED = "relight.metric.observed"
"""Transitions on measurements come by the thousand: they stand in the log table and on the status topic only."""

log = structlog.get_logger()


def count_outcomes(outcomes: Iterable[str]) -> None:
    """What became of the events of a batch."""
    for outcome, count in Counter(outcomes).items():
        metrics.EVENTS.labels(outcome=str(outcome)).inc(count)


def count_rows(batch: Batch) -> None:
    """What a batch has written."""
    moved = [row for row in batch.log if row.kind == "transition"]
    for (machine, to), count in Counter((row.instance.split("/", 1)[0], row.state_to) for row in moved).items():
        metrics.TRANSITIONS.labels(machine=machine, to=to).inc(count)
    for row in moved:
        if row.event_type != MEASURED:
            log.info(
                "transition", instance=row.instance, seq=row.seq, state_from=row.state_from, state_to=row.state_to,
                event_type=row.event_type, event_id=row.event.id, user=row.user,
            )  # fmt: skip
    for queue, count in Counter(letter.queue for letter in batch.dead).items():
        metrics.DEAD.labels(queue=queue).inc(count)
