"""Starting a component and hearing from it that it is up, with what it was to load: `component.start`."""

from collections.abc import Mapping
from datetime import timedelta

from machines.model import PlannedStep
from schemas.base import Json
from schemas.components import ByCommand, ByHttp, Command, Component, OnSilence, Participant
from schemas.system import System
from service.errors import Permanent, Retry, StepError
from service.ports import Done, ProcessState, StepContext, Waiting
from service.steps.asking import Answer, Unheard, answer, ask, post, run, silent
from service.steps.ending import by_hand, how, kill, named
from service.steps.grounds import no_second_copy
from service.steps.naming import environment, folder, record, restart_id, running_name, the_component
from service.steps.pausing_units import paused_unit, way_to_pause
from service.steps.snapshots import sealed

PATIENCE = 0.8
"""The share of one attempt's timeout in which the component may come up; the rest is for saying that it did not."""
LOOK_AGAIN = 0.2
"""Seconds between two looks at something that is coming up."""
SETTLES = 0.5
"""Seconds that a process which reports nothing must have lived through, to tell a start from a crash."""
DATABASE_WITHIN = timedelta(seconds=5)
"""For one `select 1` to a database that the component needs."""
OLD_WITHIN = timedelta(seconds=2)
"""How much longer an old process that was told to end is waited for where the file says to go on without it."""
LAST_WORDS = 600
"""Characters of its log that an error message repeats."""


class Start:
    """Starts a component, paused or not, after the databases it needs answer. Twice is safe: what runs is adopted, and
    then only asked again what it loaded. A component that flushed before must say that it loaded that very digest.
    """

    name = "component.start"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        component = system.components[step.component or ""]
        paused = "paused" if step.arguments.get("paused") else "running"
        if component.service is not None and step.arguments.get("paused"):
            paused = "and pause it at once" if way_to_pause(component) is not None else "(it works at once)"
        what = " ".join(component.command) if component.service is None else f"`systemctl start {component.service}`"
        words = [f"start {step.component} {paused} unless it runs: {what}"]
        databases = [need for need in component.needs if need in system.databases]
        words += [f"after {', '.join(databases)} answers"] if databases else []
        words += ["until it reports what it loaded"] if component.takes(Command.REPORT) else []
        return "; ".join(words)

    async def perform(self, context: StepContext) -> Done | Waiting:
        """Result: `pid`, `started`, `adopted`, what it reported (`digest`, `values`), `compared` with the flushed.

        `old`: nothing was started, for what was told to end still runs, and the file says to go on without (`detail`).
        """
        name, component = the_component(context)
        if context.row.answer is not None:
            return await self._reported(context, name)
        end = context.clock.monotonic() + context.row.planned.timeout.total_seconds() * PATIENCE
        before = await context.world.processes.state(running_name(context.system, name))
        if before.ending:
            before = await self._outlasted(context, name, end)
            if before.running:
                return Done(
                    {**named(before), "old": True, "adopted": False, "detail": self._passed_over(context, before)}
                )
        adopted = before.running and not before.comes_back
        if adopted:
            await self._needed(context, name, component, end)
        state = before if adopted else await self._start(context, name, component, end)
        if state.unit is not None:
            state = await self._up(context, name, end)
            # What ran before we came is left at work, unless a restart is under way: then it was stopped, and is new.
            new = not adopted or context.row.attempt > 1 or restart_id(context.data) is not None
            if new and context.row.planned.arguments.get("paused"):
                await paused_unit(context, name, component, end)
        match component.participant:
            case "amqp":
                return await self._ask(context, name, end)
            case Participant(report=ByCommand() | ByHttp() as way):
                try:
                    said = await self._hear(context, name, way, end)
                except Unheard:
                    if context.row.planned.on_silence is OnSilence.ABORT:
                        raise
                    # A wait that is over at once, so that the file's on_silence decides, as over AMQP.
                    return Waiting(context.clock.now(), name)
                return await self._conclude(context, name, said, adopted=adopted)
            case _:
                if not adopted:
                    await self._settle(context, name)
                expected = record(context.data, "digests").get(name)
                about: dict[str, Json] = {"compared": False} if expected else {}
                return Done({**named(state), "adopted": adopted, **about})

    async def probe(self, context: StepContext) -> Done | None:
        return None

    async def _outlasted(self, context: StepContext, name: str, end: float) -> ProcessState:
        """What was told to end is never adopted: it is waited for, killed where the file says so, or passed over where
        it says so (then it still runs). Raises Permanent that says how to end it."""
        whole, on_silence = running_name(context.system, name), context.row.planned.on_silence
        left = timedelta(seconds=max(end - context.clock.monotonic(), 0.0))
        patience = left if on_silence is OnSilence.ABORT else min(left, OLD_WITHIN)
        state = await context.world.processes.wait_stopped(whole, patience)
        if not state.running or on_silence is OnSilence.PROCEED:
            return state
        if on_silence is OnSilence.KILL:
            return await kill(context, name)
        raise Permanent(
            f"{name} (pid {state.pid}, start time {state.started}) was told to end and still runs: it is the old one, "
            f"so it was not adopted, and nothing was started beside it. End it {by_hand(context, state)}; then retry"
        )

    def _passed_over(self, context: StepContext, old: ProcessState) -> str:
        return (
            f"the old process (pid {old.pid}, start time {old.started}) was told to end and still runs, so nothing was "
            f"started beside it. End it {by_hand(context, old)}; then adopt"
        )

    async def _start(self, context: StepContext, name: str, component: Component, end: float) -> ProcessState:
        await no_second_copy(context, name)
        await self._needed(context, name, component, end)
        given = environment(context, name)
        given["RELIGHT_START"] = "paused" if context.row.planned.arguments.get("paused") else "running"
        given |= await self._state_to_load(context, name)
        whole = running_name(context.system, name)
        return await context.world.processes.start(whole, component.command, given, folder(context.system, component))

    async def _up(self, context: StepContext, name: str, end: float) -> ProcessState:
        """A unit once systemd calls it up: it may say by itself when it is (`Type=notify`), or be prepared first."""
        while (state := await self._alive(context, name)).starting:
            if context.clock.monotonic() >= end:
                raise Retry(
                    f"{name} does not come up: {state.unit} is still {state.words}. Look with "
                    f"`systemctl status {state.unit}`"
                )
            await context.clock.sleep(LOOK_AGAIN)
        return state

    async def _needed(self, context: StepContext, name: str, component: Component, end: float) -> None:
        """Waits for what it needs, which may itself just be coming up: a database that does not answer yet, a DSN not
        written yet. Also of what runs already, so that nothing is verified while its database still recovers."""
        adopted = (await context.world.processes.state(running_name(context.system, name))).running
        while True:
            try:
                if not adopted:
                    environment(context, name)
                for need in component.needs:
                    if need in context.system.databases:
                        dsn = context.world.secrets.resolve(context.system.databases[need].url, context.system.folder)
                        await context.world.databases.value(dsn, "select 1", DATABASE_WITHIN)
                return
            except StepError as error:
                if (gone := await self._gone(context, component)) is not None:
                    raise Permanent(
                        f"{name} {'cannot work' if adopted else 'was not started'}: {gone}, which it needs, ended "
                        f"after its own start ({error}). Look at the log of {gone}; a retry of "
                        f"{context.row.key.instance} starts both"
                    ) from error
                if context.clock.monotonic() >= end:
                    what = "runs, but" if adopted else "was not started, because"
                    raise Retry(f"{name} {what} what it needs is not there: {error}") from error
            await context.clock.sleep(LOOK_AGAIN)

    async def _gone(self, context: StepContext, component: Component) -> str | None:
        """A component that was started before this one, is needed by it and runs no more."""
        for need in component.needs:
            if need in context.system.components:
                state = await context.world.processes.state(running_name(context.system, need))
                if not state.running:
                    return need
        return None

    async def _state_to_load(self, context: StepContext, name: str) -> Mapping[str, str]:
        """Where it finds what it flushed. Relight itself remembers that, so that a system snapshot which is gone or
        changed keeps nobody's memory away: it is found out, and told, in the verification."""
        if "flushed" in context.data:
            where = record(context.data, "flushed").get(name)
            return {"RELIGHT_STATE": where} if isinstance(where, str) else {}
        snapshot = await sealed(context)
        held = snapshot.components.get(name) if snapshot else None
        return {"RELIGHT_STATE": held.where} if held and held.where and held.digest else {}

    async def _ask(self, context: StepContext, name: str, end: float) -> Waiting:
        while True:
            await self._alive(context, name)
            waiting = await ask(context, name, Command.REPORT, context.system.restart.answer_within, {})
            if waiting is not None:
                return waiting
            if context.clock.monotonic() >= end:
                raise Retry(f"{name} runs, but did not come to the broker in time to report what it loaded")
            await context.clock.sleep(LOOK_AGAIN)

    async def _hear(self, context: StepContext, name: str, way: ByCommand | ByHttp, end: float) -> Answer:
        while True:
            await self._alive(context, name)
            left = timedelta(seconds=max(end - context.clock.monotonic(), 1.0))
            try:
                if isinstance(way, ByHttp):
                    return await post(context, name, Command.REPORT, way, left, {})
                return await run(context, name, Command.REPORT, way, left)
            except Retry:
                if context.clock.monotonic() >= end:
                    raise
            await context.clock.sleep(LOOK_AGAIN)

    async def _settle(self, context: StepContext, name: str) -> None:
        end = context.clock.monotonic() + SETTLES
        while context.clock.monotonic() < end:
            await self._alive(context, name)
            await context.clock.sleep(LOOK_AGAIN)
        await self._alive(context, name)

    async def _alive(self, context: StepContext, name: str) -> ProcessState:
        """The process as it runs. Raises Retry with its exit status and its last words when it does not."""
        state = await context.world.processes.state(running_name(context.system, name))
        if state.running and not state.comes_back:
            return state
        said = await self._last_words(context, name, state)
        raise Retry(f"{name} ended right after its start ({how(state)}); its log {state.log} ends: {said}")

    async def _last_words(self, context: StepContext, name: str, state: ProcessState) -> str:
        if state.log is None:
            return "(no log)"
        try:
            end = await context.world.processes.said(running_name(context.system, name))
        except StepError as error:
            return f"(not readable: {error})"
        return context.world.secrets.hide(end.strip())[-LAST_WORDS:] or "(nothing)"

    async def _reported(self, context: StepContext, name: str) -> Done:
        whole = running_name(context.system, name)
        if silent(context):
            if context.row.planned.on_silence is OnSilence.KILL:
                if (await context.world.processes.state(whole)).running:
                    await kill(context, name)
                raise Retry(f"{name} was started, did not report and was killed, as its file says")
            raise Permanent(f"{name} was started and did not report what it loaded in time")
        return await self._conclude(context, name, answer(context, name, Command.REPORT), adopted=None)

    async def _conclude(self, context: StepContext, name: str, said: Answer, adopted: bool | None) -> Done:
        state = await self._alive(context, name)
        expected = record(context.data, "digests").get(name)
        if expected is not None and said.digest != expected:
            raise Permanent(
                f"{name} flushed {expected} before it was stopped, but says it loaded {said.digest or 'nothing'}; "
                "it is left paused. Look at its log, end it and retry the step, or restore what it flushed"
            )
        compared: dict[str, Json] = {} if expected is None else {"compared": True}
        known: dict[str, Json] = {} if adopted is None else {"adopted": adopted}
        return Done({**named(state), **known, **said.evidence(), **compared})
