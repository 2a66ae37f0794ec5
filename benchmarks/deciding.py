"""What an event costs in Python, by part: `python -m benchmarks.deciding [--profile]`. No server, nothing is written.

Batches of 200 measurements, each a transition, go round 10,000 alerts as in the other measurements; the parts are those
of the engine between the queue and the commit. Figures are microseconds of CPU an event; a tenth of the batches took
less: what others do at the same time disturbs those least.
"""

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from benchmarks.batches import SIZE
from benchmarks.systems import write
from benchmarks.waves import Instances, Wave
from machines.model import InstanceId
from machines.registry import MACHINES
from schemas.events import Lane
from service.adapters.postgres.batch import parameters
from service.adapters.systems import load_systems
from service.engine.definitions import Definitions
from service.engine.reading import from_delivery, meant
from service.engine.settle import settle
from service.engine.work import Work
from service.ports import Delivery, Loaded, Prepared, Token

INSTANCES = Instances(100, 100)
USER = "bench"
PARTS = ("read", "settle", "collect", "as parameters")


def main() -> None:
    """Prints the table, or with `--profile` the functions that cost most."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5, help="of all instances; the first is not counted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        definitions = Definitions(MACHINES, load_systems([write(Path(folder), INSTANCES, USER)]))
    wave = Wave(INSTANCES, "bench/deciding", 0, INSTANCES.count * options.rounds)
    warm = INSTANCES.count // SIZE
    profiler = cProfile.Profile(time.process_time)
    took: list[list[float]] = []
    standing: dict[InstanceId, Loaded] = {}
    for number, deliveries in enumerate(_deliveries(wave)):
        if options.profile and number == warm:
            profiler.enable()
        took.append(_one(deliveries, definitions, standing))
    profiler.disable()
    if options.profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
        return
    costs = [1e6 * statistics.quantiles(part, n=10)[0] / SIZE for part in zip(*took[warm:], strict=True)]
    for name, cost in zip((*PARTS, "all"), (*costs, sum(costs)), strict=True):
        print(f"{name:15} {cost:7.1f}")


def _deliveries(wave: Wave) -> Iterator[list[Delivery]]:
    waiting: list[Delivery] = []
    for key, _, body in wave.events():
        waiting.append(Delivery(Lane.METRICS, 1, 1, "relight.intake.metrics.0", key, body, USER, False))
        if len(waiting) == SIZE:
            yield waiting
            waiting = []


def _one(deliveries: list[Delivery], definitions: Definitions, standing: dict[InstanceId, Loaded]) -> list[float]:
    """One batch; the seconds of each part."""
    now = datetime.now(UTC)
    marks = [time.process_time()]
    arrived = [from_delivery(delivery, definitions, now) for delivery in deliveries]
    marks.append(time.process_time())
    addressed = meant(arrived, definitions)
    prepared = Prepared({}, {instance: standing.get(instance, Loaded(None)) for its in addressed for instance in its})
    work = Work(prepared, definitions, epoch=1, now=now)
    for one, its in zip(arrived, addressed, strict=True):
        settle(work, one, its, {}, {})
    marks.append(time.process_time())
    batch = work.batch(0, Token(1), ())
    marks.append(time.process_time())
    parameters(batch)
    marks.append(time.process_time())
    if len(batch.log) != len(deliveries):
        raise ValueError(f"of {len(deliveries)} events only {len(batch.log)} were transitions")
    standing.update({write.snapshot.instance: Loaded(write.snapshot) for write in batch.snapshots})
    return [end - begin for begin, end in pairwise(marks)]


if __name__ == "__main__":
    main()
