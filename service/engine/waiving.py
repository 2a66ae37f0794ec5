"""Waivers as an instance remembers them: given by a person for one step, until a moment, and heeded when it is planned.

Whether one may be given in a state stands in `machines/acts.py`; nothing is written here.
"""

from collections.abc import Collection, Iterable
from datetime import datetime

from machines.acts import waived_ahead
from machines.evidence import record, who
from machines.model import Event, Machine, PlannedStep, Reason, Snapshot, StepStatus
from schemas.base import Json
from schemas.events import OperatorActed

WAIVERS = "waivers"
"""Where they are kept in an instance's data: by step `{by, reason, until, state}`."""


def waiver_of(snapshot: Snapshot, step: str, now: datetime) -> str | None:
    """Why this step is not performed now: a person waived it in this state, and that still lasts. None: nobody did."""
    waiver = record(record(snapshot.data, WAIVERS), step)
    until = waiver.get("until")
    # Other states may have steps of the same name, which nobody spoke of: `tell` that it comes, that it does not.
    if waiver.get("state") != snapshot.state or not isinstance(until, str) or datetime.fromisoformat(until) <= now:
        return None
    return f"waived by {waiver.get('by')} until {until}: {waiver.get('reason')}"


def first_status(step: PlannedStep, first: int, waived: Collection[str]) -> StepStatus:
    """How a step stands on entry; `first` is the position of those that begin at once."""
    if step.name in waived:
        return StepStatus.WAIVED
    return StepStatus.READY if step.position == first else StepStatus.PLANNED


def no_waiver(act: OperatorActed, now: datetime) -> Reason | None:
    """Why this is no waiver, if it is none."""
    if act.until is None:
        return Reason("a waiver needs `until`: when it is to be looked at again")
    over = act.until <= now
    return Reason(f"a waiver until {act.until.isoformat()} would be over already") if over else None


def none_such(machine: Machine, snapshot: Snapshot, steps: Iterable[str], act: OperatorActed) -> Reason | None:
    """Why the step is none that led to this rest and may be waived for the next retry; `steps` are those of now."""
    possible = waived_ahead(machine, snapshot.state, snapshot.data)
    if act.step in possible:
        return None
    earlier = f"{act.step} is waived already; " if act.step in record(snapshot.data, WAIVERS) else ""
    names = ", ".join((*steps, *possible)) or "none"
    return Reason(f"{earlier}{snapshot.state} has no step {act.step!r} to waive; its steps are: {names}")


def with_waiver(snapshot: Snapshot, event: Event, act: OperatorActed, state: Json) -> dict[str, Json]:
    """The change that adds the act's waiver, of a step of `state`, to those that there are."""
    until = act.until.isoformat() if act.until is not None else None
    note: dict[str, Json] = {"by": who(event), "reason": act.reason, "until": until, "state": state}
    return {WAIVERS: {**record(snapshot.data, WAIVERS), str(act.step): note}}
