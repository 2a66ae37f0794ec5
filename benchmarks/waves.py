"""The events of the benchmark: measurements that go round all instances, so that each one is a transition. Pure.

Event number k means instance `k % instances`, in its round `k // instances`; the values of the rounds lead each alert
from normal to critical, to normal, to warning, to normal, and so on. Who goes on from k goes on from where all stand.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

VALUES = (95.0, 10.0, 80.0, 20.0)
"""By round: beyond critical, back, beyond warning, back."""

STRIDE = 7_368_787
"""A prime: with it events jump all over many instances, and still meet each once a round."""


@dataclass(frozen=True, slots=True)
class Instances:
    """`alert/s<i>/m<j>` of `systems` systems. `scattered`: consecutive events are far from each other."""

    systems: int
    alerts: int
    scattered: bool = False

    @property
    def count(self) -> int:
        return self.systems * self.alerts

    def where(self, number: int) -> tuple[str, str]:
        """System and metric of event `number`."""
        index = number * STRIDE % self.count if self.scattered else number % self.count
        return f"s{index % self.systems}", f"m{index // self.systems}"


@dataclass(frozen=True, slots=True)
class Wave:
    """Events `first` to `first + count - 1`, under a `source` of their own, by which they are counted afterwards.

    `still`: each repeats the last value of its instance before `first`, so that it moves nothing.
    """

    instances: Instances
    source: str
    first: int
    count: int
    still: bool = False

    @property
    def after(self) -> int:
        """Where the next wave begins."""
        return self.first if self.still else self.first + self.count

    def value(self, number: int) -> float:
        total = self.instances.count
        if not self.still:
            return VALUES[number // total % 4]
        # The last event before `first` that meant the same instance.
        last = number % total + (self.first - 1 - number % total) // total * total
        return VALUES[last // total % 4]

    def events(self) -> Iterator[tuple[str, str, bytes]]:
        """Routing key, id and body of each. Ids are random, as UUIDs are: an index is not spared by their order."""
        ids = random.Random(f"{self.source}:{self.first}")
        for number in range(self.first, self.first + self.count):
            system, metric = self.instances.where(number)
            key = f"{ids.getrandbits(128):032x}"
            event = {
                "specversion": "1.0",
                "id": key,
                "source": self.source,
                "type": "relight.metric.observed",
                "subject": system,
                "data": {"metric": metric, "value": self.value(number)},
            }
            yield f"{system}.metric.observed", key, json.dumps(event, separators=(",", ":")).encode()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> "Wave":
        return cls(**{**given, "instances": Instances(**given["instances"])})
