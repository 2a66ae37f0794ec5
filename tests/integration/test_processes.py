"""The supervisor as Relight meets it: real processes, real signals, and whoever is in charge killed at a bad moment."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from service.adapters.processes import record, supervisor
from service.adapters.processes.local import SupervisedProcesses
from service.clock import SystemClock
from service.errors import Permanent, Retry
from service.ports import ProcessState

NAME = "metrics.worker"
LONG = timedelta(seconds=10)

WORKER = [sys.executable, "-u", "-c", "import os,time\nprint('up', os.environ.get('WORD'))\nwhile 1: time.sleep(0.1)"]
STUBBORN = [
    sys.executable,
    "-u",
    "-c",
    "import signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up')\nwhile 1: time.sleep(0.1)",
]


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path
    for path in tmp_path.glob("*/state.json"):
        with contextlib.suppress(ValueError, ProcessLookupError):
            found = record.read(path.parent)
            if found and record.runs(found) and found.pid != os.getpid():
                os.killpg(found.pid, signal.SIGKILL)


@pytest.fixture
def processes(folder: Path) -> SupervisedProcesses:
    return SupervisedProcesses(folder, SystemClock())


async def start(processes: SupervisedProcesses, command: list[str] = WORKER, **environment: str) -> ProcessState:
    return await processes.start(NAME, command, environment, "/")


async def until(happened: Callable[[], object], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def said(state: ProcessState) -> str:
    assert state.log is not None
    return Path(state.log).read_text()


async def test_started_process_runs_in_a_session_of_its_own_and_ends_on_term(processes: SupervisedProcesses) -> None:
    state = await start(processes, WORD="here")
    assert state.running
    assert state.pid is not None
    assert os.getsid(state.pid) == state.pid
    await until(lambda: "up here" in said(state))
    await processes.tell(NAME, "TERM")
    after = await processes.wait_stopped(NAME, LONG)
    assert (after.running, after.exit_status, after.pid, after.started) == (False, -15, state.pid, state.started)


async def test_exit_status_is_known_after_the_end(processes: SupervisedProcesses) -> None:
    await start(processes, [sys.executable, "-c", "print('bad day'); raise SystemExit(3)"])
    after = await processes.wait_stopped(NAME, LONG)
    assert after.exit_status == 3
    assert "bad day" in said(after)


async def test_two_starts_at_once_give_one_process(folder: Path, processes: SupervisedProcesses) -> None:
    other = SupervisedProcesses(folder, SystemClock())
    states = await asyncio.gather(*(start(one) for one in (processes, other) * 3))
    assert len({(state.pid, state.started) for state in states}) == 1
    state = states[0]
    assert state.log is not None
    await until(lambda: "up" in said(state))
    assert said(state).count("up") == 1


async def test_process_outlives_a_killed_relight_and_is_adopted_by_the_next(folder: Path) -> None:
    relight = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(f"""
            import asyncio, pathlib
            from service.adapters.processes.local import SupervisedProcesses
            from service.clock import SystemClock
            async def main():
                processes = SupervisedProcesses(pathlib.Path({str(folder)!r}), SystemClock())
                state = await processes.start({NAME!r}, {WORKER!r}, {{}}, "/")
                print(state.pid, flush=True)
                await asyncio.sleep(100)
            asyncio.run(main())
        """)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert relight.stdout is not None
    pid = int(await asyncio.to_thread(relight.stdout.readline))
    relight.send_signal(signal.SIGKILL)
    relight.wait()
    relight.stdout.close()
    processes = SupervisedProcesses(folder, SystemClock())
    state = await start(processes)
    assert (state.running, state.pid) == (True, pid)
    assert said(state).count("up") <= 1
    await processes.tell(NAME, "TERM")
    # Its supervisor lives on too, so that the next Relight still learns how it ended.
    assert (await processes.wait_stopped(NAME, LONG)).exit_status == -15


async def test_killed_supervisor_leaves_its_process_running_and_adoptable(
    folder: Path, processes: SupervisedProcesses
) -> None:
    first = await start(processes)
    found = record.read(folder / NAME)
    assert found is not None
    os.kill(found.supervisor, signal.SIGKILL)
    await until(lambda: record.start_time(found.supervisor) is None)
    again = await start(processes)
    assert (again.pid, again.started, again.running) == (first.pid, first.started, True)
    await processes.tell(NAME, "TERM")
    after = await processes.wait_stopped(NAME, LONG)
    assert (after.running, after.exit_status) == (False, None)


async def test_kill_ends_the_whole_group(processes: SupervisedProcesses, tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"sleep 300 & echo $! >{child}; trap '' TERM; wait; wait"
    await start(processes, ["/bin/sh", "-c", script])
    await until(lambda: child.exists() and child.read_text().strip())
    pid = int(child.read_text())
    await processes.tell(NAME, "KILL")
    assert (await processes.wait_stopped(NAME, LONG)).exit_status == -9
    await until(lambda: record.start_time(pid) is None)


async def test_process_that_ignores_term_is_still_running_when_the_wait_is_over(processes: SupervisedProcesses) -> None:
    state = await start(processes, STUBBORN)
    await until(lambda: "up" in said(state))
    await processes.tell(NAME, "TERM")
    assert (await processes.wait_stopped(NAME, timedelta(milliseconds=300))).running


async def test_pid_given_to_another_process_is_not_ours(folder: Path, processes: SupervisedProcesses) -> None:
    # What is on record has our own pid, and a start time that is not ours: a signal would end the test.
    (folder / NAME).mkdir()
    ours = record.start_time(os.getpid())
    assert ours is not None
    record.write(
        folder / NAME, record.Record(NAME, os.getpid(), ours - 1, record.boot(), 1, str(folder / "x.log"), "then")
    )
    assert not (await processes.state(NAME)).running
    with pytest.raises(Retry, match="does not run"):
        await processes.tell(NAME, "KILL")


async def test_process_of_an_earlier_boot_is_not_running(folder: Path, processes: SupervisedProcesses) -> None:
    (folder / NAME).mkdir()
    ours = record.start_time(os.getpid())
    assert ours is not None
    record.write(
        folder / NAME, record.Record(NAME, os.getpid(), ours, "another-boot", 1, str(folder / "x.log"), "then")
    )
    assert not (await processes.state(NAME)).running


async def test_program_that_does_not_exist_is_named(processes: SupervisedProcesses) -> None:
    with pytest.raises(Permanent, match="No such file or directory: /no/such/program"):
        await start(processes, ["/no/such/program"])
    assert not (await processes.state(NAME)).running


async def test_folder_that_does_not_exist_is_named(processes: SupervisedProcesses) -> None:
    with pytest.raises(Permanent, match="/no/such/folder"):
        await processes.start(NAME, WORKER, {}, "/no/such/folder")


async def test_secret_in_the_environment_is_in_no_argument_list(processes: SupervisedProcesses, folder: Path) -> None:
    state = await start(processes, WORD="s3cr3t-word")
    await until(lambda: "up s3cr3t-word" in said(state))
    found = record.read(folder / NAME)
    assert found is not None
    for pid in (found.pid, found.supervisor):
        assert b"s3cr3t-word" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert "s3cr3t-word" not in (folder / NAME / "state.json").read_text()


async def test_relights_own_secrets_do_not_reach_a_component(
    processes: SupervisedProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELIGHT_POSTGRES_URL", "postgresql://relight:secret@127.0.0.1/relight")
    state = await start(processes, [sys.executable, "-u", "-c", "import os; print(sorted(os.environ), 'end')"])
    await until(lambda: "end" in said(state))
    assert "RELIGHT_POSTGRES_URL" not in said(state)


async def test_long_log_is_cut_and_the_process_writes_on(folder: Path, processes: SupervisedProcesses) -> None:
    state = await start(
        processes, [sys.executable, "-u", "-c", "while 1:\n import time\n print('x'*99); time.sleep(.01)"]
    )
    assert state.log is not None
    log = Path(state.log)
    await until(lambda: log.stat().st_size > 5_000)
    before = supervisor.LOG_BYTES
    try:
        supervisor.LOG_BYTES = 1_000
        supervisor._rotate(log)
    finally:
        supervisor.LOG_BYTES = before
    assert log.with_name("output.log.1").stat().st_size >= 5_000
    assert log.stat().st_size < 1_000
    await until(lambda: log.stat().st_size > 300)
    assert b"\0" not in log.read_bytes()


async def test_supervisor_killed_before_the_child_is_on_record_leaves_no_child_that_nobody_knows_of(
    folder: Path, processes: SupervisedProcesses
) -> None:
    home, marker = folder / NAME, folder / "ran"
    home.mkdir()
    script = f"""
        import os, sys
        from service.adapters.processes import supervisor
        supervisor.write = lambda *_: (open({str(folder / "forked")!r}, "w").close(), os.kill(os.getpid(), 9))
        sys.argv[1:] = [{str(home)!r}]
        supervisor.main()
    """
    order = {"name": NAME, "command": ["/bin/sh", "-c", f"touch {marker}"], "environment": {}, "folder": "/"}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        input=json.dumps(order).encode(),
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=10,
    )
    await until((folder / "forked").exists)
    await asyncio.sleep(0.3)
    assert not marker.exists()
    assert (await start(processes)).running


async def test_unreadable_record_is_an_error_and_no_second_start(folder: Path, processes: SupervisedProcesses) -> None:
    (folder / NAME).mkdir()
    (folder / NAME / "state.json").write_text("{half")
    with pytest.raises(Permanent, match="cannot be read"):
        await processes.state(NAME)
    with pytest.raises((Permanent, Retry)):
        await start(processes)
