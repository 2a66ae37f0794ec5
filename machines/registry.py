"""The one list of the machines, by name and by (name, version). Definitions stand in files of their own.

A machine whose table changes keeps its old table in `machines/old/` for as long as an instance may stand on it; it is
added to `VERSIONS`, while `MACHINES` has the newest of each name.
"""

from machines.alert import ALERT
from machines.chart import Chart
from machines.lifecycle import LIFECYCLE
from machines.model import Machine

OLD: tuple[Machine, ...] = ()
"""Tables that instances may still stand on between two rests."""

MACHINES: dict[str, Machine] = {machine.name: machine for machine in (LIFECYCLE, ALERT)}
"""The newest version of each machine, by name."""

VERSIONS: dict[tuple[str, int], Machine] = {
    (machine.name, machine.version): machine for machine in (*OLD, *MACHINES.values())
}
"""Every version that this release can run."""

CHARTS: dict[str, Chart] = {name: Chart(machine) for name, machine in MACHINES.items()}
"""The newest version of each machine ready to decide, by name."""

_CHARTS_BY_VERSION = {
    (name, version): CHARTS[name] if MACHINES[name] is machine else Chart(machine)
    for (name, version), machine in VERSIONS.items()
}


def chart(name: str, version: int) -> Chart:
    """The chart that an instance stands on. Raises KeyError when this release does not have that version."""
    try:
        return _CHARTS_BY_VERSION[name, version]
    except KeyError:
        known = ", ".join(f"{n} {v}" for n, v in sorted(VERSIONS))
        raise KeyError(f"machine {name} version {version} is not in this release, which has {known}") from None
