"""The exhaustive checks of every machine: what its table promises, and what each configuration it can get into does.

`python -m machines.check` prints a table and exits 1 on any violation (`relight verify` calls `check_all`).
`python -m machines.check --accept` records the fingerprints of new versions; a table that changed under an unchanged
version is refused: raise the version and keep the old table in `machines/old/`, or, when no instance has ever stood on
it, add `--unreleased`. No machine is defined here.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from machines.crash import crash_findings
from machines.explore import Exploration, explorers
from machines.fingerprint import accept, committed, fingerprint, label
from machines.model import Machine
from machines.registry import VERSIONS
from machines.structure import structure_findings
from machines.violations import Violation


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked of one machine: how much was looked at, and every violation by name."""

    machine: str
    version: int
    states: int
    transitions: int
    configurations: int
    violations: tuple[Violation, ...]

    @property
    def passed(self) -> bool:
        return not self.violations


def check_all(machines: Iterable[Machine] | None = None) -> tuple[Report, ...]:
    """A report on every version of every machine of this release, or on those given. Takes a few seconds; no I/O but
    reading the committed fingerprints and the sources."""
    accepted = committed()
    return tuple(check(machine, accepted) for machine in (VERSIONS.values() if machines is None else machines))


def check(machine: Machine, accepted: Mapping[str, str]) -> Report:
    """All checks of one machine. `accepted` are the fingerprints by `name version`."""
    violations = list(structure_findings(machine))
    violations += fingerprint_findings(machine, accepted)
    configurations = 0
    if not any(violation.fatal for violation in violations):
        endless = any(violation.kind == "unbounded_cycle" for violation in violations)
        configurations, found = _behaviour(machine, runs_end=not endless)
        violations += found
    edges = sum(len(transition.sources) for transition in machine.transitions)
    unique = tuple(dict.fromkeys(violations))
    return Report(machine.name, machine.version, len(machine.states), edges, configurations, unique)


def _behaviour(machine: Machine, *, runs_end: bool) -> tuple[int, list[Violation]]:
    count, opened, states, found = 0, set[int](), set[str](), []
    for explorer in explorers(machine):
        seen = explorer.explore()
        count += len(seen.configurations)
        opened |= seen.opened
        states |= {configuration.state for configuration in seen.configurations.values()}
        found += [Violation(kind, where, what) for (kind, where), what in seen.faults.items()]
        found += _cannot_rest(machine, seen)
        if runs_end:
            found += crash_findings(explorer, seen)
    for index, transition in enumerate(machine.transitions):
        if index not in opened:
            where = f"{'|'.join(transition.sources)} on {transition.trigger} to {transition.target}"
            what = "no configuration takes it: an earlier transition or its own guards always stand in the way"
            found.append(Violation("unreachable_transition", where, what))
    for state in machine.states:
        if state.name not in states:
            found.append(
                Violation("unreachable_state", state.name, "no configuration gets there: remove it or lead there")
            )
    return count, found


def _cannot_rest(machine: Machine, seen: Exploration) -> Iterator[Violation]:
    """Configurations from which nothing that happens by itself leads to a resting or final state."""
    safe = {state.name for state in machine.states if state.resting or state.final}
    before: dict[object, list[object]] = {}
    for source, target, _, automatic in seen.edges:
        if automatic:
            before.setdefault(target, []).append(source)
    reached: set[object] = {key for key, configuration in seen.configurations.items() if configuration.state in safe}
    waiting: list[object] = list(reached)
    while waiting:
        for earlier in before.get(waiting.pop(), ()):
            if earlier not in reached:
                reached.add(earlier)
                waiting.append(earlier)
    for key, configuration in seen.configurations.items():
        # Before its first event an instance is only a row that is not there yet.
        if key not in reached and configuration.entered:
            steps = ", ".join(f"{step.planned.name} {step.status}" for step in configuration.steps) or "no steps"
            what = (
                f"with {steps} nothing leads to a resting or final state by itself: give it a deadline with a way out"
            )
            yield Violation("cannot_rest", configuration.state, what)
            return


def fingerprint_findings(machine: Machine, accepted: Mapping[str, str]) -> Iterator[Violation]:
    """A table that is not the accepted one of its version, or a version that nobody has accepted yet."""
    name = label(machine)
    if name not in accepted:
        yield Violation("unknown_version", name, "run `python -m machines.check --accept` and commit fingerprints.json")
    elif accepted[name] != fingerprint(machine):
        yield Violation(
            "changed_without_version",
            name,
            "instances may stand on the old table: raise `version`, keep the old one in machines/old/, then --accept "
            "(--accept --unreleased when no instance has ever stood on it)",
        )


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 all well, 1 violations or a refused fingerprint, 2 wrong usage."""
    if list(arguments) in (["--accept"], ["--accept", "--unreleased"]):
        refused = accept(VERSIONS.values(), unreleased="--unreleased" in arguments)
        for name in refused:
            _say(f"{name}: changed under an unchanged version; raise it and keep the old table in machines/old/")
        return 1 if refused else 0
    if arguments:
        _say("usage: python -m machines.check [--accept [--unreleased]]")
        return 2
    reports = check_all()
    _say(f"{'machine':<20} {'version':>7} {'states':>7} {'transitions':>11} {'configurations':>14}  violations")
    for report in reports:
        _say(
            f"{report.machine:<20} {report.version:>7} {report.states:>7} {report.transitions:>11} "
            f"{report.configurations:>14}  {len(report.violations) or 'none'}"
        )
        for violation in report.violations:
            _say(f"  {violation}")
    return 0 if all(report.passed for report in reports) else 1


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
