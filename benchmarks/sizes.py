"""How much each run measures: the sizes of `relight bench`, of `--quick`, `--long`, and of the benchmark's own test."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts are events unless said otherwise; `seconds` are of one measurement in one repetition."""

    label: str
    repetitions: int = 5
    systems: int = 100
    alerts: int = 100
    """Of each system: `systems * alerts` instances."""
    transitions: int = 40_000
    live: int = 20_000
    absorbed: int = 10_000
    per_event_seconds: int = 5
    batches: int = 80
    """Of 200 events, for the store and for pgbench."""
    naive_serial: int = 1_500
    naive_concurrent: int = 4_000
    latency_seconds: float = 6.0
    loads: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)
    """The points of the plot, as parts of what the full queue gave; a half is among them."""
    restarts: int = 10
    growth_small: int = 1_000
    growth_large: int = 100_000
    growth_log_rows: int = 1_000_000
    growth_events: int = 20_000

    @property
    def instances(self) -> int:
        return self.systems * self.alerts


NORMAL = Sizes("normal")

QUICK = Sizes(
    "quick",
    repetitions=1,
    transitions=10_000,
    live=6_000,
    absorbed=4_000,
    per_event_seconds=2,
    batches=30,
    naive_serial=300,
    naive_concurrent=1_000,
    latency_seconds=3.0,
    loads=(0.25, 0.5, 0.75),
    restarts=3,
    growth_large=20_000,
    growth_log_rows=100_000,
    growth_events=5_000,
)

LONG = Sizes("long", growth_large=1_000_000, growth_log_rows=10_000_000, growth_events=50_000)

TINY = Sizes(
    "tiny",
    repetitions=1,
    systems=4,
    transitions=800,
    live=400,
    absorbed=200,
    per_event_seconds=1,
    batches=3,
    naive_serial=40,
    naive_concurrent=80,
    latency_seconds=1.0,
    loads=(0.5,),
    restarts=1,
    growth_small=100,
    growth_large=400,
    growth_log_rows=2_000,
    growth_events=600,
)
"""Proves that everything is measured and counted; its figures mean nothing."""
