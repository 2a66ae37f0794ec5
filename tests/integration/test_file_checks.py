"""The checks of files and configuration on the real file system: edited, closed to writing, full."""

from dataclasses import replace
from pathlib import Path

import pytest

from schemas.base import Json
from service.adapters.local_files import LocalFiles
from service.adapters.memory.world import MemoryWorld
from service.clock import SystemClock
from service.errors import Permanent, Retry
from tests.performing import Bench
from tests.unit.steps_world import Shop


async def nobody(*_: object) -> dict[str, str]:
    raise AssertionError("nothing waits for an answer here")


def bench(folder: Path, check: dict[str, Json]) -> Bench:
    """The shop of the unit tests with this one check, in this folder."""
    clock = SystemClock()
    system = Shop(verify=[check]).system.model_copy(update={"folder": str(folder)})
    return Bench(system, replace(MemoryWorld(clock).world(), files=LocalFiles()), clock, nobody)


async def test_file_that_somebody_edited_does_not_pass_until_it_is_put_back(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("every = 1.0\n")
    desk = bench(tmp_path, {"config": "settings.toml"})
    first = await desk.perform("check.run", check=0)
    assert first["expected"] == "the first one seen"
    desk.data["good"] = {"settings.toml": first["value"]}
    settings.write_text("every = 10.0\n")
    with pytest.raises(Permanent, match=r"config settings\.toml: its SHA-256 is .*Put the old one back and retry"):
        await desk.perform("check.run", check=0)
    settings.write_text("every = 1.0\n")
    assert (await desk.perform("check.run", check=0))["passed"] is True
    settings.unlink()
    with pytest.raises(Permanent, match="No such file"):
        await desk.perform("check.run", check=0)


async def test_place_that_takes_no_files_does_not_pass_to_be_written(tmp_path: Path) -> None:
    # /proc/self takes no files, not even a superuser's.
    closed = bench(tmp_path, {"files": "/proc/self", "access": "rw"})
    with pytest.raises(Permanent, match="/proc/self"):
        await closed.perform("check.run", check=0)
    assert (await bench(tmp_path, {"files": "/proc/self"}).perform("check.run", check=0))["passed"] is True
    (tmp_path / "reports").mkdir()
    assert (await bench(tmp_path, {"files": "reports", "access": "rw"}).perform("check.run", check=0))["passed"] is True
    assert list((tmp_path / "reports").iterdir()) == [], "trying left something behind"


async def test_disk_with_too_little_left_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(Retry, match=r"bytes are free there, expected at least 1000000000000000000"):
        await bench(tmp_path, {"files": str(tmp_path), "free": 10**18}).perform("check.run", check=0)
