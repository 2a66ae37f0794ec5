"""Telling a component to pause, flush, report or resume, by the way its file names: `participant.*`.

By AMQP the answer comes later and the step waits without a lease; by signal only the sending is known, and said; by
program the exit status is the answer, by HTTP the answer to the request. A component whose process does not run holds
nothing: pausing and flushing it is done, with that as evidence, since a restart is what mends it.
"""

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

from machines.model import PlannedStep
from schemas.base import Json
from schemas.components import ByCommand, ByHttp, BySignal, Command, Component, OnSilence, Participant
from schemas.system import System
from service.crash import crash_point
from service.errors import Permanent, Retry
from service.ports import Done, StepContext, Waiting
from service.steps.asking import Answer, Unheard, answer, ask, place, post, run, silent
from service.steps.ending import kill, named
from service.steps.naming import running_name, the_component

UNBOUND = timedelta(seconds=2)
"""How long to wait for a participant that runs and is not at the broker: it comes back after a broker's restart."""

HELD_BY_A_PROCESS = (Command.PAUSE, Command.FLUSH, Command.DISCONNECT)
"""What ends with the process: where none runs nothing is left to be done, and killing it is a way, if a rough one."""
PROGRAM_SHARE = 0.9
"""The share of the step's timeout that a program or a request may take: ending it and saying so needs the rest."""
Way = Literal["amqp"] | BySignal | ByCommand | ByHttp | None
"""How a component is told one command."""


class Tell:
    """One command to one component. Twice is safe: the command's id names the effect and not the attempt, so that a
    participant repeats only its answer; a signal to pause or resume does nothing to what is paused or resumed already.
    """

    twice_is_safe = True

    def __init__(self, command: Command) -> None:
        self.command = command
        self.name = f"participant.{command.value}"

    def plan(self, step: PlannedStep, system: System) -> str:
        component = system.components[step.component or ""]
        seconds = step.timeout.total_seconds()
        match self._way(component):
            case "amqp":
                how = f"over AMQP, answer within {seconds:g} s, silent → {step.on_silence}"
            case BySignal(signal=signal):
                how = f"by signal {signal}; sent is done"
            case None:
                how = "in no way: it does not take this command"
            case ByCommand() as way:
                how = f"by program {way.command[0]} within {seconds:g} s, silent → {step.on_silence}"
            case ByHttp() as way:
                seconds = min(way.within.total_seconds(), seconds * PROGRAM_SHARE)
                how = f"by {way.method} {place(way)} within {seconds:g} s, silent → {step.on_silence}"
        return f"tell {step.component} to {self.command.value} {how}"

    async def perform(self, context: StepContext) -> Done | Waiting:
        """Result: `by`, and what was said (`detail`, `values`, `digest`, `where`); for a signal only `sent`."""
        planned = context.row.planned
        try:
            return await self._attempt(context)
        except Unheard:
            if context.row.attempt < planned.attempts or planned.on_silence is OnSilence.ABORT:
                raise
            # Silent to the last: a wait that is over at once, so that the file's on_silence decides, as over AMQP.
            return Waiting(context.clock.now(), planned.component or "the participant")

    async def _attempt(self, context: StepContext) -> Done | Waiting:
        name, component = the_component(context)
        if context.row.answer is not None:
            if silent(context):
                return await self._without_answer(context, name)
            return await self.conclude(context, name, answer(context, name, self.command))
        whole = running_name(context.system, name)
        state = await context.world.processes.state(whole)
        if not state.running and self.command in HELD_BY_A_PROCESS:
            return Done({"running": False, "detail": "it does not run: nothing is in its memory", **named(state)})
        if not state.running and self.command is Command.RESUME:
            raise Permanent(f"{name} does not run, so nothing resumes it; its start is a person's decision now")
        match self._way(component):
            case "amqp":
                return await self._ask(context, name)
            case BySignal(signal=signal):
                await context.world.processes.tell(whole, signal)
                return Done({"by": "signal", "sent": signal, **named(state)})
            case None:
                raise Permanent(f"{name} does not take the command {self.command}; its file names no way for it")
            case ByCommand() as way:
                within = context.row.planned.timeout * PROGRAM_SHARE
                said = await run(context, name, self.command, way, within, context.row.planned.arguments)
                return await self.conclude(context, name, said)
            case ByHttp() as way:
                return await self._request(context, name, way)

    async def probe(self, context: StepContext) -> Done | None:
        return None

    async def conclude(self, context: StepContext, name: str, said: Answer) -> Done:
        """What an answer means; `flush` checks it first."""
        if self.command is not Command.RESUME:
            return Done(said.evidence())
        # Which process it was: the last look of a restart compares.
        return Done(
            {**said.evidence(), **named(await context.world.processes.state(running_name(context.system, name)))}
        )

    def _way(self, component: Component) -> "Way":
        told = component.participant
        way: Way = getattr(told, self.command.value) if isinstance(told, Participant) else told
        return way

    async def _ask(self, context: StepContext, name: str) -> Waiting:
        arguments: Mapping[str, Json] = context.row.planned.arguments
        waiting = await ask(context, name, self.command, context.row.planned.timeout, arguments)
        if waiting is None:
            raise Retry(f"{name} runs, but is not at the broker to be told to {self.command}", UNBOUND)
        return waiting

    async def _request(self, context: StepContext, name: str, way: ByHttp) -> Done:
        planned = context.row.planned
        said = await post(context, name, self.command, way, planned.timeout * PROGRAM_SHARE, planned.arguments)
        return await self.conclude(context, name, said)

    async def _without_answer(self, context: StepContext, name: str) -> Done:
        """Silence where the file says kill. A component that has to answer to go on cannot be mended by killing it."""
        if context.row.planned.on_silence is not OnSilence.KILL or self.command not in HELD_BY_A_PROCESS:
            raise Permanent(f"{name} did not answer {self.command} in time")
        whole = running_name(context.system, name)
        state = await context.world.processes.state(whole)
        if state.running:
            state = await kill(context, name)
        detail = "it did not answer and was ended; what it held in memory is lost"
        return Done({"silent": True, "killed": True, "detail": detail, **named(state)})


class Flush(Tell):
    """`participant.flush`: a claim that is checked. What the answer names is read back and its SHA-256 compared."""

    def __init__(self) -> None:
        super().__init__(Command.FLUSH)

    def plan(self, step: PlannedStep, system: System) -> str:
        return f"{super().plan(step, system)}; read what it wrote back and compare its SHA-256"

    async def conclude(self, context: StepContext, name: str, said: Answer) -> Done:
        """Result besides the answer: `read_back` true and `bytes`. Raises Permanent when the claim does not hold."""
        if not said.digest or not said.where:
            raise Permanent(f"{name} says it flushed, but names no digest or no place: nothing can be read back")
        if context.world.secrets.hide(said.where, context.system.canonical()) != said.where:
            # It would be written down without that part, and nobody would find it after the start.
            raise Permanent(
                f"{name} flushed to {said.where}, a place whose name holds the value of a secret reference of "
                f"{context.system.system}. Have it flush elsewhere, or write what is no secret without env: and file:"
            )
        content = await context.world.storage.read(said.where)
        found = hashlib.sha256(content).hexdigest()
        if found != said.digest:
            raise Permanent(
                f"{name} flushed to {said.where} and says its SHA-256 is {said.digest}, but read back it is {found}"
            )
        crash_point("participant.after_read_back")
        return Done({**said.evidence(), "read_back": True, "bytes": len(content)})
