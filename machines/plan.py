"""From the table to named steps: what a state plans for one system, how long it waits, and the way a restart goes.

What `relight plan` prints and what a run performs come from here, from the very same table. Nothing is decided here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from machines.model import Each, Machine, On, PlannedStep, State, Step, WaitFor
from schemas.base import Json
from schemas.components import Command, OnSilence
from schemas.system import System

UNLIMITED_BACKUP = timedelta(minutes=30)
"""The limit of a backup where the file has none: no step is planned then, but every limit has a span."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One state of a way, what is done in it, and the table's words for how it is entered."""

    state: State
    steps: tuple[PlannedStep, ...]
    entered: str


def plan(machine: Machine, state: State | str, system: System, data: Mapping[str, Json]) -> tuple[PlannedStep, ...]:
    """The steps of one entry of `state`, in order of position: `pause:reporter`, `pause:calculator`, `seal`, `check:0`.

    One after another, except that the checks of one line of the table share a position and run side by side.
    `data` is the snapshot's after the transition. Raises KeyError for an unknown state, ValueError for an unknown span.
    """
    del data  # nothing in today's tables depends on it; it is in the contract because tomorrow's rungs will
    row = machine.state(state) if isinstance(state, str) else state
    planned: list[PlannedStep] = []
    position = 0
    for step in row.steps:
        if step.every is not None:
            continue
        expanded = list(_expand(step, system, position))
        planned += expanded
        position = expanded[-1].position + 1 if expanded else position
    return tuple(planned)


def repeats(state: State, system: System) -> tuple[tuple[Step, timedelta], ...]:
    """The steps that are done again and again while the state lasts, each with how often."""
    return tuple((step, limit(system, step.every)) for step in state.steps if step.every is not None)


def plan_round(
    step: Step, system: System, number: int, position: int = 0, arguments: Mapping[str, Json] | None = None
) -> tuple[PlannedStep, ...]:
    """Round `number` of a step that repeats: `renew:reporter:2`, `renew:calculator:2`, all at `position`.

    `arguments` are what only its moment knows, beside those of the table.
    """
    return tuple(
        replace(
            one,
            name=f"{one.name}:{number}",
            position=position,
            arguments={**one.arguments, **(arguments or {}), "round": number},
        )
        for one in _expand(step, system, position)
    )


def waits(
    state: State, system: System, data: Mapping[str, Json], now: datetime
) -> tuple[datetime | None, datetime | None]:
    """(`dwell_until`, `deadline_at`) of an entry of `state` at `now`; None where there is no such wait."""
    return _moment(state.dwell, system, data, now), _moment(state.deadline, system, data, now)


def route(
    machine: Machine, system: System, start: str = "operational", trigger: str = "restart.requested"
) -> tuple[Leg, ...]:
    """The states that a run goes through when all goes well, from `start` on `trigger` to the next rest.

    Follows the first transition of the table for `completed` in each state, passing over states that this system never
    comes to: a table names the good way first. Raises ValueError when the table has no such way.
    """
    legs: list[Leg] = []
    here, by = start, trigger
    while len(legs) <= len(machine.states):
        ways = (t for t in machine.transitions if here in t.sources and t.trigger == by)
        taken = next((t for t in ways if _comes_there(machine.state(t.target), system)), None)
        if taken is None:
            raise ValueError(f"machine {machine.name}: no way leads on from {here} by {by}")
        state = machine.state(taken.target)
        legs.append(Leg(state, plan(machine, state, system, {}), taken.reason))
        if state.resting or state.final:
            return tuple(legs)
        here, by = state.name, On.COMPLETED
    raise ValueError(f"machine {machine.name}: the way from {start} by {trigger} comes to no rest")


def _comes_there(state: State, system: System) -> bool:
    return state.when is None or state.when(system)


def plan_hash(machine: Machine, system: System, request: Mapping[str, Json]) -> str:
    """SHA-256 (hex) of what is asked for and of every step that it would perform: what an approval names.

    `request` is what tells this request from every other (its id, who asks, why, when). Raises ValueError like `route`.
    """
    legs = [
        {
            "state": leg.state.name,
            "steps": [
                {
                    "name": step.name,
                    "action": step.action,
                    "position": step.position,
                    "timeout": step.timeout.total_seconds(),
                    "attempts": step.attempts,
                    "component": step.component,
                    "arguments": dict(step.arguments),
                    "optional": step.optional,
                    "on_silence": step.on_silence.value,
                }
                for step in leg.steps
            ],
        }
        for leg in route(machine, system)
    ]
    whole = {
        "machine": [machine.name, machine.version],
        "configuration": system.config_hash(),
        "request": dict(request),
        "route": legs,
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def limit(system: System, name: str) -> timedelta:
    """The span called `name` in the system's `restart.limits`, or else in `restart`. Raises ValueError for neither."""
    if name == "backup":
        return system.restart.backup.within if system.restart.backup is not None else UNLIMITED_BACKUP
    for place in (system.restart.limits, system.restart):
        value = getattr(place, name, None)
        if isinstance(value, timedelta):
            return value
    raise ValueError(f"{name!r} is no limit of restart.limits and no span of restart")


def _expand(step: Step, system: System, position: int) -> Iterator[PlannedStep]:
    if step.when is not None and not step.when(system):
        return
    match step.each:
        case Each.SYSTEM:
            yield _planned(step, system, step.name, position)
        case Each.DATABASE | Each.BACKUP:
            names = tuple(system.databases) if step.each is Each.DATABASE else system.backed_up
            for offset, name in enumerate(names):
                yield _planned(step, system, f"{step.name}:{name}", position + offset, database=name)
        case Each.CHECK:
            for index in range(len(system.verify)):
                yield _planned(step, system, f"{step.name}:{index}", position, check=index)
        case Each.COMPONENT | Each.COMPONENT_REVERSED:
            order = system.start_order()
            if step.each is Each.COMPONENT_REVERSED:
                order = order[::-1]
            for offset, name in enumerate(name for name in order if _concerns(step, system, name)):
                yield _planned(step, system, f"{step.name}:{name}", position + offset, component=name)


def _concerns(step: Step, system: System, name: str) -> bool:
    component = system.components[name]
    if step.takes is Command.DISCONNECT and not any(need in system.mcp for need in component.needs):
        return False
    return (step.keep or not component.keep) and (step.takes is None or component.takes(step.takes))


def _planned(
    step: Step,
    system: System,
    name: str,
    position: int,
    *,
    component: str | None = None,
    check: int | None = None,
    database: str | None = None,
) -> PlannedStep:
    arguments: dict[str, Json] = dict(step.arguments(system)) if step.arguments is not None else {}
    if check is not None:
        arguments["check"] = check
    if database is not None:
        arguments["database"] = database
    return PlannedStep(
        name=name,
        action=step.action,
        position=position,
        timeout=step.timeout if step.limit is None else limit(system, step.limit),
        attempts=step.attempts,
        component=component,
        arguments=arguments,
        optional=step.optional,
        asks_again=step.asks_again,
        on_silence=step.on_silence or _when_silent(system, component),
    )


def _when_silent(system: System, component: str | None) -> OnSilence:
    return OnSilence.ABORT if component is None else system.components[component].on_silence


def _moment(wait: WaitFor | None, system: System, data: Mapping[str, Json], now: datetime) -> datetime | None:
    if wait is None:
        return None
    return now + wait if isinstance(wait, timedelta) else wait(system, data, now)
