"""Pausing a unit of systemd right after its start. A process is told to start paused; a unit cannot be: what systemd
gives it stands in its own file. It works for the moment between its start and its pause, which this keeps short.
"""

from dataclasses import replace

from schemas.base import Json
from schemas.components import ByCommand, ByHttp, BySignal, Command, Component, OnSilence, Participant
from service.errors import Permanent, Retry
from service.ports import StepContext
from service.steps.asking import Unheard, post, run
from service.steps.naming import running_name

LOOK_AGAIN = 0.2
"""Seconds between two tries of one that does not listen yet."""


def way_to_pause(component: Component) -> BySignal | ByCommand | ByHttp | None:
    """How a unit is told to pause directly after its start; None when it works at once."""
    told = component.participant
    return told.pause if isinstance(told, Participant) else None


async def paused_unit(context: StepContext, name: str, component: Component, end: float) -> None:
    """Tells it to pause by its own way, for `restart.pause_lease`; one without a way, or over AMQP, works at once.

    Twice is safe: the command's id is the same. Raises Permanent when it refuses, Retry when it does not hear until
    `end` (monotonic) and its file says abort.
    """
    way = way_to_pause(component)
    if way is None:
        return
    # An id of its own: the step's is that of the report which follows.
    key = replace(context.row.key, name=f"{context.row.key.name}:pause")
    mine = replace(context, row=replace(context.row, key=key))
    arguments: dict[str, Json] = {"lease": context.system.restart.pause_lease.total_seconds()}
    within = context.system.restart.answer_within
    while True:
        try:
            if isinstance(way, BySignal):
                # Not sent before it is handled: it would end what has only just begun.
                await context.world.processes.tell(running_name(context.system, name), way.signal)
            elif isinstance(way, ByCommand):
                await run(mine, name, Command.PAUSE, way, within, arguments)
            else:
                await post(mine, name, Command.PAUSE, way, within, arguments)
            return
        except Retry as error:
            if context.clock.monotonic() < end:
                await context.clock.sleep(LOOK_AGAIN)
                continue
            if isinstance(error, Unheard) and context.row.planned.on_silence is not OnSilence.ABORT:
                return
            raise
        except Permanent as error:
            raise Permanent(f"{error}. It was started and works: nothing could tell a unit to start paused") from error
