"""Micro-batches as the engine makes them, prepared beforehand: decided by the machine, chained, ready for the store."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from benchmarks.waves import Wave
from machines.model import InstanceId, Snapshot
from schemas.events import Lane
from service.engine.definitions import Definitions
from service.engine.reading import from_delivery, meant
from service.engine.settle import settle
from service.engine.work import Work
from service.ports import Batch, Delivery, Loaded, Prepared, Token

SIZE = 200
"""Events a batch: serve's own setting."""


def batches(
    wave: Wave, definitions: Definitions, snapshots: Mapping[InstanceId, Snapshot], user: str, token: Token
) -> Iterator[Batch]:
    """The wave's events in batches. `snapshots` are where all instances stand before it."""
    standing = dict(snapshots)
    waiting: list[Delivery] = []
    for key, _, body in wave.events():
        waiting.append(Delivery(Lane.METRICS, 1, 1, "relight.intake.metrics.0", key, body, user, False))
        if len(waiting) == SIZE:
            yield _batch(waiting, definitions, standing, token)
            waiting = []
    if waiting:
        yield _batch(waiting, definitions, standing, token)


def _batch(
    deliveries: list[Delivery], definitions: Definitions, standing: dict[InstanceId, Snapshot], token: Token
) -> Batch:
    now = datetime.now(UTC)
    arrived = [from_delivery(delivery, definitions, now) for delivery in deliveries]
    addressed = meant(arrived, definitions)
    prepared = Prepared({}, {instance: Loaded(standing.get(instance)) for its in addressed for instance in its})
    work = Work(prepared, definitions, epoch=1, now=now)
    for one, its in zip(arrived, addressed, strict=True):
        settle(work, one, its, {}, {})
    batch = work.batch(0, token, ())
    if len(batch.log) != len(deliveries):
        raise ValueError(f"of {len(deliveries)} events only {len(batch.log)} were transitions")
    standing.update({write.snapshot.instance: write.snapshot for write in batch.snapshots})
    return batch
