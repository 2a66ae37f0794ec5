"""The arithmetic of the benchmark: medians, percentiles, ratios and the goals they are held against. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Samples = Mapping[str, Sequence[float]]
"""By figure: one value a repetition."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a ratio (or a figure) should be: at least, or with `most` at most, `bound`."""

    name: str
    bound: float
    words: str
    most: bool = False

    def reached(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound


GOALS = (
    Goal("to_pgbench_per_event", 1.5, "transitions against pgbench from C, one event a transaction"),
    Goal("store_to_pgbench_batched", 0.85, "the store's commit against the same batches from pgbench"),
    Goal("to_naive", 10.0, "transitions against one event, one transaction, one publish, one ack"),
    Goal("to_naive_16", 5.0, "the same with 16 at once"),
    Goal("idle_p50_to_naive", 1.3, "median latency at 20 a second against the naive one", most=True),
    Goal("growth", 0.75, "many instances and log rows against few"),
)

RESIDENT = Goal("resident_mb", 150.0, "megabytes of serve that are resident", most=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of all do not exceed: nearest rank. Raises ValueError without any."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def medians(samples: Samples) -> dict[str, float]:
    """The median of each figure."""
    return {name: float(median(values)) for name, values in samples.items() if values}


def ranges(samples: Samples) -> dict[str, tuple[float, float]]:
    """The least and the most of each figure: how much the repetitions differ."""
    return {name: (min(values), max(values)) for name, values in samples.items() if values}


def ratios(samples: Samples) -> dict[str, list[float]]:
    """The quotient of each repetition: what one run did to its neighbour in time, not to its median."""
    return {
        "to_pgbench_per_event": _quotient(samples, "transitions_full_queue", "pgbench_per_event"),
        "store_to_pgbench_batched": _quotient(samples, "store_commit", "pgbench_batched"),
        "to_naive": _quotient(samples, "transitions_full_queue", "naive_serial"),
        "to_naive_16": _quotient(samples, "transitions_full_queue", "naive_16"),
        "idle_p50_to_naive": _quotient(samples, "idle_p50_ms", "naive_idle_p50_ms"),
        "growth": _quotient(samples, "growth_large", "growth_small"),
    }


def _quotient(samples: Samples, over: str, under: str) -> list[float]:
    return [a / b for a, b in zip(samples[over], samples[under], strict=True)]


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """For reading: three digits are more than a measurement holds."""
    return {name: _rounded(value) for name, value in values.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return rounded(value)
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, float) and value:
        return round(value, max(0, 2 - math.floor(math.log10(abs(value)))))
    return value
