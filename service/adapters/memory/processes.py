"""Processes and units of systemd in memory, on a given clock: the port `Processes` for simulations and tests of steps.

What they do can be scripted; by default everything works. No other part of the world in memory lives here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from service.errors import Permanent, Retry
from service.ports import UNIT, Clock, ProcessState

LOOK = 0.05
"""Seconds between two looks at a process that is to end, on the given clock."""


@dataclass(slots=True)
class ProcessScript:
    """How a process behaves. `ignores`: signals that do not end it; `ends_after` TERM: seconds; `exits_at_once` with
    this status right after its start. Of a unit: `up_after` seconds systemd calls it up; `comes_back` as many seconds
    after it ended by itself; `refused`: why systemd would not start it (again)."""

    ignores: frozenset[str] = frozenset()
    ends_after: float = 0.0
    exits_at_once: int | None = None
    up_after: float = 0.0
    comes_back: float | None = None
    refused: str | None = None


@dataclass(slots=True)
class _Process:
    pid: int
    started: int
    environment: Mapping[str, str]
    ends_at: float | None = None
    exit_status: int | None = None
    ending: bool = False
    began: float = 0.0
    ended: float | None = None


class MemoryProcesses:
    """Processes by name. `told` lists every signal sent, `starts` counts the starts, `copies` holds the pids of
    strangers that look like it; `on_start` and `on_end` are called with the name (and the environment) so that a
    participant can live in the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.control_groups: dict[str, tuple[str, ...]] = {}
        self.output: dict[str, str] = {}
        self._processes: dict[str, _Process] = {}
        self._next_pid = 1000
        self.scripts: dict[str, ProcessScript] = {}
        self.told: list[tuple[str, str]] = []
        self.starts: dict[str, int] = {}
        self.copies: dict[str, tuple[int, ...]] = {}
        self.on_start: Callable[[str, Mapping[str, str]], None] = lambda name, environment: None
        self.on_end: Callable[[str], None] = lambda name: None

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> ProcessState:
        if not name.startswith(UNIT) and (not command or command[0] == "no-such-program"):
            raise Permanent(f"{name} could not be started: No such file or directory: {command[:1]} (in {folder})")
        before = await self.state(name)
        if before.ending:
            raise Retry(f"{name} still runs as pid {before.pid}, which was told to end: it is not taken for a new one")
        if not before.running or before.comes_back:
            self._begin(name, environment)
        return await self.state(name)

    async def state(self, name: str) -> ProcessState:
        process, unit = self._processes.get(name), name.removeprefix(UNIT) if name.startswith(UNIT) else None
        if unit is not None and (why := self._script(name).refused) is not None:
            raise Permanent(f"{unit}: {why}")
        if process is None:
            return ProcessState(False, unit=unit, words="inactive (dead)" if unit else "")
        if process.exit_status is None and process.ends_at is not None and self._clock.monotonic() >= process.ends_at:
            self._end(name, process, 0)
        if unit is not None:
            return self._unit(name, unit, process)
        running = process.exit_status is None
        ending = running and process.ending
        return ProcessState(running, process.pid, process.started, process.exit_status, ending=ending)

    async def strangers(self, name: str, command: Sequence[str], folder: str) -> tuple[int, ...]:
        return self.copies.get(name, ())

    async def tell(self, name: str, signal: str) -> None:
        if not (await self.state(name)).running:
            raise Retry(f"{name} does not run, so it cannot be sent {signal}")
        self.told.append((name, signal))
        process, script = self._processes[name], self._script(name)
        process.ending = process.ending or signal in ("TERM", "KILL")
        if process.exit_status is not None:
            return  # systemd would have started it again, and does not now
        if signal == "KILL":
            self._end(name, process, -9)
        elif signal == "TERM" and signal not in script.ignores:
            process.ends_at = self._clock.monotonic() + script.ends_after

    async def wait_stopped(self, name: str, timeout: timedelta) -> ProcessState:
        deadline = self._clock.monotonic() + timeout.total_seconds()
        while (state := await self.state(name)).running and self._clock.monotonic() < deadline:
            await self._clock.sleep(LOOK)
        return state

    async def groups(self, name: str) -> tuple[str, ...]:
        return self.control_groups.get(name, ())

    async def said(self, name: str) -> str:
        return self.output.get(name, "")

    def crash(self, name: str) -> None:
        """The process ends by itself, as after kill -9."""
        self._end(name, self._processes[name], -9)

    def environment(self, name: str) -> Mapping[str, str]:
        """What the last run of the process was given."""
        return self._processes[name].environment

    def _script(self, name: str) -> ProcessScript:
        return self.scripts.get(name, ProcessScript())

    def _unit(self, name: str, unit: str, process: _Process) -> ProcessState:
        """As systemd sees it: what ended by itself may come back, what was stopped stays away."""
        script, now = self._script(name), self._clock.monotonic()
        again = process.exit_status is not None and not process.ending and script.comes_back is not None
        if again and now >= (process.ended or 0.0) + (script.comes_back or 0.0):
            process, again = self._begin(name, process.environment), False
        running = process.exit_status is None
        starting = running and not process.ending and now < process.began + script.up_after
        words = "deactivating (stop-sigterm)" if running and process.ending else "active (running)"
        words = "activating (start)" if starting else words if running else "inactive (dead)"
        return ProcessState(
            running or again,
            process.pid if running else None,
            process.started if running else None,
            process.exit_status,
            ending=running and process.ending,
            unit=unit,
            invocation=f"run-{process.pid}",
            words="activating (auto-restart)" if again else words,
            starting=starting,
            comes_back=again,
        )

    def _begin(self, name: str, environment: Mapping[str, str]) -> _Process:
        self._next_pid += 1
        now = self._clock.monotonic()
        process = _Process(self._next_pid, round(now * 100), dict(environment), began=now)
        process.exit_status = self._script(name).exits_at_once
        process.ended = None if process.exit_status is None else now
        self._processes[name] = process
        self.starts[name] = self.starts.get(name, 0) + 1
        if process.exit_status is None:
            self.on_start(name, process.environment)
        return process

    def _end(self, name: str, process: _Process, status: int) -> None:
        if process.exit_status is None:
            process.exit_status, process.ended = status, self._clock.monotonic()
            self.on_end(name)
