"""Who counts as a live run of its system: whoever a due time will end. A batch knows whether it changes that."""

from datetime import UTC, datetime, timedelta

import pytest

from machines.model import Event, InstanceId, Snapshot
from machines.registry import MACHINES
from schemas.events import MetricObserved
from service.engine.definitions import Definitions
from service.engine.work import Work
from service.ports import Loaded, Prepared
from tests.unit.test_decide import metrics_system

NOW = datetime(2026, 3, 1, 1, 45, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
MEMORY = InstanceId("alert/metrics/memory")


@pytest.mark.parametrize("what", ["dwell_until", "deadline_at"])
@pytest.mark.parametrize(
    ("before", "after", "stirs"),
    [(None, None, False), (None, LATER, True), (LATER, None, True), (LATER, LATER, True)],
    ids=["at rest as before", "it begins", "it ends", "it goes on in another state"],
)
def test_batch_knows_whether_it_moves_a_live_run(
    what: str, before: datetime | None, after: datetime | None, stirs: bool
) -> None:
    definitions = Definitions(MACHINES, {"metrics": metrics_system()})
    version, current = MACHINES["alert"].version, definitions.current_hash("metrics")
    snapshot = Snapshot(
        MEMORY,
        "metrics",
        "alert",
        version,
        current,
        1,
        3,
        "warning",
        2,
        NOW,
        **{what: before},  # type: ignore[arg-type]
    )
    runs = {"metrics": {MEMORY: "warning"} if before is not None else {}}
    work = Work(Prepared({}, {MEMORY: Loaded(snapshot)}, runs), definitions, epoch=1, now=NOW)
    live = work.live(MEMORY, "metrics")
    assert work.only_moves_the_resting, "nobody was moved yet"
    event = Event("e1", "test", "metric.observed", "metrics", MetricObserved(metric="memory", value=95), NOW)
    work.append(live, "transition", event, {}, {what: after, "state": "critical"})
    assert work.only_moves_the_resting is not stirs
    # And the next event of the same batch sees it.
    assert work.live_runs == {"metrics": {MEMORY: "critical"} if after is not None else {}}
