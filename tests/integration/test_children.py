"""Programs whose start is cancelled, at each turn of the loop on the way: nothing hangs, and nothing lives on."""

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from service.adapters.programs import LocalPrograms
from service.children import base_environment, spawn

TURNS = 9
"""After so many the start is over on both loops, and the program is run."""
FORKED = 0.05
"""Seconds in which a shell has begun its children. The loop stands still meanwhile, as a busy machine lets it."""


async def by_programs(mark: str) -> None:
    await LocalPrograms().run(shell(mark), {}, "/", timedelta(minutes=1))


async def alone(mark: str) -> None:
    program = ("sleep", mark)
    null = asyncio.subprocess.DEVNULL
    process = await spawn(*program, env=base_environment(), cwd="/", stdin=null, stderr=null, own_group=False)
    try:
        await asyncio.sleep(60)
    finally:
        process.kill()
        await process.wait()


def shell(mark: str) -> list[str]:
    return ["sh", "-c", f"sleep {mark} & sleep {mark}; wait"]


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("begin", [by_programs, alone])
def test_whoever_is_cancelled_while_a_program_starts_ends_and_leaves_nothing(
    begin: Callable[[str], Coroutine[None, None, None]], factory: Callable[[], asyncio.AbstractEventLoop] | None
) -> None:
    marks = {turns: f"300.{uuid.uuid4().int % 10**12:012}" for turns in range(TURNS)}

    async def cancelled_after(turns: int) -> None:
        running = asyncio.create_task(begin(marks[turns]))
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(FORKED)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=10)
        assert done, f"it hangs when it is cancelled after {turns} turns"
        assert running.cancelled()

    async def all_of_them() -> None:
        for turns in marks:
            await cancelled_after(turns)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(all_of_them())
    deadline = time.monotonic() + 10
    while (left := alive(set(marks.values()))) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, 9)
    assert not left


def alive(marks: set[str]) -> list[int]:
    """Processes that have one of these words in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue  # it has just ended
            if any(mark in words for mark in marks):
                found.append(int(folder.name))
    return found
