"""The fingerprint of a machine's table: the same for the same behaviour's source, another for any change of it.

A snapshot stands on a version of its machine between two rests; so a table that changed must have a new version. The
committed fingerprints (`fingerprints.json`) are what notices. Only `machines/check.py` reads sources and files.
"""

import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType

from machines.model import Machine, State, Step, Transition

FILE = Path(__file__).parent / "fingerprints.json"


def fingerprint(machine: Machine) -> str:
    """SHA-256 (hex) over states, steps, transitions and the source of every function they reach within `machines`."""
    lines = [f"{machine.name} starts {machine.initial}, absorbs {sorted(machine.absorbs)}"]
    functions: list[Callable[..., object]] = [machine.address]
    if machine.explain is not None:
        functions.append(machine.explain)
    if machine.withholds is not None:
        functions.append(machine.withholds)
    for state in machine.states:
        lines.append(_state(state))
        functions += [told for told in (state.dwell, state.deadline, state.asks, state.when) if callable(told)]
        for step in state.steps:
            lines.append("  " + _step(step))
            functions += [asked for asked in (step.arguments, step.when) if asked is not None]
    for transition in machine.transitions:
        lines.append(_transition(transition))
        functions += [*transition.guards, *([transition.changes] if transition.changes is not None else [])]
    return hashlib.sha256("\n".join([*lines, *sorted(_reached(functions))]).encode()).hexdigest()


def committed(file: Path = FILE) -> Mapping[str, str]:
    """The accepted fingerprints: `lifecycle 1` to hex. Empty when there is no file."""
    if not file.exists():
        return {}
    accepted: dict[str, str] = json.loads(file.read_text())
    return accepted


def accept(machines: Iterable[Machine], file: Path = FILE, *, unreleased: bool = False) -> tuple[str, ...]:
    """Writes the fingerprints of new versions; the names of those that changed under an unchanged version.

    Those are written only with `unreleased`: no instance has ever stood on that table.
    """
    accepted, refused = dict(committed(file)), []
    for machine in machines:
        name, now = label(machine), fingerprint(machine)
        if accepted.get(name, now) != now and not unreleased:
            refused.append(name)
        else:
            accepted[name] = now
    file.write_text(json.dumps(accepted, indent=2, sort_keys=True) + "\n")
    return tuple(refused)


def label(machine: Machine) -> str:
    return f"{machine.name} {machine.version}"


def _state(state: State) -> str:
    kind = "resting" if state.resting else "final" if state.final else "passing"
    waits = f"dwell {_value(state.dwell)} deadline {_value(state.deadline)} then {state.then} asks {_value(state.asks)}"
    only = f" when {_value(state.when)}" * (state.when is not None)
    return f"state {state.name} {kind} {waits}{' passes' * state.passes}{only}"


def _step(step: Step) -> str:
    fields = ("name", "action", "each", "timeout", "limit", "attempts", "takes", "keep", "optional", "arguments")
    more = ("when", "every", "on_silence")
    return "step " + " ".join(f"{name}={_value(getattr(step, name))}" for name in (*fields, *more))


def _transition(transition: Transition) -> str:
    guards = ",".join(_value(guard) for guard in transition.guards)
    sources = "|".join(transition.sources)
    return (
        f"{sources} --{transition.trigger}--> {transition.target} if {guards or 'always'} "
        f"then {_value(transition.changes)} {'staying ' * transition.stay}budget {transition.budget} "
        f"because {transition.reason}"
    )


def _value(value: object) -> str:
    if isinstance(value, FunctionType):
        return value.__qualname__
    if isinstance(value, Enum):
        return str(value.value)
    return str(value)


def _reached(functions: Iterable[Callable[..., object]]) -> Iterator[str]:
    """The source of every function, and of all functions and plain constants of `machines` that it names, each once."""
    seen: set[object] = set()
    waiting = list(functions)
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType) or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        yield textwrap.dedent(inspect.getsource(function)).strip()
        for name in _names(function.__code__):
            value = function.__globals__.get(name)
            if isinstance(value, FunctionType) and value.__module__.split(".")[0] == "machines":
                waiting.append(value)
            elif isinstance(value, str | int | float | tuple | timedelta) and not name.startswith("__"):
                yield f"{name} = {_constant(value)}"


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _constant(value: object) -> str:
    return f"({', '.join(map(_constant, value))})" if isinstance(value, tuple) else repr(_value(value))
