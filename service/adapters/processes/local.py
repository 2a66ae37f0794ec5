"""The port `Processes` on this host: asks supervisors to start, reads what they wrote down, sends signals.

It decides nothing and keeps nothing in memory: after Relight was killed, the next one reads the same records.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from schemas.base import NAME_PATTERN
from service.adapters.processes import record
from service.adapters.processes.strangers import strangers
from service.cancellation import to_the_end
from service.children import base_environment, closed, spawn
from service.crash import crash_point, for_supervisor
from service.errors import Permanent, Retry
from service.ports import Clock, ProcessState
from service.timeouts import time_limit

START_WITHIN = 15.0
"""Seconds in which a supervisor must say that the process exists (normally 0.1), another's lock included."""
ENDS = frozenset({signal.SIGTERM, signal.SIGKILL})
"""Signals that tell a process to end."""
LOOK = 0.02
"""Seconds between two looks at a process that is to end."""
STATUS_WITHIN = 1.0
"""Seconds that a supervisor gets to write down the exit status of a process that is gone."""
LOG_END = 64 * 1024
"""Bytes of a log that are read: secrets are hidden in them before they are cut, one cut in two would not be found."""
STRANGERS_WITHIN = 15.0
"""Seconds for one look at all processes of this host (normally 0.05)."""
ROOT = Path(__file__).resolve().parents[3]
"""The folder from which `service` is imported, for the supervisor's own Python."""

_NAME = re.compile(rf"{NAME_PATTERN}\.{NAME_PATTERN}")


class SupervisedProcesses:
    """Processes by `<system>.<component>`, each with a folder below `directory` for its record and its log."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """Nothing is touched yet. Of `clock` only `monotonic` and `sleep` are used."""
        self._directory = Path(directory).absolute()
        self._clock = clock

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> ProcessState:
        """Starts it unless it runs. Raises Permanent when the program cannot be run, Retry when nobody answers, or when
        what runs was told to end."""
        home = self._folder(name)
        if any("\0" in text for text in (*command, *environment, *environment.values(), folder)):
            raise Permanent(f"{name} could not be started: its arguments, environment or folder hold a NUL character")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        given = {**base_environment(), **environment}
        order = {"name": name, "command": list(command), "environment": given, "folder": folder}
        answer = await self._ask(name, home, json.dumps(order).encode())
        if "error" in answer:
            raise Permanent(f"{name} could not be started: {answer['error']} (in {folder})")
        if answer.get("ending") is True:
            pid = answer.get("pid")
            raise Retry(f"{name} still runs as pid {pid}, which was told to end: it is not taken for a new one")
        return await self.state(name)

    async def state(self, name: str) -> ProcessState:
        """What its record and /proc say now."""
        found = self._read(name)
        if found is None:
            return ProcessState(running=False)
        running = record.runs(found)
        status = None if running else found.exit_status
        ending = running and record.is_ending(self._folder(name), found)
        return ProcessState(running, found.pid, found.started, status, found.log, ending)

    async def strangers(self, name: str, command: Sequence[str], folder: str) -> tuple[int, ...]:
        """The pids of look-alikes that were not started here; see the port."""
        found = self._read(name)
        known = found.pid if found is not None else None
        try:
            async with time_limit(STRANGERS_WITHIN):
                return await asyncio.to_thread(strangers, name, command, folder, known)
        except (TimeoutError, OSError) as error:
            raise Retry(f"this host's processes could not be looked at for copies of {name}: {error}") from error

    async def tell(self, name: str, signal_name: str) -> None:
        """Sends `USR1`, `TERM`, … to the process, `KILL` to its group. Raises Retry when it does not run any more. Whom
        `TERM` or `KILL` was sent is `ending` from then on, also for the next Relight."""
        try:
            number = signal.Signals[f"SIG{signal_name}"]
        except KeyError as error:
            raise Permanent(f"{signal_name!r} is no signal of this machine") from error
        found = self._read(name)
        if found is None or not record.runs(found):
            raise Retry(f"{name} does not run, so it cannot be sent {signal_name}")
        if number in ENDS:
            record.note_ending(self._folder(name), found)
            crash_point("processes.after_note")
        try:
            if number is signal.SIGKILL:
                # Its group is its own (the supervisor gave it a session), and exists while the process does.
                os.killpg(found.pid, number)
            else:
                self._send(found, number)
        except ProcessLookupError as error:
            raise Retry(f"{name} ended before it was sent {signal_name}") from error
        except PermissionError as error:
            raise Permanent(f"Relight may not send {signal_name} to {name} (pid {found.pid})") from error
        crash_point("processes.after_signal")

    async def wait_stopped(self, name: str, timeout: timedelta) -> ProcessState:
        """Waits until it has ended; the state then, running or not."""
        deadline = self._clock.monotonic() + timeout.total_seconds()
        while (state := await self.state(name)).running and self._clock.monotonic() < deadline:
            await self._clock.sleep(LOOK)
        grace = self._clock.monotonic() + STATUS_WITHIN
        while not state.running and state.exit_status is None and self._clock.monotonic() < grace:
            found = self._read(name)
            if found is None or record.start_time(found.supervisor) is None:
                break  # nobody saw its end
            await self._clock.sleep(LOOK)
            state = await self.state(name)
        return state

    async def groups(self, name: str) -> tuple[str, ...]:
        """None: a process ends with its process group, not with a control group."""
        return ()

    async def said(self, name: str) -> str:
        """The end of its log. Raises Retry when it cannot be read."""
        found = self._read(name)
        if found is None:
            return ""
        try:
            content = await asyncio.to_thread(_end_of, Path(found.log))
        except OSError as error:
            raise Retry(f"{found.log}: {error.strerror or error}") from error
        return content.decode("utf-8", "replace")

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise Permanent(f"{name!r} is no name of a process: it is written <system>.<component>")
        return self._directory / name

    def _read(self, name: str) -> record.Record | None:
        try:
            return record.read(self._folder(name))
        except (OSError, ValueError, TypeError) as error:
            raise Permanent(
                f"the record of {name} in {self._folder(name)} cannot be read ({error}); whether it runs is not known. "
                "Look at the process, then delete that file"
            ) from error

    def _send(self, found: record.Record, number: signal.Signals) -> None:
        try:
            pidfd = os.pidfd_open(found.pid)
        except OSError as error:
            if isinstance(error, ProcessLookupError):
                raise
            os.kill(found.pid, number)  # an old kernel: the comparison a moment ago has to do
            return
        try:
            # The file descriptor holds the process fast: compared after opening, it cannot be another one.
            if record.start_time(found.pid) != found.started:
                raise ProcessLookupError
            signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    async def _ask(self, name: str, home: Path, order: bytes) -> dict[str, object]:
        """Runs a supervisor and reads its one line. It detaches by itself; what we started ends at once."""
        with (home / "supervisor.log").open("ab") as errors:
            supervisor = await spawn(
                sys.executable,
                "-m",
                "service.adapters.processes.supervisor",
                str(home),
                stdin=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**base_environment(), "PYTHONPATH": str(ROOT), **for_supervisor()},
                cwd="/",
                own_group=False,
            )
        assert supervisor.stdin is not None  # noqa: S101  # asked for above
        assert supervisor.stdout is not None  # noqa: S101
        try:
            async with time_limit(START_WITHIN):
                supervisor.stdin.write(order)
                await supervisor.stdin.drain()
                supervisor.stdin.close()
                crash_point("processes.after_order")
                line = await supervisor.stdout.readline()
                await supervisor.wait()
        except (TimeoutError, OSError) as error:
            raise Retry(f"the supervisor of {name} said nothing within {START_WITHIN:.0f} s") from error
        finally:
            if supervisor.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    supervisor.kill()
                await to_the_end(closed(supervisor))
        if not line:
            raise Retry(f"the supervisor of {name} ended without a word; see {home / 'supervisor.log'}")
        answer: dict[str, object] = json.loads(line)
        return answer


def _end_of(log: Path) -> bytes:
    with log.open("rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - LOG_END, 0))
        return file.read(LOG_END)
