"""How much a run of the tests undertakes: in everyday runs, with `--faults`, and with `--long`. No test is here.

`conftest.py` chooses before any test is collected; tests ask `sizes.now()` while they are collected or run.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts of one whole run. `events` must be confirmed in all nights together; each is sent so many `per_second`."""

    name: str
    seeds: int
    service_kills: int
    rabbitmq_kills: int
    postgres_kills: int
    frozen_owners: int
    events: int
    per_second: int


EVERYDAY = Sizes(
    name="everyday",
    seeds=500,
    service_kills=60,
    rabbitmq_kills=0,
    postgres_kills=0,
    frozen_owners=0,
    events=1_500,
    per_second=30,
)
"""Within the ten minutes of all tests. Servers are killed and owners frozen in stories of their own."""
FAULTS = Sizes(
    name="faults",
    seeds=5_000,
    service_kills=300,
    rabbitmq_kills=20,
    postgres_kills=40,
    frozen_owners=20,
    events=25_000,
    per_second=60,
)
"""`--faults`: at most 40 minutes."""
TIMES_LONG = 10


def longer(sizes: Sizes, times: int) -> Sizes:
    """Everything so many times, under the name of `--long`."""
    counts = {name: times * getattr(sizes, name) for name in sizes.__slots__ if name not in ("name", "per_second")}
    return replace(sizes, name="long", **counts)


LONG = longer(FAULTS, TIMES_LONG)

_chosen = EVERYDAY


def choose(sizes: Sizes) -> None:
    """Before tests are collected."""
    global _chosen  # noqa: PLW0603  # a run has one size, and parametrized tests need it while they are imported
    _chosen = sizes


def now() -> Sizes:
    return _chosen
