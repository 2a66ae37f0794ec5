"""Programs whose start is cancelled, at each turn of the loop on the way: nothing hangs, and nothing lives on."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from service.adapters.pg_tools.child import started
from service.adapters.programs import LocalPrograms
from service.children import base_environment, spawn
from service.errors import Retry

TURNS = 9
"""After so many the start is over on both loops, and the program is run."""
Factory = Callable[[], asyncio.AbstractEventLoop] | None
LOOPS = pytest.mark.parametrize("factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
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


async def by_pg_tools(mark: str) -> None:
    async with started(shell(mark), {}) as child:
        await child.ended()


@LOOPS
@pytest.mark.parametrize("times", [1, 3], ids=["once", "again-and-again"])
@pytest.mark.parametrize("begin", [by_programs, alone, by_pg_tools])
def test_whoever_is_cancelled_while_a_program_starts_ends_and_leaves_nothing(
    begin: Callable[[str], Coroutine[None, None, None]], times: int, factory: Factory
) -> None:
    marks = {turns: new_mark() for turns in range(TURNS)}

    async def cancelled_after(turns: int) -> None:
        running = asyncio.create_task(begin(marks[turns]))
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(FORKED)
        for _ in range(times):
            running.cancel()
            await asyncio.sleep(0)
        done, _ = await asyncio.wait({running}, timeout=10)
        assert done, f"it hangs when it is cancelled after {turns} turns"
        assert running.cancelled()

    async def all_of_them() -> None:
        for turns in marks:
            await cancelled_after(turns)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(all_of_them())
    assert not left_of(set(marks.values()))


@LOOPS
def test_program_that_ignores_term_is_killed_although_its_task_is_cancelled_again(factory: Factory) -> None:
    mark = new_mark()

    async def step() -> None:
        async with started(["sh", "-c", f"trap '' TERM; sleep {mark}; :"], {}) as child:
            await child.ended()

    async def cancelled_again() -> None:
        running = asyncio.create_task(step())
        for _ in range(3):
            await asyncio.sleep(0.2)
            running.cancel()
        await asyncio.wait({running}, timeout=20)
        assert running.cancelled()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(cancelled_again())
    assert not left_of({mark})


@LOOPS
def test_program_whose_pipe_a_stranger_holds_is_given_up_all_the_same(factory: Factory) -> None:
    mark = new_mark()
    command = ["sh", "-c", f"setsid sleep {mark} & sleep 60"]

    async def given_up() -> None:
        try:
            with pytest.raises(Retry, match="did not end within 1 s"):
                async with asyncio.timeout(20):
                    await LocalPrograms().run(command, {}, "/", timedelta(seconds=1))
        finally:
            for pid in alive({mark}):
                os.kill(pid, signal.SIGKILL)  # in a session of its own: not of the program's group any more
            await asyncio.sleep(0.1)  # the pipe is closed now

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(given_up())


def new_mark() -> str:
    """Seconds for `sleep` that no other process has among its words."""
    return f"300.{uuid.uuid4().int % 10**12:012}"


def left_of(marks: set[str]) -> list[int]:
    """The processes with these words that do not end within ten seconds; killed then."""
    deadline = time.monotonic() + 10
    while (left := alive(marks)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


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
