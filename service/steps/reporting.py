"""Writing the report of a restart to storage: `report.write`. What it says is made in `report.py`."""

from dataclasses import replace

from machines.model import InstanceId, PlannedStep
from schemas.system import System
from schemas.system_snapshot import sha256
from service.errors import Permanent
from service.ports import Chronicle, Done, LogRow, StepContext
from service.steps.naming import restart_id
from service.steps.report import markdown, run_of

PAGE = 1000
"""Rows of the log that are read at once."""


class Report:
    """Writes the page of the restart under way. Twice is safe: the same restart writes the same place, anew."""

    name = "report.write"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        return f"write the report as {system.state_url('reports')}/<restart>.md"

    async def perform(self, context: StepContext) -> Done:
        """Result: `url`, `sha256`, `bytes`; outside of a restart only `detail`. Raises Retry and Permanent."""
        restart = restart_id(context.data)
        if restart is None:
            return Done({"detail": "no restart to report on"})
        instance, chronicle = context.row.key.instance, context.world.chronicle
        run = run_of(await history(chronicle, instance), await chronicle.steps(instance), restart)
        if run is None:
            raise Permanent(f"the log of {instance} says nothing of the restart {restart}")
        system = context.system
        page = markdown(
            replace(run, writing=True), system.system, instance, system.restart.limits.downtime, context.clock.now()
        ).encode()
        url = system.state_url("reports", f"{restart}.md")
        await context.world.storage.write(url, page)
        return Done({"url": url, "sha256": sha256(page), "bytes": len(page)})

    async def probe(self, context: StepContext) -> Done | None:
        return None


async def history(chronicle: Chronicle, instance: InstanceId) -> list[LogRow]:
    """The whole log of the instance, in order."""
    rows: list[LogRow] = []
    while page := await chronicle.history(instance, rows[-1].seq if rows else 0, PAGE):
        rows += page
    return rows
