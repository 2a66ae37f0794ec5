"""Never stopping what Relight stands on, nor a server that is another one than the file pins: `identity.check`, and the
looks that precede every ending and every start of a process."""

from datetime import timedelta

from machines.model import PlannedStep
from schemas.base import Json
from schemas.system import System
from service.errors import Permanent, Retry
from service.ports import Done, StepContext
from service.steps.naming import folder, process_name, running_name

IDENTIFIER = "select system_identifier::text from pg_control_system()"
"""Which server a database is on: given at initdb, the same in every database of it, unlike that of any other server."""
WITHIN = timedelta(seconds=5)


async def stands_on_it(context: StepContext, name: str) -> tuple[str, ...]:
    """Why the component `name` must not be stopped: one sentence each. Raises Retry when nobody can tell now, Permanent
    when it is another server than the one that is pinned."""
    system, world = context.system, context.world
    whole = running_name(system, name)
    state = await world.processes.state(whole)
    if not state.running:
        return ()
    # Of a unit all ends that is in its control group, whose child it ever was, and what systemd stops with it.
    groups = await world.processes.groups(whole)
    reasons = list(await world.grounds.within(groups)) if groups else []
    if state.pid is None:
        return tuple(reasons)
    reasons += [line for line in await world.grounds.under(state.pid) if line not in reasons]
    for database, spec in system.databases.items():
        if not await world.sockets.serves(state.pid, world.secrets.resolve(spec.url, system.folder)):
            continue
        own = await world.grounds.identifier()
        try:
            found = await _identified(context, database)
        except Retry:
            if database in system.identity:
                raise
            # Relight's own server answered just now and this one does not: it is another one, and may hang.
            continue
        if found == own:
            reasons.append(f"it is the server of Relight's own tables (system_identifier {own}, as {database})")
    return tuple(reasons)


async def stand_clear(context: StepContext, name: str) -> None:
    """To be called before a component is ended in any way. Raises Permanent when Relight stands on it."""
    reasons = await stands_on_it(context, name)
    if reasons:
        raise Permanent(
            f"{name} was not stopped, because Relight stands on it: {'; '.join(reasons)}. Set `keep: true` for it in "
            f"the file of {context.system.system}, or give Relight servers of its own"
        )


async def no_second_copy(context: StepContext, name: str) -> None:
    """To be called before a component that does not run is started. Raises Permanent when somebody else started it."""
    system, component = context.system, context.system.components[name]
    if component.service is not None:
        before = await context.world.processes.state(process_name(system, name))
        if before.running:
            raise Permanent(
                f"{name} is a unit of systemd since its file was changed, and still runs as the process {before.pid} "
                f"that Relight started before: the unit was not started beside it. End that process "
                f"(`kill {before.pid}`), then retry"
            )
        return
    whole = running_name(system, name)
    pids = await context.world.processes.strangers(whole, component.command, folder(system, component))
    if pids:
        raise Permanent(
            f"{name} runs already as pid {', '.join(map(str, pids))}, which this Relight did not start: it is not "
            "taken over, and no second copy was started. End it where it was started, then let Relight start it "
            f"(`relight act lifecycle/{system.system} adopt`, or retry). If it is something else, give the component "
            "another argument or `cwd`"
        )


class CheckIdentity:
    """Before anything is stopped: every pinned database is on the very server that is pinned, and Relight stands on
    nothing that this restart stops. Twice is safe: it only looks.
    """

    name = "identity.check"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        names = ", ".join(name for name, component in system.components.items() if not component.keep) or "nothing"
        pinned = ", ".join(system.identity)
        return (f"compare the server of {pinned} with the pinned one; " if pinned else "") + (
            f"see that Relight does not stand on {names}"
        )

    async def perform(self, context: StepContext) -> Done:
        """Result: `identities` (system_identifier by database), `stands_on` none of these `components`. Those on other
        hosts are looked at there, right before each is stopped."""
        identities: dict[str, Json] = {name: await _identified(context, name) for name in context.system.identity}
        components, here = context.system.components, context.row.place
        stopped = [name for name, one in components.items() if not one.keep and one.place == here]
        for name in stopped:
            await stand_clear(context, name)
            if not (await context.world.processes.state(running_name(context.system, name))).running:
                await no_second_copy(context, name)
        return Done({"identities": identities, "stands_on": [], "components": list(stopped)})

    async def probe(self, context: StepContext) -> Done | None:
        return None


async def _identified(context: StepContext, database: str) -> str:
    """The system_identifier of a database's server, compared with the pinned one if there is one."""
    dsn = context.world.secrets.resolve(context.system.databases[database].url, context.system.folder)
    found = str(await context.world.databases.value(dsn, IDENTIFIER, WITHIN))
    pinned = context.system.identity.get(database)
    if pinned is not None and found != pinned:
        raise Permanent(
            f"{database} is on the server {found}, but identity: pins {pinned}: its URL leads to another server than "
            "the one that was adopted, so nothing is stopped"
        )
    return found
