"""A restart that is cancelled while a real program pauses a component: the program is gone before anything resumes."""

import shlex
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from tests.faults import doubles
from tests.faults.harness import Stage, staged
from tests.servers import Databases, Vhosts

LEASE = "20s"
"""Its renewal, every five seconds, is not what ends the program in time."""
AT_ONCE = 3.0
"""Seconds from the cancel to the resume: two commits, the end of the program, the start of another."""

PAUSE = """#!/bin/sh
sleep 60 &
echo $$ $! > {folder}/pids.new
mv {folder}/pids.new {folder}/pids
wait
"""

RESUME = """#!/bin/sh
for pid in $(cat {folder}/pids); do
    grep -qE '^State:[[:space:]]+[RSDT]' /proc/$pid/status && echo $pid >> {folder}/still_there
done
echo >> {folder}/resumed
exec {resume}
"""


@pytest.fixture
async def stage(databases: Databases, vhosts: Vhosts, tmp_path: Path) -> AsyncIterator[Stage]:
    """An operational system whose worker is paused by a program that takes a minute."""
    async with staged(tmp_path / "stage", databases, vhosts, Stage) as stage:
        _describe(stage)
        await stage.start(RELIGHT_LEASE=LEASE)
        await stage.until("operational", lambda: stands(stage, "operational"))
        await stage.load.connect()
        yield stage


def _describe(stage: Stage) -> None:
    doing = [sys.executable, "-E", "-S", str(Path(doubles.__file__ or "").resolve()), "resume"]
    for command, text in (("pause", PAUSE), ("resume", RESUME)):
        script = stage.folder / command
        script.write_text(text.format(folder=shlex.quote(str(stage.folder)), resume=shlex.join(doing)))
        script.chmod(0o755)
    system = yaml.safe_load(stage.file.read_text())
    for command in ("pause", "resume"):
        system["components"]["worker"]["participant"][command] = {"command": [str(stage.folder / command)]}
    system["restart"]["answer_within"] = "50s"
    system["restart"]["limits"]["drain"] = "2m"
    stage.file.write_text(yaml.safe_dump(system))


async def stands(stage: Stage, state: str) -> bool:
    return await stage.state() == state


async def exists(path: Path) -> bool:
    return path.exists()


async def test_program_of_a_cancelled_pause_is_gone_before_the_component_is_told_to_resume(stage: Stage) -> None:
    resumed = stage.folder / "resumed"
    resumed.unlink()  # of the first start
    await stage.load.restart("the story wants it")
    await stage.until("the program pauses", lambda: exists(stage.folder / "pids"))
    pids = [int(word) for word in (stage.folder / "pids").read_text().split()]
    assert len(pids) == 2
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)

    began = time.monotonic()
    await stage.load.publish("restart.cancelled", {"reason": "or not"}, "lifecycle/shop")
    await stage.until("the worker is told to resume", lambda: exists(resumed), within=30)
    assert time.monotonic() - began < AT_ONCE
    await stage.until("operational", lambda: stands(stage, "operational"))
    assert not (stage.folder / "still_there").exists()
    held = "SELECT count(*) FROM relight.steps WHERE status = 'cancelled' AND lease_until IS NOT NULL"
    assert await stage.value(held) == 0
    assert stage.said("runner.let_go") == 1
