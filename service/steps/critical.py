"""Waiting until no critical operation is in progress: `check.critical`. What one check is stands elsewhere.

It looks and names, and ends nothing. How long it is waited for is the state's business.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from machines.model import PlannedStep
from schemas.base import Json, format_duration
from schemas.checks import CriticalCheck, RoundTripCheck
from schemas.system import System
from service.errors import Missing, Retry
from service.ports import Done, StepContext, Waiting
from service.steps.checks import RunCheck, in_words
from service.steps.naming import record

LOOK_WITHIN = timedelta(seconds=10)
"""For one check in one look: one that hangs must not keep the others from being told."""
PARTS, MOST_PARTS = 60, 10
"""Attempt n lasts n of so many parts of the limit, ten at most: a first message comes early, and later ones are few."""
MOST_OFTEN = 0.5
"""Seconds between two looks at least: a check costs the system something."""
LEAST = 0.001
"""Seconds that are worth another look; sums of fractions of seconds hardly ever meet."""
AT_ONCE = timedelta(0)
OUTLOOK = "; if nobody acts: give the restart up and resume at "
"""What follows the finding in a message."""
NAMED = 5
"""Findings that are kept of what was waited for."""


class Quiet:
    """Looks until all checks of `restart.critical` pass in one look. Twice is safe: it only looks.

    What is in progress is named while it waits: each attempt lasts longer than the one before and ends with a message.
    """

    name = "check.critical"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        checks = "; ".join(in_words(check) for check in system.restart.critical)
        return f"wait until nothing critical is in progress, {format_duration(step.timeout)} at most: {checks}"

    async def perform(self, context: StepContext) -> Done | Waiting:
        """Result: `passed`, `checks` (title, value, expected of each), `waited_for` (findings), `seconds`, `at`.

        Raises Retry with what is in progress, Permanent when a check can never tell.
        """
        clock, row = context.clock, context.row
        limit = row.planned.timeout.total_seconds()
        # An answer by message belongs to the attempt that asked: another look with the same one would prove nothing.
        parts = min(row.attempt, MOST_PARTS) if row.answer is None else 1
        began, lasts = clock.monotonic(), limit * parts / PARTS
        seen: dict[Json, None] = {row.error.split(OUTLOOK)[0]: None} if row.error and OUTLOOK in row.error else {}
        while True:
            try:
                found = await _look(context)
            except (Retry, Missing) as error:
                seen[str(error)] = None
                left = lasts - (clock.monotonic() - began)
                if left >= LEAST:
                    await clock.sleep(left if row.answer is not None else min(max(MOST_OFTEN, limit / 300), left))
                if left < LEAST or row.answer is not None:
                    raise Retry(f"{error}{OUTLOOK}{_until(context)}", AT_ONCE) from error
                continue
            if isinstance(found, Waiting):
                return found
            waited_for: list[Json] = [*seen][-NAMED:]
            took = round(clock.monotonic() - began, 3)
            result: dict[str, Json] = {"passed": True, "checks": found, "waited_for": waited_for, "seconds": took}
            return Done({**result, "at": clock.now().isoformat()})

    async def probe(self, context: StepContext) -> Done | None:
        return None


async def _look(context: StepContext) -> list[Json] | Waiting:
    """All checks once. What is asked by message comes last: its answer is waited for without a claim."""
    row, system = context.row, context.system
    within = min(LOOK_WITHIN, row.planned.timeout)
    short = replace(context, row=replace(row, planned=replace(row.planned, timeout=within)))
    found: list[Json] = []
    for check in sorted(system.restart.critical, key=lambda one: _by_message(system, one)):
        said = await RunCheck().look(short, check, within.total_seconds())
        if isinstance(said, Waiting):
            return said
        found.append({key: said.result.get(key) for key in ("title", "value", "expected")})
    return found


async def look_once(context: StepContext) -> list[Json] | None:
    """What one look finds; None when an answer by message would have to be waited for. Raises like the step."""
    found = await _look(context)
    return None if isinstance(found, Waiting) else found


def _by_message(system: System, check: CriticalCheck) -> bool:
    return isinstance(check, RoundTripCheck) and system.components[check.roundtrip].participant == "amqp"


def _until(context: StepContext) -> str:
    by = record(context.data, "restart").get("quiet_by")
    if not isinstance(by, str):
        return "the end of the wait"
    return f"{datetime.fromisoformat(by).astimezone(ZoneInfo(context.system.zone)):%H:%M:%S} {context.system.zone}"
