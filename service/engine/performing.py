"""Performing one attempt at a step: the action is called, and what became of it is recorded with a signal.

Whether the claim still lasts is not looked at here: whoever holds it cancels this when it was lost or taken away.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from machines.model import SETTLED, StepStatus
from schemas.base import Json
from schemas.envelope import Rejected, read
from schemas.system import System
from service import metrics
from service.crash import crash_point
from service.engine.definitions import Definitions
from service.engine.records import canonical, keepable
from service.errors import (
    LostLease,
    Misconfigured,
    Permanent,
    Poison,
    Retry,
    StepError,
    Transient,
    Unavailable,
    Unknown,
)
from service.ports import Action, Clock, Done, Ids, NewSignal, StepContext, StepRow, StepStore, Waiting, World
from service.timeouts import time_limit

FIRST_PAUSE = 0.5
"""Seconds before the second attempt at a step; doubled for each further one, with jitter, up to LONGEST_PAUSE."""
LONGEST_PAUSE = 60.0

LONGEST_WAIT = 2.0
"""Seconds between two looks at a server of Relight's own that is away."""

LONGEST_ERROR = 4000
"""Characters of an error that are kept: a report with more is no report."""

INTERRUPTED = "interrupted"
"""The error of a claimed row whose earlier attempt nobody ended."""

T = TypeVar("T")

log = structlog.get_logger()


async def patiently(clock: Clock, call: Callable[[], Awaitable[T]]) -> T:
    """The call's answer, however long the database is away: what happened must be known there too."""
    pause = 0.05
    while True:
        try:
            return await call()
        except (Unavailable, Transient):
            await clock.sleep(pause)
            pause = min(2.0, pause * 2)


class Performer:
    """Performs attempts of one worker. It keeps nothing between them."""

    def __init__(
        self,
        store: StepStore,
        actions: Mapping[str, Action],
        world: World,
        definitions: Callable[[], Definitions],
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._actions = actions
        self._world = world
        self._definitions = definitions
        self._clock = clock
        self._ids = ids

    async def perform(self, row: StepRow) -> None:
        """One attempt, to its record. Raises LostLease when the claim is over; what an action raises is recorded."""
        began = self._clock.monotonic()
        try:
            outcome = await self._attempt(row)
        except Retry as error:
            await self._again(row, began, str(error), error.after)
        except Unknown as error:
            await self._record(row, began, StepStatus.UNKNOWN, {}, str(error))
        except Permanent as error:
            await self._record(row, began, StepStatus.FAILED, {}, str(error))
        except Transient as error:
            await self._again(row, began, str(error), None)
        except LostLease:
            raise
        except Exception as error:  # an action's own fault ends the step, never the worker
            log.exception("runner.action_broke", instance=row.key.instance, step=row.key.name)
            await self._record(row, began, StepStatus.FAILED, {}, f"{type(error).__name__}: {error}")
        else:
            crash_point("runner.after_effect")
            if isinstance(outcome, Done):
                await self._record(row, began, StepStatus.DONE, outcome.result, None)
            else:
                await self._wait(row, outcome)
        crash_point("runner.after_record")

    async def _attempt(self, row: StepRow) -> Done | Waiting:
        action = self._actions.get(row.planned.action)
        if action is None:
            known = ", ".join(sorted(self._actions))
            raise Permanent(f"no action is called {row.planned.action!r}; known: {known}")
        context = await self._context(row)
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._once(row, action, context)
            except Unavailable as away:
                # What Relight itself stands on is away: that is no failure of the step's, so it costs no attempt. The
                # state's deadline ends the wait, and says what happens then.
                if pause == FIRST_PAUSE:
                    log.warning("runner.step_waits", instance=row.key.instance, step=row.key.name, error=str(away))
                await self._clock.sleep(pause)
                pause = min(LONGEST_WAIT, pause * 2)

    async def _once(self, row: StepRow, action: Action, context: StepContext) -> Done | Waiting:
        try:
            async with time_limit(row.planned.timeout.total_seconds()) as limit:
                if row.error == INTERRUPTED and row.status is StepStatus.RUNNING and not action.twice_is_safe:
                    happened = await action.probe(context)
                    if happened is not None:
                        return happened
                return await action.perform(context)
        except TimeoutError as error:
            if not limit.expired():
                raise
            why = f"{row.planned.name} did not end within {row.planned.timeout.total_seconds():g}s"
            if action.twice_is_safe:
                raise Retry(why) from error
            try:
                async with time_limit(row.planned.timeout.total_seconds()):
                    happened = await action.probe(context)
            except TimeoutError as silence:
                raise Unknown(f"{why}, and neither did the look whether it happened") from silence
            if happened is not None:
                return happened
            raise Retry(why) from error

    async def _context(self, row: StepRow) -> StepContext:
        loaded = await self._patiently(lambda: self._store.context(row))
        system = await self._configuration(row)
        self._learn_secrets(system)
        results = {step.key.name: step.result for step in loaded.steps if step.status in SETTLED}
        data = loaded.snapshot.data if loaded.snapshot is not None else {}
        return StepContext(row, system, data, results, self._world, self._clock)

    async def _configuration(self, row: StepRow) -> System:
        """The system's file as the step was planned with; one that this worker was not started with is looked up."""
        definitions = self._definitions()
        try:
            if not definitions.knows(row.config_hash):
                definitions.learn(await self._patiently(self._store.configurations_in_use))
            return definitions.configuration(row.config_hash)
        except (Misconfigured, KeyError) as error:
            raise LostLease(f"configuration {row.config_hash} is left to a worker that can read it") from error

    # --- what became of it ---------------------------------------------------------------------------------------

    async def _again(self, row: StepRow, began: float, why: str, after: timedelta | None) -> None:
        if row.attempt >= row.planned.attempts:
            tried = f" (tried {row.attempt} times)" if row.attempt > 1 else ""
            await self._record(row, began, StepStatus.FAILED, {}, f"{why}{tried}")
            return
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (row.attempt - 1)) * (0.5 + self._ids.random())
        ready_at = self._clock.now() + (after if after is not None else timedelta(seconds=pause))
        await self._record(row, began, StepStatus.READY, {}, why, ready_at)
        crash_point("runner.after_retry")

    async def _record(
        self,
        row: StepRow,
        began: float,
        status: StepStatus,
        result: Mapping[str, Json],
        error: str | None,
        ready_at: datetime | None = None,
    ) -> None:
        outcome = "retrying" if status is StepStatus.READY else str(status)
        seconds = self._clock.monotonic() - began
        # A component's last words may hold anything; what they say must not keep the step from ending, and no secret.
        error = keepable(self._world.secrets.hide(error))[:LONGEST_ERROR] if error is not None else None
        result = self._without_secrets(row, result)
        metrics.STEPS.labels(action=row.planned.action, outcome=outcome).inc()
        metrics.STEP_SECONDS.labels(action=row.planned.action).observe(seconds)
        log.info(
            "step.ended", outcome=outcome, system=row.system, instance=row.key.instance, entry=row.key.entry,
            step=row.key.name, attempt=row.attempt, error=error,
        )  # fmt: skip
        try:
            signal = self._signal(row, outcome, result=dict(result), error=error, seconds=round(seconds, 3))
            await self._patiently(lambda: self._store.finish(row, status, result, error, ready_at, signal))
        except Poison as poison:
            # The effect stands; what the action returned cannot be stored. Without it nobody could rely on the effect.
            why = self._world.secrets.hide(f"what {row.planned.action} returned cannot be stored: {poison}")
            why = keepable(why)[:LONGEST_ERROR]
            signal = self._signal(row, "failed", result={}, error=why, seconds=round(seconds, 3))
            failed = StepStatus.FAILED
            await self._patiently(lambda: self._store.finish(row, failed, {}, why, None, signal))

    def _learn_secrets(self, system: System) -> None:
        """All that the file names, before anybody can repeat one: a component that a Relight before us started may."""
        for reference in system.secret_references():
            with contextlib.suppress(StepError):  # who needs it says so
                self._world.secrets.resolve(reference, system.folder)

    def _without_secrets(self, row: StepRow, result: Mapping[str, Json]) -> Mapping[str, Json]:
        """What stands in the system's file is public: a weak password that is also a folder's name spoils no URL."""
        definitions = self._definitions()
        public = definitions.configuration(row.config_hash).canonical() if definitions.knows(row.config_hash) else ""
        hidden = self._world.secrets.hide_in(dict(result), public)
        return hidden if isinstance(hidden, dict) else {}

    async def _wait(self, row: StepRow, waiting: Waiting) -> None:
        signal = self._signal(row, "waiting", whom=waiting.whom, until=waiting.until)
        await self._patiently(lambda: self._store.wait(row, waiting.until, signal))
        crash_point("runner.after_wait")

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """The renewal beside it gives the claim up when the outage outlasts the lease."""
        return await patiently(self._clock, call)

    def _signal(self, row: StepRow, outcome: str, **more: object) -> NewSignal:
        """Raises Poison when the door would not take it in: the machine would never hear of the step's end."""
        key = row.key
        body = {
            "specversion": "1.0",
            "id": f"{key.command_id}:{row.attempt}:{outcome}:{row.token}",  # at most 220 and some 40 characters
            "source": "relight/runner",
            "type": "relight.step.reported",
            "subject": row.system,
            "time": self._clock.now(),
            "data": {
                "instance": key.instance,
                "entry": key.entry,
                "state": row.state,
                "step": key.name,
                "attempt": row.attempt,
                "outcome": outcome,
                **more,
            },
        }
        try:
            text = canonical(body)
        except TypeError as error:
            raise Poison(f"it cannot be said in JSON: {error}") from error
        if isinstance(refused := read(text.encode()), Rejected):
            raise Poison("; ".join(refused.reasons))
        return NewSignal(row.system, text)
