"""Ending a component's process for good, and showing that it is gone. When to do so is the caller's business."""

from datetime import timedelta

from schemas.base import Json
from service.errors import Retry
from service.ports import UNIT, ProcessState, StepContext
from service.steps.grounds import stand_clear
from service.steps.naming import running_name

KILL_WITHIN = timedelta(seconds=10)
"""How long a process that was sent KILL may take to be gone; a busy disk (state D) can delay it."""


async def kill(context: StepContext, component: str) -> ProcessState:
    """Sends KILL to the process group and waits for the end. Raises Retry when it is still there after that, Permanent
    when Relight stands on it."""
    await stand_clear(context, component)
    name = running_name(context.system, component)
    await context.world.processes.tell(name, "KILL")
    state = await context.world.processes.wait_stopped(name, KILL_WITHIN)
    if state.running:
        raise Retry(
            f"{name.removeprefix(UNIT)} (pid {state.pid}) was sent KILL and still exists after "
            f"{KILL_WITHIN.total_seconds():g} s; a process in state D waits for a disk: look at it with ps"
        )
    return state


def by_hand(context: StepContext, state: ProcessState) -> str:
    """How a person ends it: the host, the pid, and what to type there."""
    host = (context.row.worker or "").partition(":")[0] or "this host"
    if state.unit is not None:
        return f"on {host} `systemctl kill --kill-who=all --signal=KILL {state.unit}` (look with `systemctl status`)"
    return f"on {host} `kill -CONT {state.pid}` if it is only stopped (state T in ps), else `kill -KILL {state.pid}`"


def named(state: ProcessState) -> dict[str, Json]:
    """The process by pid plus start time: the two together are given to no other process of this boot. A unit also by
    the id that systemd gives to each of its runs."""
    run: dict[str, Json] = {"invocation": state.invocation} if state.invocation is not None else {}
    return {"pid": state.pid, "started": state.started, **run}


def how(state: ProcessState) -> str:
    """How the last run ended, as far as somebody saw it."""
    status = "nobody saw how" if state.exit_status is None else f"exit status {state.exit_status}"
    return f"{state.unit} is {state.words}, {status}" if state.unit is not None else status
