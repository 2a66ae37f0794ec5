"""Telling people: `notice.tell`. The status topic carries every transition already; this is the line in the log."""

import structlog

from machines.model import PlannedStep
from schemas.system import System
from service.ports import Done, StepContext
from service.steps.naming import record

log = structlog.get_logger("relight.notice")


class Tell:
    """Says in the log what is happening to a system. Twice is safe: a line more, the same words."""

    name = "notice.tell"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        return f"tell on relight.status ({system.system}.lifecycle.…) and in the log"

    async def perform(self, context: StepContext) -> Done:
        """Result: `told`, the places where it can be read."""
        row, restart = context.row, record(context.data, "restart")
        about = {key: restart[key] for key in ("id", "reason", "requested_by", "due") if restart.get(key) is not None}
        where = {"system": row.system, "instance": row.key.instance, "state": row.state, "step": row.key.name}
        log.info("notice.told", **where, **about)
        return Done({"told": [f"relight.status {row.system}.lifecycle.{row.state}", "log"]})

    async def probe(self, context: StepContext) -> Done | None:
        return None
