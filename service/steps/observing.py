"""Looking at what runs, and nothing else: `component.observe`, `.confirm_stopped`, `.confirm_running`."""

from collections.abc import Mapping
from datetime import timedelta

from machines.model import PlannedStep
from schemas.base import Json
from schemas.components import OnSilence
from schemas.system import System
from service.errors import Permanent, Retry
from service.ports import Done, ProcessState, StepContext
from service.steps.ending import how, named
from service.steps.grounds import no_second_copy
from service.steps.naming import process_name, record, running_name, the_component

LOOK_AGAIN = timedelta(seconds=1)
"""A session of a process that just ended is gone within milliseconds; a second is patient."""


class Observe:
    """Whether a component runs. Twice is safe: it only looks. What somebody else started is not taken over, and nothing
    is started beside it."""

    name = "component.observe"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        return f"look whether {step.component} runs"

    async def perform(self, context: StepContext) -> Done:
        """Result: `running`, `pid`, `started` (clock ticks since boot); `ending` when it was told to end.

        Raises Permanent when a stranger runs it.
        """
        name, _ = the_component(context)
        state = await context.world.processes.state(running_name(context.system, name))
        if not state.running:
            await no_second_copy(context, name)
        ending: dict[str, Json] = {"ending": True} if state.ending else {}
        return Done({"running": state.running, **named(state), **ending})

    async def probe(self, context: StepContext) -> Done | None:
        return None


class ConfirmStopped:
    """Shows that the system is down: no process runs, and no session of one is left in any of its databases. Twice is
    safe: it only looks. A component whose file says `on_silence: proceed` may go on running; that is recorded.
    """

    name = "component.confirm_stopped"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        names = ", ".join(name for name, component in system.components.items() if not component.keep) or "nothing"
        where = ", ".join(system.databases)
        return f"show that {names} ended" + (f" and left no session in {where}" if where else "")

    async def perform(self, context: StepContext) -> Done:
        """Result: `stopped` and `still_running` (names), `databases` looked at; `unseen`: elsewhere, its stop waived;
        `away`: why a database was not looked at, by its name.

        Raises Retry, naming what is left.
        """
        stopped: list[Json] = []
        allowed: list[Json] = []
        unseen: list[Json] = []
        for name, component in context.system.components.items():
            if component.keep:
                continue
            if component.place != context.row.place and f"stop:{name}" in context.results:
                # What its own host saw when it stopped it; from here its processes cannot be looked at.
                state = _as_seen(context.results[f"stop:{name}"])
            else:
                state = await context.world.processes.state(running_name(context.system, name))
            if state is None:
                unseen.append(name)
            elif not state.running:
                stopped.append(name)
            elif component.on_silence is OnSilence.PROCEED:
                allowed.append(name)
            else:
                raise Retry(_still_runs(context, name, state), LOOK_AGAIN)
        left, away = await self._left(context, [str(name) for name in (*stopped, *unseen)])
        if left:
            raise Retry(f"{len(left)} sessions are left: {'; '.join(left)}", LOOK_AGAIN)
        elsewhere: dict[str, Json] = {"unseen": unseen} if unseen else {}
        elsewhere |= {"away": away} if away else {}
        databases: list[Json] = [database for database in context.system.databases if database not in away]
        return Done({"stopped": stopped, "still_running": allowed, **elsewhere, "databases": databases})

    async def probe(self, context: StepContext) -> Done | None:
        return None

    async def _left(self, context: StepContext, names: list[str]) -> tuple[list[str], dict[str, Json]]:
        """The sessions that are left, and why a database was not looked at, by its name."""
        left: list[str] = []
        away: dict[str, Json] = {}
        for database in context.system.databases:
            try:
                for name in names:
                    left += await self._sessions(context, database, name)
            except Retry as error:
                # The server may have ended with what ran it, and its sessions with it: only the start brings it back,
                # and waits for it. Halting here would leave the system down, and each retry would halt here again.
                if context.row.attempt < context.row.planned.attempts:
                    raise Retry(str(error), LOOK_AGAIN) from error
                away[database] = str(error)
        return left, away

    async def _sessions(self, context: StepContext, database: str, name: str) -> list[str]:
        application = process_name(context.system, name)
        dsn = context.world.secrets.resolve(context.system.databases[database].url, context.system.folder)
        lines = await context.world.databases.sessions(dsn, application)
        return [f"{application} in {database}: {line}" for line in lines]


class ConfirmRunning:
    """The last look before a system is called up again: the component runs, as the process that was resumed. Twice is
    safe: it only looks. What was left out of the start by a person or its file is looked at and asked for nothing.
    """

    name = "component.confirm_running"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        return f"show that {step.component} runs, as the process that was resumed"

    async def perform(self, context: StepContext) -> Done:
        """Result: `running`, `pid`, `started`. Raises Permanent when it ended, or is another process since."""
        name, _ = the_component(context)
        state = await context.world.processes.state(running_name(context.system, name))
        if name in record(context.data, "not_started"):
            return Done({"running": state.running, **named(state), "detail": "it was left out of the start"})
        if not state.running or state.comes_back:
            log = f"; its log is {state.log}" if state.log else ""
            raise Permanent(f"{name} was started and has ended since ({how(state)}){log}")
        resumed = context.results.get(f"resume:{name}", {})
        before = resumed.get("pid"), resumed.get("started")
        if state.invocation is not None and resumed.get("invocation") is not None:
            # systemd's own name of the run: its main process may have changed without a new start.
            if resumed["invocation"] != state.invocation:
                raise Permanent(
                    f"{name} was resumed as the run {resumed['invocation']} of {state.unit} and is the run "
                    f"{state.invocation} now (pid {state.pid}): it ended and was started again since, by systemd or by "
                    "somebody, and nobody knows what it loaded"
                )
            return Done({"running": True, **named(state)})
        if before[0] is not None and before != (state.pid, state.started):
            raise Permanent(
                f"{name} was resumed as pid {before[0]} (start time {before[1]}) and runs as pid {state.pid} (start "
                f"time {state.started}): somebody else started it since, and nobody knows what it loaded"
            )
        return Done({"running": True, **named(state)})

    async def probe(self, context: StepContext) -> Done | None:
        return None


def _still_runs(context: StepContext, name: str, state: ProcessState) -> str:
    """That it still runs, or again; a unit may have been started by others since it was stopped."""
    if state.unit is None:
        return f"{name} still runs (pid {state.pid}, start time {state.started})"
    stopped = context.results.get(f"stop:{name}", {})
    again = stopped.get("running") is False and stopped.get("invocation") != state.invocation
    if state.comes_back or again:
        return (
            f"{name} was stopped and comes back: {state.unit} is {state.words} (pid {state.pid}). Somebody else ended "
            f"or started it, and systemd starts it by itself: see Restart=, its sockets and timers and what needs it, "
            f"with `systemctl status {state.unit}`; `systemctl stop {state.unit}` ends it"
        )
    return f"{name} still runs ({state.unit} is {state.words}, pid {state.pid}, start time {state.started})"


def _as_seen(result: Mapping[str, Json]) -> ProcessState | None:
    """A process as the step that stopped it saw it; None when that step was waived."""
    running, pid, started = result.get("running"), result.get("pid"), result.get("started")
    if not isinstance(running, bool):
        return None
    return ProcessState(running, pid if isinstance(pid, int) else None, started if isinstance(started, int) else None)
