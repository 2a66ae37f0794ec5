"""Stopping a component's process: `component.stop`. TERM, patience, and then what its file says."""

from datetime import timedelta

from machines.model import PlannedStep
from schemas.base import Json
from schemas.components import OnSilence
from schemas.system import System
from service.errors import Permanent, Retry
from service.ports import Done, ProcessState, StepContext
from service.steps.ending import KILL_WITHIN, by_hand, kill, named
from service.steps.grounds import stand_clear
from service.steps.naming import running_name, the_component


class Stop:
    """Ends a component's process, in order if it lets us. It is stopped when its pid with its start time is gone."""

    name = "component.stop"
    twice_is_safe = False

    def plan(self, step: PlannedStep, system: System) -> str:
        after = {
            OnSilence.KILL: "then KILL its process group",
            OnSilence.ABORT: "then call a person",
            OnSilence.PROCEED: "then go on without",
        }[step.on_silence]
        unit = system.components[step.component or ""].service
        how = "TERM" if unit is None else f"`systemctl stop {unit}`"
        return f"stop {step.component}: {how}, wait {_patience(step).total_seconds():g} s, {after}"

    async def perform(self, context: StepContext) -> Done:
        """Result: `running`, `pid`, `started`, `exit_status` (negative: the signal), `seconds`, `killed`.

        Raises Retry, at the last attempt Permanent, when it goes on running and the file neither says kill nor proceed;
        Permanent, untouched, when Relight stands on it.
        """
        name, _ = the_component(context)
        whole, began = running_name(context.system, name), context.clock.monotonic()
        state = await context.world.processes.state(whole)
        if not state.running:
            return Done({**_ended(state), "seconds": 0.0, "killed": False, "detail": "it did not run any more"})
        await stand_clear(context, name)
        await context.world.processes.tell(whole, "TERM")
        state = await context.world.processes.wait_stopped(whole, _patience(context.row.planned))
        killed = False
        if state.running:
            waited = context.clock.monotonic() - began
            match context.row.planned.on_silence:
                case OnSilence.PROCEED:
                    detail = "it did not end and the file says proceed: it still runs"
                    return Done({**_ended(state), "seconds": round(waited, 3), "killed": False, "detail": detail})
                case OnSilence.ABORT:
                    raise _still_there(context, name, state, waited)
                case OnSilence.KILL:
                    state, killed = await kill(context, name), True
        return Done({**_ended(state), "seconds": round(context.clock.monotonic() - began, 3), "killed": killed})

    async def probe(self, context: StepContext) -> Done | None:
        """Gone is gone, whoever saw it; a process that still runs was not stopped."""
        name, _ = the_component(context)
        state = await context.world.processes.state(running_name(context.system, name))
        return None if state.running else Done({**_ended(state), "detail": "it had ended already"})


def _patience(step: PlannedStep) -> timedelta:
    """How long TERM may take: the timeout without what KILL may need, and never less than half of it."""
    return max(step.timeout - KILL_WITHIN - timedelta(seconds=2), step.timeout / 2)


def _ended(state: ProcessState) -> dict[str, Json]:
    return {"running": state.running, **named(state), "exit_status": state.exit_status}


def _still_there(context: StepContext, name: str, state: ProcessState, waited: float) -> Retry | Permanent:
    why = (
        f"{name} (pid {state.pid}, start time {state.started}) was sent TERM and still runs after {waited:.0f} s; "
        f"its file says on_silence: abort, so it was not killed. End it yourself, {by_hand(context, state)}; then retry"
    )
    last = context.row.attempt >= context.row.planned.attempts
    return Permanent(why) if last else Retry(why)
