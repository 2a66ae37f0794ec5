"""What everyday runs, great runs and long runs of the tests are made of."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests import sizes

ROOT = Path(__file__).parents[2]
SOME = (
    "tests/faults/test_crash_points.py", "tests/faults/test_crash_points_in_restarts.py", "tests/faults/test_night.py",
    "tests/simulation/test_stories.py", "tests/unit/test_ids.py",
)  # fmt: skip


def collected(*options: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options, *SOME]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.parametrize(("options", "size"), [((), sizes.EVERYDAY), (("--faults",), sizes.FAULTS)])
def test_a_run_has_its_kills_its_outages_and_its_seeds(options: tuple[str, ...], size: sizes.Sizes) -> None:
    names = collected(*options)
    assert sum("test_process_dies_there" in name for name in names) == size.service_kills
    assert sum("test_whatever_dies_and_whenever" in name for name in names) == size.seeds
    outages = size.rabbitmq_kills + size.postgres_kills + size.frozen_owners
    assert sum("test_it_goes_on_after" in name for name in names) == outages
    everyday = size is sizes.EVERYDAY
    assert any("test_ids" in name for name in names) is everyday
    assert any("test_night" in name for name in names) is not everyday


def test_sizes_are_those_that_were_promised_and_long_runs_are_ten_times_great_ones() -> None:
    promised = {"seeds": 5_000, "service_kills": 300, "rabbitmq_kills": 20, "postgres_kills": 40, "frozen_owners": 20}
    great, long = asdict(sizes.FAULTS), asdict(sizes.LONG)
    assert {name: great[name] for name in promised} == promised
    assert great["events"] == 25_000
    assert {name: long[name] for name in promised} == {name: 10 * count for name, count in promised.items()}
    assert (sizes.EVERYDAY.service_kills, sizes.EVERYDAY.seeds) == (60, 500)
