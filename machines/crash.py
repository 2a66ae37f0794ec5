"""A crash at any point, followed by a restart, must end where the uncrashed run ends: tried at every point."""

from collections.abc import Iterator, Mapping

from machines.courses import Courses
from machines.explore import Configuration, Exploration, Explorer, Key, Outcome
from machines.violations import Violation

_FATES = (Outcome.BAD, Outcome.FAILED, Outcome.UNKNOWN)


def crash_findings(explorer: Explorer, seen: Exploration) -> Iterator[Violation]:
    """Every entry of a state that leaves it otherwise when Relight is killed and started again somewhere in between."""
    named: set[str] = set()
    for entry in _entries(explorer, seen):
        courses = Courses(explorer)
        for fate in _fates(entry):
            if entry.state in named:
                break
            points = list(_points(courses, entry, fate))
            # Nobody acting, all points of one run leave the state in the same way: as the last one does.
            wanted = _end(courses, points[-1], fate)
            for point in points:
                differing = (r for r in courses.crashes(point) if _end(courses, r, fate) != wanted)
                restarted = next(differing, None)
                if restarted is not None:
                    named.add(entry.state)
                    yield Violation("crash_differs", entry.state, _what(point, restarted, fate))
                    break


def _entries(explorer: Explorer, seen: Exploration) -> Iterator[Configuration]:
    """One entry of each state and each outline of what is remembered there, before any of its steps has ended."""
    passing = {state.name for state in explorer.machine.states if not (state.resting or state.final)}
    for configuration in seen.configurations.values():
        fresh = all(step.error is None and not step.result for step in configuration.steps)
        untouched = all(step.status == "planned" for step in configuration.steps)
        if configuration.state in passing and configuration.entered and fresh and untouched:
            yield configuration


def _fates(entry: Configuration) -> Iterator[Mapping[str, Outcome]]:
    yield {}
    for line in dict.fromkeys(step.planned.name.split(":")[0] for step in entry.steps):
        for outcome in _FATES:
            yield {line: outcome}


def _points(courses: Courses, entry: Configuration, fate: Mapping[str, Outcome]) -> Iterator[Configuration]:
    """Where the run stands after each commit until the state is left."""
    here: Configuration | None = entry
    passed: set[Key] = set()
    while here is not None and here.state == entry.state and here.whole not in passed:
        passed.add(here.whole)
        yield here
        here = courses.advance(here, fate)


def _end(courses: Courses, here: Configuration, fate: Mapping[str, Outcome]) -> Key:
    left = courses.run_on(here, fate)
    return left.whole


def _what(point: Configuration, restarted: Configuration, fate: Mapping[str, Outcome]) -> str:
    done = ", ".join(step.planned.name for step in point.steps if step.status == "done") or "nothing"
    fated = ", ".join(f"{line} {outcome}" for line, outcome in fate.items()) or "all well"
    moved = f"; being started anew moves it to {restarted.state}" if restarted.state != point.state else ""
    return f"killed after {done} ({fated}) it goes another way than without the crash{moved}"
