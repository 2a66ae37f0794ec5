"""Steps that are done again and again while a state lasts: the next round of one, when its time has come. No I/O."""

from machines.model import SETTLED, StepStatus
from machines.plan import plan_round, repeats
from service.engine.work import Live, Work
from service.ports import StepRow

AGAIN = "again:"
"""Timers of this kind name the step of the table whose next round is due."""


def plan_next(work: Work, live: Live, name: str) -> None:
    """Adds the next round, unless the last one has not ended, and sets the timer anew.

    Its steps are told its number (`round`), when it was planned (`planned_at`) and when the state was entered
    (`entered_at`, both ISO, UTC). They stand beside what is being done: no later step begins before they have ended.
    """
    after = live.snapshot
    state = live.chart.machine.state(after.state)
    for step, every in repeats(state, live.system):
        if step.name != name:
            continue
        work.timer(live, f"{AGAIN}{name}", work.now + every)
        earlier = [row for row in live.steps.values() if row.key.name.startswith(f"{name}:")]
        if any(row.status not in SETTLED and not _given_up(row) for row in earlier):
            return
        number = 1 + max((_round(row) for row in earlier), default=0)
        left = [row.planned.position for row in live.steps.values() if row.status not in SETTLED and not _given_up(row)]
        position = min(left, default=0)
        told = {"planned_at": work.now.isoformat(), "entered_at": after.entered_at.isoformat()}
        planned = plan_round(step, live.system, number, position, told)
        work.add(live, (live.row(one, StepStatus.READY, work.now) for one in planned))


def _given_up(row: StepRow) -> bool:
    return row.planned.optional and row.status is StepStatus.FAILED


def _round(row: StepRow) -> int:
    number = row.planned.arguments.get("round")
    return number if isinstance(number, int) else 0
