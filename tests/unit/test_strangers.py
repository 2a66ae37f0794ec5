"""Nobody starts a second copy of what somebody else runs: how look-alikes are told, and what the steps do then."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.adapters.processes.strangers import alike, strangers
from service.errors import Permanent
from tests.unit.steps_world import Shop


@pytest.mark.parametrize(
    ("found", "where", "same"),
    [
        (["python", "-m", "worker"], "/srv", True),
        (["/usr/bin/python3.11", "-m", "worker"], "/srv", True),
        (["/usr/bin/env", "python", "-m", "worker"], "/srv", True),
        (["python", "-m", "worker"], "/", False),
        (["python", "-m", "worker"], None, False),
        (["python", "-m", "worker", "--fast"], "/srv", False),
        (["perl", "-m", "worker"], "/srv", False),
        ([], "/srv", False),
    ],
)
def test_same_arguments_in_the_same_folder_are_alike(found: list[str], where: str | None, same: bool) -> None:
    assert alike(["python", "-m", "worker"], "/srv", found, where) is same


def test_process_of_somebody_else_is_found_and_that_of_another_component_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    given = {"RELIGHT_SYSTEM": "shop", "RELIGHT_COMPONENT": "counter"}
    for environment, name, found in (({}, "shop.counter", True), (given, "shop.counter", True), (given, "a.b", False)):
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                expected = (process.pid,) if found else ()
                assert strangers(name, command, str(tmp_path), None) == expected
                assert strangers(name, command, str(tmp_path / ".."), None) == ()
            finally:
                process.kill()


async def test_first_look_ends_at_what_somebody_else_runs_and_nothing_is_started() -> None:
    shop = Shop()
    shop.memory.processes.copies["shop.server"] = (4711,)
    with pytest.raises(Permanent, match="server runs already as pid 4711, which this Relight did not start"):
        await shop.perform("component.observe", "server")
    with pytest.raises(Permanent, match="no second copy was started"):
        await shop.perform("component.start", "server")
    assert shop.memory.processes.starts == {}


async def test_restart_is_turned_back_before_the_pause_when_a_component_runs_elsewhere() -> None:
    shop = Shop()
    await shop.start_all()
    await shop.perform("identity.check")
    shop.memory.processes.crash("shop.counter")
    shop.memory.processes.copies["shop.counter"] = (4711,)
    with pytest.raises(Permanent, match="counter runs already as pid 4711"):
        await shop.perform("identity.check")
