"""The units of systemd that `relight adopt` looks at, and which of them can be components. It asks, no more."""

import re
from collections.abc import Sequence
from pathlib import Path

from schemas.components import UNIT as UNIT_NAME
from service.adapters.processes.systemd import Systemd, Unit
from service.adapters.programs import LocalPrograms
from service.cli.adopt_found import FoundUnit
from service.errors import StepError

UNIT = re.compile(r"/([^/\n]+\.service)$", re.MULTILINE)
"""The service whose control group a line of /proc/PID/cgroup names."""


async def look_at_units(wanted: Sequence[str], theirs: Sequence[str]) -> tuple[list[FoundUnit], list[str]]:
    """Those that were named, and `theirs`, to which a chosen process belongs."""
    asked = (*wanted, *theirs)
    if not asked:
        return [], []
    systemd, what = Systemd(LocalPrograms()), f"--unit {', '.join(asked)}"
    if (why := systemd.absent()) is not None:
        return [], [f"{what}: {why}"]
    try:
        found = await systemd.units(asked)
    except StepError as error:
        return [], [f"{what}: {error}"]
    problems = [] if found else [f"{what}: no loaded service has such a name"]
    units = []
    for one in found:
        main = f", main process {one.main_pid}" if one.main_pid else ""
        about = f"{one.description} ({one.active}{main}, of {one.user or 'root'}, from {one.file})"
        units.append(FoundUnit(one.name, about, one.main_pid, one.needs, _unfit(one)))
    return units, problems


def _unfit(unit: Unit) -> str | None:
    """Why a unit cannot be a component; None when it can."""
    if unit.active != "active" or not unit.main_pid:
        return f"it is {unit.active or 'nothing that systemd knows'} and has no main process to look at"
    if UNIT.search(f"/{unit.name}") is None or re.fullmatch(UNIT_NAME, unit.name) is None:
        return "its name cannot stand in a system's file"
    try:
        own = set(UNIT.findall(Path("/proc/self/cgroup").read_text()))
    except OSError:
        own = set()
    return "Relight itself runs in it" if unit.name in own else None


def unit_of(pid: int) -> str | None:
    """The service of systemd whose control group the process is in, unless we are in it ourselves."""
    try:
        found = UNIT.search(Path(f"/proc/{pid}/cgroup").read_text())
        own = UNIT.search(Path("/proc/self/cgroup").read_text())
    except OSError:
        return None
    if found is None or (own is not None and own[1] == found[1]):
        return None
    return found[1]
