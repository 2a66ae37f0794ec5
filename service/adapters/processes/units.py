"""The port `Processes` for units of this host's systemd, through `systemctl` and `journalctl` as argument lists.

Nothing is remembered here: systemd knows what runs, which run it is and how the last one ended. How units are looked
at for other purposes stands in `systemd.py`.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from service.adapters.processes.record import start_time
from service.adapters.processes.systemd import Systemd
from service.errors import Permanent, Retry
from service.ports import UNIT, Clock, ProcessState, Programs

LOOK = 0.1
"""Seconds between two looks at a unit; one takes about 0.03."""
QUEUED_WITHIN = 15.0
"""Seconds that systemd may keep a start in its queue before the first process of the unit exists."""
SAYS_WITHIN = timedelta(seconds=10)
"""For the last lines of a unit's journal."""
LINES = 40
"""Of them that are read."""
MOST = 100
"""Units that are looked through for what ends with one; with more, nothing is stopped."""
SHOWN = (
    "Id", "LoadState", "LoadError", "ActiveState", "SubState", "MainPID", "InvocationID", "Result", "ExecMainCode",
    "ExecMainStatus", "Job", "NRestarts",
)  # fmt: skip
STOPPED_WITH = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")
"""What systemd stops together with a unit, see systemd.unit(5)."""


class SystemdUnits:
    """Units by `unit:<name>.service`."""

    def __init__(self, programs: Programs, clock: Clock) -> None:
        """`programs` runs `systemctl` and `journalctl`. Of `clock` only `monotonic` and `sleep` are used."""
        self._systemd, self._clock = Systemd(programs), clock

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> ProcessState:
        """`systemctl start` unless it runs; see the port. Raises Permanent when systemd refuses."""
        unit, before = _unit(name), await self.state(name)
        if before.ending:
            raise Retry(f"{unit} is {before.words}, it was told to end: it is not taken for a new one")
        if before.running and not before.comes_back:
            return before
        await self._systemd.act("start", unit)
        deadline = self._clock.monotonic() + QUEUED_WITHIN
        while True:
            shown = await self._systemd.shown(unit, SHOWN)
            state = _state(unit, shown)
            if state.running or not shown.get("Job"):
                return state
            if self._clock.monotonic() >= deadline:
                raise Retry(f"systemd keeps the start of {unit} in its queue: look with `systemctl list-jobs`")
            await self._clock.sleep(LOOK)

    async def state(self, name: str) -> ProcessState:
        """What systemd says. Raises Permanent when it could not start the unit (again)."""
        unit = _unit(name)
        shown = await self._systemd.shown(unit, SHOWN)
        loaded, why = shown.get("LoadState", ""), shown.get("LoadError", "")
        if loaded == "masked":
            raise Permanent(
                f"{unit} is masked, so systemd would not start it (again); nothing was done to it. "
                f"`systemctl unmask {unit}` takes that back"
            )
        if loaded == "not-found":
            raise Permanent(f"this host's systemd knows no unit {unit}: correct it in the system's file, or install it")
        if loaded != "loaded":
            raise Permanent(f"systemd could not load {unit} ({loaded}): {why.partition(' ')[2] or 'it says not why'}")
        return _state(unit, shown)

    async def strangers(self, name: str, command: Sequence[str], folder: str) -> tuple[int, ...]:
        """None: whoever started a unit, it is that unit."""
        return ()

    async def tell(self, name: str, signal_name: str) -> None:
        """`TERM` is `systemctl stop`, `KILL` the same without patience, any other signal goes to the main process, once
        it handles it: most signals end a process that does not. Raises Retry when it does not run."""
        unit, state = _unit(name), await self.state(name)
        if not state.running:
            raise Retry(f"{unit} does not run, so it cannot be sent {signal_name}")
        match signal_name:
            case "TERM":
                await self._systemd.act("stop", unit)
            case "KILL":
                # Stopped first: what is only killed is started again where its file says Restart=always.
                await self._systemd.act("stop", unit)
                await self._kill(name, unit)
            case _:
                self._handled(unit, state, signal_name)
                await self._systemd.signal(unit, signal_name, whom="main")

    async def wait_stopped(self, name: str, timeout: timedelta) -> ProcessState:
        """Waits until it has ended; the state then, running or not."""
        deadline = self._clock.monotonic() + timeout.total_seconds()
        while (state := await self.state(name)).running and self._clock.monotonic() < deadline:
            await self._clock.sleep(LOOK)
        return state

    async def groups(self, name: str) -> tuple[str, ...]:
        """The control groups of the unit and of all that systemd stops with it. Raises Permanent for more than MOST."""
        found, open_, asked = dict[str, str](), [_unit(name)], set[str]()
        while open_:
            asked.update(open_)
            if len(asked) > MOST:
                raise Permanent(
                    f"systemd stops more than {MOST} units together with {_unit(name)}, too many to look whether "
                    f"Relight stands on one of them; see `systemctl list-dependencies --reverse {_unit(name)}`"
                )
            shown = await self._systemd.all_shown(open_, ("Id", "ControlGroup", *STOPPED_WITH))
            found |= {one.get("Id", ""): one.get("ControlGroup", "") for one in shown}
            more = {word for one in shown for key in STOPPED_WITH for word in one.get(key, "").split()}
            open_ = sorted(more - set(found) - asked)  # a unit may be asked for by an alias, which is not its Id
        return tuple(group for group in found.values() if group.strip("/"))

    async def said(self, name: str) -> str:
        """The end of its journal; empty when there is none, or we may not read it."""
        return await self._systemd.journal(_unit(name), LINES, SAYS_WITHIN)

    async def _kill(self, name: str, unit: str) -> None:
        try:
            await self._systemd.signal(unit, "KILL", whom="all")
        except Permanent:
            if (await self.state(name)).running:
                raise
            # It ended by the stop before the signal came.

    def _handled(self, unit: str, state: ProcessState, name: str) -> None:
        try:
            number = signal.Signals[f"SIG{name}"]
        except KeyError as error:
            raise Permanent(f"{name!r} is no signal of this machine") from error
        if state.pid is None:
            raise Retry(f"{unit} has no main process now ({state.words}), so it cannot be sent {name}")
        try:
            status = Path(f"/proc/{state.pid}/status").read_text()
        except OSError:
            return  # hidden from us: systemd sends it, and knows whom
        masks = dict(line.split(":\t", 1) for line in status.splitlines() if line.startswith(("SigCgt", "SigIgn")))
        if not any(int(mask, 16) >> (number - 1) & 1 for mask in masks.values()):
            raise Retry(f"the main process of {unit} (pid {state.pid}) does not handle {name}, which would end it")


def _unit(name: str) -> str:
    if not name.startswith(UNIT):
        raise Permanent(f"{name!r} is no unit of systemd")
    return name.removeprefix(UNIT)


def _state(unit: str, shown: Mapping[str, str]) -> ProcessState:
    active, sub = shown.get("ActiveState", ""), shown.get("SubState", "")
    again = sub.startswith("auto-restart")
    pid = int(shown.get("MainPID") or 0) or None
    ran = _exit_status(shown)
    result = shown.get("Result", "success")
    state = ProcessState(
        running=active in ("active", "reloading", "refreshing", "activating", "deactivating"),
        pid=pid,
        started=start_time(pid) if pid is not None else None,
        exit_status=None if pid is not None else ran,
        log=f"(`journalctl --unit={unit}`)",
        ending=active == "deactivating",
        unit=unit,
        invocation=shown.get("InvocationID") or None,
        words=f"{active} ({sub})" if result == "success" or pid is not None else f"{active} ({sub}, {result})",
        starting=active == "activating" and not again,
        comes_back=again,
    )
    return state if state.running else replace(state, ending=False)


def _exit_status(shown: Mapping[str, str]) -> int | None:
    """Of the main process of the last run: ExecMainCode is si_code of waitid(2). systemd forgets it with a unit that
    nothing holds."""
    status = int(shown.get("ExecMainStatus") or 0)
    match shown.get("ExecMainCode"):
        case "1":
            return status
        case "2" | "3":
            return -status
        case _:
            return None
