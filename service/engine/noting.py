"""A logged self-transition that stays in the state entry: what the instance remembers changes, and nothing else."""

from collections.abc import Mapping
from typing import Any

from machines.model import Event
from machines.plan import waits
from schemas.base import Json
from service.engine import notices
from service.engine.records import merged
from service.engine.work import Live, Work


def note(work: Work, live: Live, event: Event, reason: str, changes: Mapping[str, Json]) -> None:
    """Its steps and timers go on; dwell and deadline are computed again.

    At rest the instance stands on what is current from then on; what its steps were planned with stays theirs.
    """
    before = live.snapshot
    data = merged(before.data, changes)
    state = live.chart.machine.state(before.state)
    dwell_until, deadline_at = waits(state, live.system, data, before.entered_at)
    noted: dict[str, Any] = {"data": data, "dwell_until": dwell_until, "deadline_at": deadline_at}
    if live.resting:
        noted["machine_version"] = live.chart.machine.version
        noted["config_hash"] = work.definitions.current_hash(before.system)
    for kind, moved, stood in (
        ("dwell", dwell_until, before.dwell_until),
        ("deadline", deadline_at, before.deadline_at),
    ):
        if moved is not None and moved != stood:
            work.timer(live, kind, moved)
    after = work.append(live, "transition", event, {"reason": reason, "changes": dict(changes)}, noted)
    status = live.chart.machine.state(after.state).status
    work.say(notices.transition(before, after, status, reason, event))
