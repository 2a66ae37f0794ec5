"""What everyday runs, great runs and long runs of the tests are made of, and what begins first."""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from tests import sizes
from tests.conftest import pytest_collection_modifyitems

ROOT = Path(__file__).parents[2]
SOME = (
    "tests/unit/test_ids.py", *(f"tests/simulation/test_seeds_{part}.py" for part in "abc"),
    "tests/faults/test_crash_points.py", "tests/faults/test_crash_points_in_restarts.py", "tests/faults/test_night.py",
)  # fmt: skip
SEEDS = re.compile(r"test_seeds_.*\[(\d+)-(\d+)\]$")


def collected(*options: str) -> list[str]:
    """The names of the tests of SOME that a run with `options` has, in its order."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options, *SOME]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    return [line for line in done.stdout.splitlines() if "::" in line]


@dataclass(frozen=True)
class Item:
    nodeid: str

    def get_closest_marker(self, name: str) -> None:
        return None


class Config:
    def getoption(self, name: str) -> bool:
        return False


class Worker(Config):
    workerinput: Mapping[str, str] = MappingProxyType({})


def places(names: list[str], wanted: str) -> list[int]:
    return [place for place, name in enumerate(names) if wanted in name]


@pytest.mark.parametrize(("options", "size"), [((), sizes.EVERYDAY), (("--faults",), sizes.FAULTS)])
def test_a_run_has_its_kills_its_outages_and_its_seeds(options: tuple[str, ...], size: sizes.Sizes) -> None:
    names = collected(*options)
    great = size is sizes.FAULTS
    ranges = [range(int(found[1]), int(found[2]) + 1) for name in names if (found := SEEDS.search(name))]
    seeds = [seed for some in ranges for seed in some]
    assert len(seeds) == len(set(seeds)) == size.seeds
    assert len(places(names, "test_process_dies_there")) == size.service_kills
    # Whole files are marked for great runs only; everything that is neither fault nor simulation is for every day.
    assert bool(places(names, "test_crash_points_in_restarts")) is great
    assert bool(places(names, "test_night.py")) is great
    assert bool(places(names, "test_ids")) is not great
    if great:
        nights = [*places(names, "test_process_dies_there"), *places(names, "test_night.py")]
        assert max(nights) < min(places(names, "test_seeds_")), "the longest begin first, and seeds fill up the end"


def test_with_several_workers_the_longest_suites_begin_first_every_day() -> None:
    names = ["acceptance/a", "client/b", "faults/c", "faults/d", "integration/e", "simulation/f", "unit/g"]
    listed = [Item(f"tests/{name}.py::test") for name in names]
    alone, shared = list(listed), list(listed)
    pytest_collection_modifyitems(Config(), alone)  # type: ignore[arg-type]  # all that is asked of either
    pytest_collection_modifyitems(Worker(), shared)  # type: ignore[arg-type]
    assert alone == listed
    assert [item.nodeid[6] for item in shared] == ["f", "f", "a", "s", "i", "c", "u"]
    assert shared.index(listed[2]) < shared.index(listed[3])


def test_sizes_are_those_that_were_promised_and_long_runs_are_ten_times_great_ones() -> None:
    promised = {"seeds": 5_000, "service_kills": 300, "rabbitmq_kills": 20, "postgres_kills": 40, "frozen_owners": 20}
    great, long = asdict(sizes.FAULTS), asdict(sizes.LONG)
    assert {name: great[name] for name in promised} == promised
    assert great["events"] == 25_000
    assert {name: long[name] for name in promised} == {name: 10 * count for name, count in promised.items()}
    assert (sizes.EVERYDAY.service_kills, sizes.EVERYDAY.seeds) == (60, 500)
