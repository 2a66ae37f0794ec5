"""`relight approve`: a person's answer to what waits for approval, through the local door, once they saw the plan."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from machines.acts import answers
from machines.evidence import record
from machines.model import Asks, InstanceId, Snapshot
from machines.plan import route
from machines.registry import VERSIONS
from schemas.system import System
from service.cli.console import Screen
from service.cli.local_door import put, request, standing, taken_in
from service.cli.plan import show
from service.cli.render import Tone
from service.cli.restart import local_zone
from service.cli.words import clock
from service.errors import RelightError
from service.settings import Settings

if TYPE_CHECKING:
    from service.adapters.postgres import PostgresStore


@dataclass(frozen=True, slots=True)
class Question:
    """What waits: the instance as it stands, what it asks, and the system's file that the plan was made from."""

    snapshot: Snapshot
    asks: Asks
    system: System


def approve(
    settings: Settings, screen: Screen, instance: str, reason: str, plan: str | None, deny: bool, as_json: bool
) -> int:
    """0 when the answer was taken, 1 when it was refused or nobody confirmed it."""
    return asyncio.run(_approve(settings, screen, InstanceId(instance), reason, plan, deny, as_json))


async def _approve(
    settings: Settings, screen: Screen, instance: InstanceId, reason: str, plan: str | None, deny: bool, as_json: bool
) -> int:
    from service.cli.connect import store

    async with store(settings) as opened:
        asked = await _question(opened, instance)
        if not as_json:
            _show(screen, asked)
        if plan is None:
            plan = _confirmed(screen, asked.asks, deny=deny)
            if plan is None:
                screen.say("not answered; it still waits", Tone.WAIT)
                return 1
        data = {"instance": instance, "plan": plan, "reason": reason}
        name = "approval.denied" if deny else "approval.given"
        answer = request(name, asked.snapshot.system, data, "not answered")
        await put(opened, answer)
        then = ", if it is not too late then"
        said = await taken_in(opened, answer, instance, asked.snapshot.seq, "the answer", then)
    if as_json:
        found: dict[str, Any] = {"id": answer.event_id, "plan": plan, "accepted": not said.reasons}
        screen.json({**found, "state": said.state, "reasons": list(said.reasons)})
    elif said.reasons:
        screen.say(f"refused: {'; '.join(said.reasons)}", Tone.BAD)
    else:
        screen.say(f"{said.reason}; {instance} is {said.state}", Tone.GOOD)
    return 1 if said.reasons else 0


async def _question(opened: "PostgresStore", instance: InstanceId) -> Question:
    snapshot = await standing(opened, instance, "Nothing was answered")
    machine = VERSIONS.get((snapshot.machine, snapshot.machine_version))
    asks = machine.state(snapshot.state).asks if machine is not None else None
    if asks is None:
        raise RelightError(f"{instance} is {snapshot.state}: it waits for no approval. Nothing was answered.")
    text = (await opened.configurations_in_use()).get(snapshot.config_hash)
    if not text:
        raise RelightError(f"the configuration that {instance} stands on is not in the tables; nothing was answered")
    return Question(snapshot, asks(snapshot.data), System.model_validate_json(text))


def _show(screen: Screen, asked: Question) -> None:
    """The request, every step it would perform, and the hash that names both."""
    snapshot, restart = asked.snapshot, record(asked.snapshot.data, "restart")
    machine = VERSIONS[snapshot.machine, snapshot.machine_version]
    who = restart.get("requested_by")
    screen.say(f"restart {restart.get('id')} of {snapshot.system}, asked for by {who}", Tone.HEADING)
    screen.say(f"  {'why':<26}{restart.get('reason')}")
    screen.say(f"  {'pause':<26}{restart.get('due')}, or later: never sooner than the notice after the approval")
    if override := restart.get("freeze_overridden"):
        screen.say(f"  {'freeze overridden':<26}{override}", Tone.WAIT)
    show(screen, route(machine, asked.system), asked.system)
    deadline = f" at {clock(snapshot.deadline_at, local_zone())}" if snapshot.deadline_at is not None else ""
    screen.say(f"waits for {asked.asks.whom}; if nobody answers: {asked.asks.then}{deadline}", Tone.WAIT)
    screen.say(f"plan {asked.asks.plan}")


def _confirmed(screen: Screen, asks: Asks, *, deny: bool) -> str | None:
    """The hash, when a person at a terminal says so. Raises RelightError where there is none to ask."""
    if not screen.asks:
        yes, no = answers(InstanceId("INSTANCE"), asks)
        raise RelightError(f"say which plan you mean: {no if deny else yes}")
    return asks.plan if screen.confirm("Deny it?" if deny else "Approve exactly this plan?") else None
