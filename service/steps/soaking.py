"""Going on checking after everything passed, until the soak is over: `check.soak`. What a check is stands elsewhere."""

from machines.model import PlannedStep
from schemas.base import format_duration
from schemas.checks import EqualCheck, IntegrityCheck, RoundTripCheck
from schemas.system import System
from service.errors import Retry, StepError
from service.ports import Done, StepContext, Waiting
from service.steps.checks import RunCheck, check_of

LOOKS = 10
"""How often a check is looked at in a soak: a failure is found within a tenth of it."""
LEAST = 0.001
"""Seconds that are worth another look; sums of fractions of seconds hardly ever meet."""
MOST_OFTEN = 1.0
"""Seconds between two looks at least: a check costs the system something."""


class Soak:
    """Runs one check again and again until `restart.soak` is over; each time it must pass. Twice is safe: checks change
    nothing; a soak that was interrupted begins anew, because nobody looked meanwhile.
    """

    name = "check.soak"
    twice_is_safe = True

    def __init__(self) -> None:
        self._check = RunCheck()

    def plan(self, step: PlannedStep, system: System) -> str:
        words = self._check.plan(step, system).removeprefix("check ")
        return f"go on checking for {format_duration(system.restart.soak)} {words}"

    async def perform(self, context: StepContext) -> Done | Waiting:
        """Result: that of the last look, with `looks` and `soaked` (seconds). Raises Retry with what failed when."""
        if context.row.answer is not None:
            return await self._check.perform(context)
        before = context.results.get(f"check:{context.row.planned.arguments.get('check')}", {})
        if before.get("passed") is not True:
            return Done({**before, "passed": False, "detail": "it did not pass, so there was nothing to go on with"})
        lasts = context.system.restart.soak.total_seconds()
        pause = max(lasts / LOOKS, MOST_OFTEN)
        began, looks = context.clock.monotonic(), 0
        while (left := lasts - (context.clock.monotonic() - began)) > LEAST:
            if not self._only_at_the_end(context):
                await self._look(context, looks, began)
                looks += 1
            await context.clock.sleep(min(pause, left))
        # The last look is when the soak is over. A message waits for its answer in the table, so it is asked only then.
        outcome = await self._look(context, looks, began)
        if isinstance(outcome, Waiting):
            return outcome
        return Done({**outcome.result, "looks": looks + 1, "soaked": round(context.clock.monotonic() - began, 3)})

    async def probe(self, context: StepContext) -> Done | None:
        return None

    async def _look(self, context: StepContext, looks: int, began: float) -> Done | Waiting:
        try:
            return await self._check.perform(context)
        except StepError as error:
            after = context.clock.monotonic() - began
            why = f"passed {looks} times and then, {after:.0f} s into the soak, no more: {error}"
            raise Retry(why) from error

    def _only_at_the_end(self, context: StepContext) -> bool:
        """What asks by message, and what reads a whole database: once more is enough."""
        components = context.system.components
        match check_of(context.row.planned, context.system):
            case RoundTripCheck(roundtrip=name):
                return components[name].participant == "amqp"
            case EqualCheck():
                return any(component.participant == "amqp" for component in components.values())
            case IntegrityCheck():
                return True
            case _:
                return False
