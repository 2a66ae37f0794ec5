"""Renewing a pause, `participant.renew`: the command `pause` once more, with a new id, before its lease has ended.

What is renewed too late counts as lapsed, by the clock of Relight: the component may have worked meanwhile, and what it
flushed is no longer what it holds.
"""

from collections.abc import Mapping
from datetime import datetime

from machines.lifecycle_pause import paused_until
from machines.model import PlannedStep
from schemas.base import Json, format_duration
from schemas.components import Command
from schemas.system import System
from service.errors import Permanent
from service.ports import Done, StepContext, Waiting
from service.steps.asking import Answer
from service.steps.ending import named
from service.steps.naming import running_name, the_component
from service.steps.participants import Tell


class Renew(Tell):
    """Prolongs the pause of a component that was paused. Twice is safe: each round has an id of its own, and a
    participant that knows it answers it again; a signal to pause does nothing to what is paused already.
    """

    def __init__(self) -> None:
        super().__init__(Command.PAUSE)
        self.name = "participant.renew"

    def plan(self, step: PlannedStep, system: System) -> str:
        every = format_duration(system.restart.renew_every)
        return f"every {every}: {super().plan(step, system)}, once more before the lease of its pause ends"

    async def perform(self, context: StepContext) -> Done | Waiting:
        """Result: as of `participant.pause`, and `holds_until` (ISO, UTC): the pause lasts at least that long.

        Raises Permanent when the pause has lapsed: the participant says so by refusing, or it was not renewed in time.
        """
        name, _ = the_component(context)
        until = _holds_until(context, name)
        if until is None:
            return Done({"detail": "it is not paused: nothing to renew"})
        state = await context.world.processes.state(running_name(context.system, name))
        if not state.running:
            return Done({"running": False, "detail": "it does not run: nothing works again by itself", **named(state)})
        if until <= context.clock.now():
            raise _lapsed(name, until)
        said = await super().perform(context)
        return said if isinstance(said, Waiting) else Done({**said.result, "holds_until": _renewed(context)})

    async def conclude(self, context: StepContext, name: str, said: Answer) -> Done:
        """An answer that came too late proves nothing: it may have been paused anew."""
        until = _holds_until(context, name)
        if until is not None and until <= context.clock.now():
            raise _lapsed(name, until)
        return await super().conclude(context, name, said)


def _lapsed(name: str, until: datetime) -> Permanent:
    return Permanent(
        f"the pause of {name} was not renewed before its lease ended at {until.isoformat()}: it may work again by now. "
        "A longer restart.pause_lease leaves more time to reach it"
    )


def _holds_until(context: StepContext, name: str) -> datetime | None:
    """Until when the pause holds at least; None when this component is not paused (any more, or yet)."""
    arguments, earlier = context.row.planned.arguments, _newest(context, name)
    if earlier is not None:
        return datetime.fromisoformat(earlier)
    paused = context.results.get(f"pause:{name}")
    if paused:
        # When its command was sent is not kept, so the lease counts from before it.
        lapses = _moment(arguments, "entered_at") + context.system.restart.pause_lease
        return None if paused.get("running") is False else lapses
    remembered = paused_until(context.data, name)
    return datetime.fromisoformat(remembered) if remembered is not None else None


def _newest(context: StepContext, name: str) -> str | None:
    """What the newest renewal of this state entry said."""
    found = [
        str(result["holds_until"])
        for step, result in context.results.items()
        if step.startswith(f"renew:{name}:") and "holds_until" in result
    ]
    return max(found, key=datetime.fromisoformat, default=None)


def _renewed(context: StepContext) -> str:
    """The new lease counts from when the round was planned, before its command can have been sent."""
    return (_moment(context.row.planned.arguments, "planned_at") + context.system.restart.pause_lease).isoformat()


def _moment(arguments: Mapping[str, Json], key: str) -> datetime:
    value = arguments.get(key)
    if not isinstance(value, str):
        raise Permanent(f"a renewal is planned without {key!r}: only the engine plans its rounds")
    return datetime.fromisoformat(value)
