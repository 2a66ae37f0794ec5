"""`relight down`: ends what `serve` leaves running, by hand, in reverse order of needs. It asks no server.

Each process is the one on record (boot, pid, start time) or none: a pid that the kernel gave again is never signalled.
Nor is one whose processes hold what Relight stands on: this very command, or the servers of its tables and messages.
Units of systemd end as a restart would end them, in their turn; those with `keep: true` are left to systemd.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from schemas.components import LOCAL, OnSilence
from schemas.system import System
from service.cli.console import Screen
from service.cli.home import find, only_one, read_system
from service.cli.render import Tone
from service.cli.words import span
from service.errors import Permanent, RelightError, StepError
from service.ports import UNIT, Grounds, Processes
from service.settings import Settings

KILLED_WITHIN = timedelta(seconds=10)
"""For a process to be gone after KILL: longer only when the kernel itself is stuck."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one component. `problem`: why it may still run; then the command fails. `killable`: --kill would
    end it."""

    component: str
    pid: int | None = None
    exit_status: int | None = None
    killed: bool = False
    problem: str | None = None
    killable: bool = False
    unit: str | None = None


def down(settings: Settings, screen: Screen, name: str, kill: bool, as_json: bool) -> int:
    """0 when nothing of the system runs any more, 1 when something does. Raises RelightError while `serve` runs."""
    home = settings.servers.home
    processes = home / "processes"
    recorded = sorted(folder.name.partition(".")[2] for folder in processes.glob(f"{name}.*"))
    units = _units(home, name)
    if not recorded and not units:
        known = sorted({folder.name.partition(".")[0] for folder in processes.glob("*.*")})
        raise RelightError(
            f"nothing of a system called {name!r} was ever started from {home}; known there: "
            f"{', '.join(known) or 'none'}. RELIGHT_HOME names another folder"
        )
    with only_one(home, f"it looks after {name} and would start it again; nothing was ended.\nEnd it first (Ctrl-C)."):
        turns, shown = _order(home, name, recorded, units), screen if not as_json else None
        ended = asyncio.run(_down(processes, name, turns, kill, shown, _own_servers(settings)))
    if as_json:
        screen.json(ended)
    problems = [one for one in ended if one.problem]
    if any(one.killable for one in problems) and not kill and not as_json:
        screen.say(f"`relight down {name} --kill` ends what does not end by itself.", Tone.WAIT)
    return 1 if problems else 0


@dataclass(frozen=True, slots=True)
class _Turn:
    component: str
    patience: timedelta
    kill: bool
    unit: str | None = None


def _units(home: Path, name: str) -> Mapping[str, str]:
    """The units that a restart would stop as well, by component. A kept one belongs to its host more than to the
    system, and nothing says that Relight started it: it is left to systemd. One of another host is out of reach."""
    try:
        system = read_system(home, name)
    except (FileNotFoundError, ValidationError):
        return {}
    mine = ((component, spec) for component, spec in system.components.items() if spec.place == LOCAL and not spec.keep)
    return {component: spec.service for component, spec in mine if spec.service is not None}


def _order(home: Path, name: str, recorded: list[str], units: Mapping[str, str]) -> list[_Turn]:
    """Whom in which order: what the last `serve` knew of the system; kept components after all others."""
    try:
        system = read_system(home, name)
    except (FileNotFoundError, ValidationError):
        # Started by an older Relight: no order is known, TERM is still TERM.
        return [_Turn(component, timedelta(seconds=30), kill=False) for component in recorded]
    return list(_turns(system, recorded, units))


def _turns(system: System, recorded: list[str], units: Mapping[str, str]) -> Iterator[_Turn]:
    ours = {*recorded, *units}
    known = [component for component in reversed(system.start_order()) if component in ours]
    strangers = [component for component in recorded if component not in known]
    stop = system.restart.limits.stop
    yield from (_Turn(component, stop, kill=False) for component in strangers)
    for component in sorted(known, key=lambda one: system.components[one].keep):
        killed = system.components[component].on_silence is OnSilence.KILL
        yield _Turn(component, stop, killed, units.get(component))


def _own_servers(settings: Settings) -> Mapping[str, str]:
    """URLs of the servers that the next `serve` stands on, as far as that is known while none runs: private ones end
    with it."""
    try:
        found = find(settings.servers)
    except RelightError:
        return {}
    return {
        "the PostgreSQL server of Relight's own tables": found.postgres_url,
        "Relight's own RabbitMQ broker": found.amqp_url,
    }


async def _down(
    folder: Path, name: str, turns: list[_Turn], kill: bool, screen: Screen | None, servers: Mapping[str, str]
) -> list[Ended]:
    from service.adapters.grounds import HostGrounds
    from service.adapters.processes.components import HostComponents
    from service.adapters.processes.local import SupervisedProcesses
    from service.adapters.processes.units import SystemdUnits
    from service.adapters.programs import LocalPrograms
    from service.clock import SystemClock

    async def asks_nobody() -> str:
        raise Permanent("`relight down` asks no server which one it is")

    processes: Processes = HostComponents(
        SupervisedProcesses(folder, SystemClock()), SystemdUnits(LocalPrograms(), SystemClock())
    )
    grounds = HostGrounds(servers, asks_nobody)
    ended = []
    for turn in turns:
        try:
            whole = f"{name}.{turn.component}" if turn.unit is None else f"{UNIT}{turn.unit}"
            one = await _end(processes, grounds, whole, turn, kill or turn.kill)
        except StepError as error:
            one = Ended(turn.component, problem=str(error))
        ended.append(one)
        if screen is not None:
            _say(screen, one)
        if one.problem:
            break  # what it needs must not be taken from under it
    return ended


async def _end(processes: Processes, grounds: Grounds, process: str, turn: _Turn, kill: bool) -> Ended:
    before = await processes.state(process)
    if not before.running or (before.pid is None and before.unit is None):
        return Ended(turn.component)
    groups = await processes.groups(process)
    reasons = list(await grounds.within(groups)) if groups else []
    reasons += await grounds.under(before.pid) if before.pid is not None else ()
    if reasons:
        stands = f"it was not ended, because Relight stands on it: {'; '.join(reasons)}"
        return Ended(turn.component, before.pid, problem=stands)
    await processes.tell(process, "TERM")
    state = await processes.wait_stopped(process, turn.patience)
    killed = state.running and kill
    if killed:
        await processes.tell(process, "KILL")
        state = await processes.wait_stopped(process, KILLED_WITHIN)
    why = f"it was sent TERM and still runs after {span(turn.patience)}" if state.running else None
    killable = why is not None and not killed
    return Ended(turn.component, before.pid, state.exit_status, killed, why, killable, turn.unit)


def _say(screen: Screen, one: Ended) -> None:
    if one.problem:
        pid = f" (pid {one.pid})" if one.pid is not None else ""
        screen.say(f"  {one.component:<20} {one.problem}{pid}; what it needs was left running", Tone.BAD)
    elif one.pid is None and one.unit is None:
        screen.say(f"  {one.component:<20} did not run", Tone.QUIET)
    else:
        how = "was killed" if one.killed else "ended"
        status = f", exit status {one.exit_status}" if one.exit_status is not None else ""
        what = f"pid {one.pid}" if one.unit is None else one.unit
        screen.say(f"  {one.component:<20} {how} ({what}{status})", Tone.GOOD)
