"""`relight verify` and `relight diagram`: the tables, checked and drawn. Needs no server."""

from service.cli.console import Screen
from service.cli.render import Tone
from service.errors import RelightError


def verify(screen: Screen, as_json: bool) -> int:
    """A row for each machine: what was explored; below, each violation by name. 1 when there is any."""
    from machines.check import check_all

    reports = check_all()
    violations = [(report.machine, violation) for report in reports for violation in report.violations]
    if as_json:
        screen.json(reports)
        return 1 if violations else 0
    screen.table(
        ("MACHINE", "VERSION", "STATES", "TRANSITIONS", "CONFIGURATIONS", ""),
        [
            (
                report.machine,
                str(report.version),
                str(report.states),
                str(report.transitions),
                f"{report.configurations:,}",
                f"{len(report.violations)} wrong" if report.violations else "ok",
            )
            for report in reports
        ],
    )
    for machine, violation in violations:
        screen.say(f"{machine}: {violation}", Tone.BAD)
    return 1 if violations else 0


def diagram(screen: Screen, name: str, *, svg: bool = False) -> int:
    """Mermaid text, or an SVG picture, on standard output."""
    from machines import picture
    from machines.diagram import mermaid
    from machines.registry import MACHINES

    machine = MACHINES.get(name)
    if machine is None:
        raise RelightError(f"there is no machine called {name!r}; there are {', '.join(sorted(MACHINES))}")
    screen.out.out(picture.svg(machine) if svg else mermaid(machine), end="", highlight=False)
    return 0
