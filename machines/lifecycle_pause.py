"""How long the pauses of a restart hold: a pause is a lease that a participant ends by itself when nobody renews it.

Readers of facts; no way is decided here.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from machines.evidence import record, steps_of, text
from machines.model import Facts, Reason, StepStatus
from schemas.base import Json


def held(facts: Facts) -> Mapping[str, datetime]:
    """The components that were paused in this state entry, each with the moment (UTC) until which its pause holds.

    Never too late: a lease is counted from before its command can have been sent. Who did not run, or was passed over
    when it was silent, holds nothing.
    """
    lease = facts.system.restart.pause_lease
    until: dict[str, datetime] = {}
    for step in steps_of(facts, "pause"):
        if step.status is StepStatus.DONE and step.result.get("running") is not False and step.planned.component:
            until[step.planned.component] = facts.snapshot.entered_at + lease
    for step in steps_of(facts, "renew"):
        name, renewed = step.planned.component or "", text(step.result, "holds_until")
        if step.status is not StepStatus.DONE or name not in until:
            continue
        if step.result.get("running") is False:
            del until[name]
        elif renewed is not None:
            until[name] = max(until[name], datetime.fromisoformat(renewed))
    return {name: moment.astimezone(UTC) for name, moment in until.items()}


def pause_holds(facts: Facts) -> Reason | None:
    """Nobody works again already: what was flushed would not be what is stopped."""
    lapsed = [f"{name} at {until.isoformat()}" for name, until in held(facts).items() if until <= facts.now]
    return Reason(f"a pause was not renewed in time: {', '.join(lapsed)}") if lapsed else None


def note_held(facts: Facts) -> Mapping[str, Json]:
    """For the stops that follow: until when each pause holds."""
    return {"paused_until": {name: until.isoformat() for name, until in held(facts).items()}}


def paused_until(data: Mapping[str, Json], component: str) -> str | None:
    """What `note_held` remembered of a component."""
    return text(record(data, "paused_until"), component)
