"""Releasing what the gate holds: `gate.release`. A worker only asks: the owner of the shard lets it go and answers."""

from machines.model import PlannedStep
from schemas.system import System
from service.ports import SILENT, Done, StepContext, Waiting


class Release:
    """Waits for the owner of the shard, who releases in the transaction that takes this wait in.

    Twice is safe: what is released is held no more, and a second time finds what was held since.
    """

    name = "gate.release"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        holds = system.gate.holds if system.gate is not None else 0
        return f"release what the gate holds, at most {holds} operations, in order, to relight.operations"

    async def perform(self, context: StepContext) -> Done | Waiting:
        """Result: `held` (since the gate last released), `released`, `expired`."""
        answer = context.row.answer
        if answer is None or answer == SILENT:
            return Waiting(context.clock.now() + context.row.planned.timeout, "the owner of the shard")
        held, released, expired = (answer.get(name, 0) for name in ("held", "released", "expired"))
        words = f"{held} held: {released} released in order, {expired} expired" if held else "nothing was held"
        return Done({**answer, "detail": words})

    async def probe(self, context: StepContext) -> Done | None:
        return None
