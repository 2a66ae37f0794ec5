"""`relight report`: the page of one restart, made anew from the log; the one in storage was made at its end."""

import asyncio

from machines.model import InstanceId
from schemas.system import System
from service.cli.connect import store
from service.cli.console import Screen
from service.cli.home import answer_file, page_file
from service.clock import SystemClock
from service.errors import RelightError
from service.settings import Settings
from service.steps.report import markdown, run_of
from service.steps.reporting import history


def report(settings: Settings, screen: Screen, instance: str, restart: str | None) -> int:
    """Markdown on standard output; of a system that is only observed the answer to the newest request. Raises
    RelightError when there is no such instance or restart."""
    page = asyncio.run(_report(settings, InstanceId(instance), restart))
    screen.page(page)
    return 0


async def _report(settings: Settings, instance: InstanceId, restart: str | None) -> str:
    async with store(settings) as opened:
        rows = await history(opened, instance)
        run = run_of(rows, await opened.steps(instance), restart)
        if not rows:
            known = ", ".join(view.snapshot.instance for view in await opened.instances()) or "none yet"
            raise RelightError(f"there is no instance {instance!r}; there are: {known}")
        system = instance.partition("/")[2].partition("/")[0]
        observed = [file(settings.servers.home, system) for file in (answer_file, page_file)] if run is None else []
        if restart is None and (pages := [file for file in observed if file.exists()]):
            return pages[0].read_text()
        if run is None:
            which = f"the restart {restart!r}" if restart else "any restart"
            raise RelightError(f"the log of {instance} says nothing of {which}; `relight history {instance}` shows it")
        text = (await opened.configurations_in_use()).get(rows[-1].config_hash)
    limit = System.model_validate_json(text).restart.limits.downtime if text else None
    return markdown(run, instance.split("/")[1], instance, limit, SystemClock().now())
