"""`relight plan`: the very steps of a run, from the very table that will perform them. Performs nothing."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machines.model import PlannedStep, State
from machines.plan import Leg, route
from machines.registry import MACHINES
from schemas.base import format_duration
from schemas.system import System
from service.cli.console import Screen
from service.cli.render import NO_RETURN, Tone
from service.cli.words import title
from service.errors import RelightError
from service.settings import Settings


def plan(
    settings: Settings, screen: Screen, procedure: str, name: str | None, paths: Sequence[Path], as_json: bool
) -> int:
    """The states that `procedure` goes through when all goes well, and each state's steps."""
    system = _chosen(_from_files(paths) if paths else asyncio.run(_from_store(settings)), name)
    legs = route(MACHINES["lifecycle"], system, trigger=f"{procedure}.requested")
    if as_json:
        screen.json(
            {
                "system": system.system,
                "config_hash": system.config_hash(),
                "states": [_json(leg, system) for leg in legs],
            }
        )
        return 0
    screen.say(f"{procedure} of {system.system} (configuration {system.config_hash()[:12]})", Tone.QUIET)
    show(screen, legs, system)
    return 0


def show(screen: Screen, legs: Sequence[Leg], system: System) -> None:
    """Every state of the way and its steps, and who has to agree before it begins."""
    if (rule := system.allow.approve) is not None:
        silence = "on silence it goes on" if rule.on_silence == "allow" else "on silence it is given up"
        screen.say("AWAITING APPROVAL", Tone.HEADING)
        names = " or ".join(rule.by)
        screen.say(f"  {'approval':<26}by {names}, never by who asks, within {format_duration(rule.within)}; {silence}")
    for leg in legs:
        _show(screen, leg, system)


def _from_files(paths: Sequence[Path]) -> dict[str, System]:
    from service.adapters.systems import load_systems

    return load_systems(paths)


async def _from_store(settings: Settings) -> dict[str, System]:
    """The systems as the running Relight knows them: the configuration that each lifecycle stands on."""
    from service.cli.connect import store

    async with store(settings) as opened:
        texts = await opened.configurations_in_use()
        views = await opened.instances()
    standing = {
        v.snapshot.system: texts.get(v.snapshot.config_hash) for v in views if v.snapshot.machine == "lifecycle"
    }
    return {name: System.model_validate_json(text) for name, text in standing.items() if text is not None}


def _chosen(systems: dict[str, System], name: str | None) -> System:
    known = ", ".join(sorted(systems)) or "none"
    if name is None:
        if len(systems) == 1:
            return next(iter(systems.values()))
        raise RelightError(f"say which system to plan for; known: {known}")
    if name not in systems:
        raise RelightError(f"no system is called {name!r}; known: {known}")
    return systems[name]


def _show(screen: Screen, leg: Leg, system: System) -> None:
    if leg.state.name == NO_RETURN:
        screen.say("── point of no return ──", Tone.WAIT)
    rest = f"   if it takes too long: {leg.state.then}" if leg.state.then else ""
    screen.say(f"{_heading(leg.state)}{rest}", Tone.HEADING)
    if leg.state.name == "preparing_for_restart.notifying":
        lead = format_duration(system.restart.notice.lead)
        screen.say(f"  {'notice':<26}{lead} before the pause; cancel until shutdown")
    for step in leg.steps:
        screen.say(f"  {step.name:<26}{_words(step, system)}")


def _heading(state: State) -> str:
    status = title(state.status)
    _, dot, part = state.name.partition(".")
    return f"{status} {part.replace('_', ' ')}" if dot else status


def _words(step: PlannedStep, system: System) -> str:
    return f"{_action(step, system)}   ({_bounds(step)})"


def _bounds(step: PlannedStep) -> str:
    words = [f"within {format_duration(step.timeout)}"]
    if step.attempts > 1:
        words.append(f"{step.attempts} attempts")
    if step.optional:
        words.append("its failure is only recorded")
    return ", ".join(words)


def _action(step: PlannedStep, system: System) -> str:
    from service.steps.registry import ACTIONS

    return ACTIONS[step.action].plan(step, system)


def _json(leg: Leg, system: System) -> dict[str, Any]:
    return {
        "state": leg.state.name,
        "status": leg.state.status,
        "then": leg.state.then or None,
        "steps": [
            {
                "name": step.name,
                "action": step.action,
                "component": step.component,
                "does": _action(step, system),
                "timeout": step.timeout.total_seconds(),
                "attempts": step.attempts,
                "optional": step.optional,
                "arguments": dict(step.arguments),
            }
            for step in leg.steps
        ],
    }
