"""The end of a waiver: what was decided by a person's word until a moment is given back to a person at that moment.

At rest each waiver that stands has a timer. Nothing here moves the instance, and nothing is undone.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from machines.evidence import record, text
from machines.model import Event, StepStatus
from machines.plan import plan_round
from schemas.base import Json
from service.engine import notices
from service.engine.noting import note
from service.engine.waiving import WAIVERS
from service.engine.work import Live, Work

ENDS = "waiver:"
"""Timers of this kind name the step whose waiver ends then."""

TELLS = "notice.tell"
"""The action by which a resting state calls people; it is done once more for each waiver that ends."""


def set_ends(work: Work, live: Live) -> None:
    """A timer for each waiver that an instance rests with and whose end was not told yet."""
    if not live.resting:
        return
    for step, waiver in record(live.snapshot.data, WAIVERS).items():
        until = text(waiver, "until") if isinstance(waiver, dict) and "ended_at" not in waiver else None
        if until is not None:
            work.timer(live, f"{ENDS}{step}", datetime.fromisoformat(until))


def end(work: Work, live: Live, event: Event, step: str, ways: Sequence[str]) -> bool:
    """The end of the waiver of `step` is logged and told, and people are called: until then they had decided, and now
    nobody has. `ways` are the commands that lead out. False: it is over already."""
    over = _over(work, live, step)
    if over is None:
        return False
    reason, changes = over
    note(work, live, event, reason, changes)
    _call_people(work, live, step)
    who = f"a person: {reason}. One of: {'; '.join(ways)}"
    work.say(notices.wait(live.snapshot, None, who, None, f"it stays {live.snapshot.state}", work.now, ways))
    return True


def _over(work: Work, live: Live, step: str) -> tuple[str, Mapping[str, Json]] | None:
    """(reason, changes) of the waiver of `step` that ends now; None when it was given up meanwhile, or told before."""
    waivers = record(live.snapshot.data, WAIVERS)
    waiver = record(waivers, step)
    until = text(waiver, "until")
    if "ended_at" in waiver or until is None or datetime.fromisoformat(until) > work.now:
        return None
    reason = (
        f"the waiver of {step} by {waiver.get('by')} has ended ({text(waiver, 'reason')}): it is to be looked at again"
    )
    return reason, {WAIVERS: {**waivers, step: {**waiver, "ended_at": work.now.isoformat()}}}


def _call_people(work: Work, live: Live, step: str) -> None:
    """The state's own way of calling people once more, this time about the waiver of `step`."""
    state = live.chart.machine.state(live.snapshot.state)
    number = 1 + sum("waiver" in row.planned.arguments for row in live.steps.values())
    about: dict[str, Json] = {"occasion": "waiver_ended", "waiver": step}
    tellers = [one for one in state.steps if one.action == TELLS]
    planned = [one for teller in tellers for one in plan_round(teller, live.system, number, 0, about)]
    work.add(live, (live.row(one, StepStatus.READY, work.now) for one in planned))
