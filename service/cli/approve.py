"""`relight approve`: a person's answer to what waits for approval, through the local door, once they saw the plan."""

import asyncio
import getpass
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from machines.acts import answers
from machines.evidence import record
from machines.model import Asks, InstanceId, Snapshot
from machines.plan import route
from machines.registry import VERSIONS
from schemas.envelope import Rejected, read
from schemas.system import System
from service.cli.console import Screen
from service.cli.outcome import TAKEN_IN_WITHIN, outcome
from service.cli.plan import show
from service.cli.publish import compose
from service.cli.render import Tone
from service.cli.restart import local_zone
from service.cli.words import clock
from service.clock import SystemClock
from service.errors import RelightError
from service.ports import NewSignal
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
        event = compose(
            "approval.denied" if deny else "approval.given",
            asked.snapshot.system,
            {"instance": instance, "plan": plan, "reason": reason},
            str(uuid.uuid4()),
        )
        body = json.dumps(event)
        found = read(body.encode())
        if isinstance(found, Rejected):
            raise RelightError("not answered, for Relight would refuse it:\n  " + "\n  ".join(found.reasons))
        await opened.signal([NewSignal(asked.snapshot.system, body, user=getpass.getuser(), local=True)])
        said = await outcome(opened, SystemClock(), instance, asked.snapshot.seq, event["id"])
    if said is None:
        raise RelightError(
            f"the answer was stored, but nobody took it in within {TAKEN_IN_WITHIN.seconds} s: no `relight serve` "
            f"decides for {asked.snapshot.system}.\nIt is kept: the next one that starts takes it in, if it is not too "
            "late then."
        )
    if as_json:
        answer: dict[str, Any] = {"id": event["id"], "plan": plan, "accepted": not said.reasons}
        screen.json({**answer, "state": said.state, "reasons": list(said.reasons)})
    elif said.reasons:
        screen.say(f"refused: {'; '.join(said.reasons)}", Tone.BAD)
    else:
        screen.say(f"{said.reason}; {instance} is {said.state}", Tone.GOOD)
    return 1 if said.reasons else 0


async def _question(opened: "PostgresStore", instance: InstanceId) -> Question:
    views = await opened.instances()
    snapshot = next((view.snapshot for view in views if view.snapshot.instance == instance), None)
    if snapshot is None:
        known = ", ".join(view.snapshot.instance for view in views) or "none yet"
        raise RelightError(f"there is no instance {instance!r}; there are: {known}. Nothing was answered.")
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
