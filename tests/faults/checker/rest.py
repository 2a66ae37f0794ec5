"""Rest: what belonged to a state ended with it, and nothing waits for a time that has passed. Rules only."""

from collections.abc import Iterator
from datetime import timedelta

from tests.faults.checker.findings import Fault, Finding
from tests.faults.evidence import Evidence

ENDED = frozenset({"done", "proceeded", "waived", "failed", "cancelled"})
GRACE = timedelta(seconds=30)
"""How late a due time may be looked at, after the last fault of a run."""


def steps_ended_with_their_state(evidence: Evidence) -> Iterator[Finding]:
    current = {row.instance: row.entry for row in evidence.instances}
    for step in evidence.steps:
        if step.entry < current.get(step.instance, 0) and step.status not in ENDED:
            yield Finding(Fault.ABANDONED_STEP, f"{step.key} is {step.status} and its state entry is over")


def nothing_is_overdue(evidence: Evidence) -> Iterator[Finding]:
    """Every due time was looked at, and whatever does not rest still has something that will move it."""
    if evidence.taken_at is None:
        return
    entries = {row.instance: row.entry for row in evidence.instances}
    for timer in evidence.timers:
        if timer.due_at + GRACE < evidence.taken_at:
            yield Finding(Fault.OVERDUE, f"{timer.instance}: its {timer.kind} was due at {timer.due_at}; nobody looked")
        elif timer.entry >= 0 and timer.entry != entries.get(timer.instance):
            yield Finding(Fault.OVERDUE, f"{timer.instance}: a {timer.kind} of entry {timer.entry}, which is over")
    timed = {timer.instance for timer in evidence.timers}
    open_steps = {step.instance for step in evidence.steps if step.status not in ENDED}
    for row in evidence.instances:
        table = evidence.machines.get((row.machine, row.machine_version))
        if table is None or row.state in table.resting:
            continue
        until = row.deadline_at or row.dwell_until
        if until is not None and until + GRACE < evidence.taken_at:
            yield Finding(Fault.OVERDUE, f"{row.instance} stands in {row.state}, which was to end at {until}")
        if row.instance not in timed | open_steps:
            yield Finding(Fault.STUCK, f"{row.instance} stands in {row.state}, and nothing will ever move it")
