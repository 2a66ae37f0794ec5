"""The checks of a system's file, `check.run`: evidence with a value, what was expected, how long it took and when."""

import math
from collections.abc import Mapping
from datetime import timedelta

from machines.model import PlannedStep
from schemas.base import Json
from schemas.checks import (
    Check,
    ConfigCheck,
    EqualCheck,
    FilesCheck,
    IntegrityCheck,
    McpCheck,
    RoundTripCheck,
    SqlCheck,
)
from schemas.components import ByCommand, ByHttp, Command, Participant
from schemas.system import System
from schemas.system_snapshot import SystemSnapshot
from service.errors import Permanent, Retry, StepError
from service.ports import Done, StepContext, Waiting
from service.steps.asking import Answer, answer, ask, post, run, silent
from service.steps.file_checks import config, files
from service.steps.integrity_checks import integrity
from service.steps.known_failures import failed_before
from service.steps.mcp_checks import mcp
from service.steps.naming import restart_id
from service.steps.snapshots import sealed
from service.timeouts import time_limit

RELATIVE = 1e-9
"""How far two numbers may be apart and still be called equal: what a restored float sum may differ by, and no more."""
SQL_SHARE = 0.8
"""The share of the step's timeout that a query may take; the rest is for connecting and leaving."""
WHOLE = 0.95
"""The share of the step's timeout that a check may take as a whole, so that it can say itself that it took longer."""
UNBOUND = timedelta(seconds=2)
"""How long until a participant that is not at the broker is asked once more."""


class RunCheck:
    """Performs check number `check` of the file. Twice is safe: a query is read-only and `report` changes nothing."""

    name = "check.run"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        return in_words(check_of(step, system))

    async def perform(self, context: StepContext) -> Done | Waiting:
        """Result: `passed` true, `title`, `value`, `expected`, `seconds`, `at`. Raises Retry when it did not pass.

        What failed before the restart already is done: `passed` false, `failed_before` true, `finding` and `before`.
        """
        check = check_of(context.row.planned, context.system)
        within = context.row.planned.timeout.total_seconds() * WHOLE
        try:
            return await self.look(context, check, within)
        except StepError as error:
            known = failed_before(context, context.row.planned.arguments.get("check"), check.title, error)
            if known is None:
                raise
            return Done(known)

    async def look(self, context: StepContext, check: Check, seconds: float) -> Done | Waiting:
        """One check, whichever list of the file it stands in. Raises Retry also when it took longer than `seconds`."""
        try:
            async with time_limit(seconds) as limit:
                return await self._perform(context, check)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Retry(f"{check.title}: it did not end within {seconds:g} s") from error

    async def _perform(self, context: StepContext, check: Check) -> Done | Waiting:
        began, detail = context.clock.monotonic(), ""
        match check:
            case SqlCheck():
                value = await self._sql(context, check)
                expected = check.is_
            case RoundTripCheck(roundtrip=name, within=within):
                said = await self._report(context, name, within)
                if isinstance(said, Waiting):
                    return said
                value, expected = "answered", f"within {within.total_seconds():g} s"
            case EqualCheck():
                compared = await self._equal(context, check)
                if isinstance(compared, Waiting):
                    return compared
                value, expected = compared
            case FilesCheck():
                value, expected = await files(context, check)
            case ConfigCheck():
                value, expected = await config(context, check)
            case McpCheck():
                value, expected, detail = await mcp(context, check)
            case IntegrityCheck():
                value, expected = await integrity(context, check)
        result: dict[str, Json] = {"passed": True, "title": check.title, "value": value, "expected": expected}
        if detail:
            result["detail"] = detail
        if context.row.answer is None:
            # An answer that came by message arrived in another attempt: how long it took is not known in this one.
            result["seconds"] = round(context.clock.monotonic() - began, 3)
        return Done({**result, "at": context.clock.now().isoformat()})

    async def probe(self, context: StepContext) -> Done | None:
        return None

    async def _sql(self, context: StepContext, check: SqlCheck) -> Json:
        dsn = context.world.secrets.resolve(context.system.databases[check.sql].url, context.system.folder)
        value = await context.world.databases.value(dsn, check.query, context.row.planned.timeout * SQL_SHARE)
        if not _same(value, check.is_):
            raise Retry(f"{check.title}: expected {check.is_!r}, found {value!r} ({check.query})")
        return value

    async def _equal(self, context: StepContext, check: EqualCheck) -> tuple[Json, Json] | Waiting:
        if not context.row.state.startswith("starting_up"):
            return "nothing was stopped", "nothing to compare yet"
        snapshot = await sealed(context)
        if snapshot is None:
            if restart_id(context.data) is not None:
                raise Permanent(f"{check.title}: there was a restart, but no system snapshot to compare with")
            return "no restart went before", "nothing to compare yet"
        expected = _held(snapshot, check)
        if not expected:
            return _nothing_held(snapshot, check)
        now = await self._values_now(context, expected)
        if isinstance(now, Waiting):
            return now
        wrong = [
            f"{component} has {name} = {now[component].get(name)!r}, before the restart {value!r}"
            for component, values in expected.items()
            for name, value in values.items()
            if not _same(now[component].get(name), value)
        ]
        if wrong:
            raise Retry(f"{check.title}: {'; '.join(wrong)}")
        found = {c: {name: now[c].get(name) for name in values} for c, values in expected.items()}
        return _flat(found), _flat(expected)

    async def _values_now(
        self, context: StepContext, components: Mapping[str, object]
    ) -> dict[str, Mapping[str, Json]] | Waiting:
        # One step has one command id, so one message may be out for it; programs can all be run in one attempt.
        by_message = [name for name in components if context.system.components[name].participant == "amqp"]
        if len(by_message) > 1:
            raise Permanent(
                f"{' and '.join(by_message)} all report by AMQP; write one `equal` check for the values of each"
            )
        now: dict[str, Mapping[str, Json]] = {}
        for name in sorted(components, key=lambda n: n not in by_message):
            said = await self._report(context, name, context.system.restart.answer_within)
            if isinstance(said, Waiting):
                return said
            now[name] = said.values
        return now

    async def _report(self, context: StepContext, name: str, within: timedelta) -> Answer | Waiting:
        match context.system.components[name].participant:
            case "amqp" if context.row.answer is None:
                waiting = await ask(context, name, Command.REPORT, within, {})
                if waiting is None:
                    raise Retry(f"{name} is not at the broker to be asked for a report", UNBOUND)
                return waiting
            case "amqp" if silent(context):
                raise Retry(f"{name} did not report within {within.total_seconds():g} s")
            case "amqp":
                return answer(context, name, Command.REPORT)
            case Participant(report=ByCommand() as way):
                return await run(context, name, Command.REPORT, way, within)
            case Participant(report=ByHttp() as way):
                return await post(context, name, Command.REPORT, way, within, {})
            case _:
                raise Permanent(f"{name} cannot be asked for a report: its file names no way for it")


def in_words(check: Check) -> str:
    """What is checked, for people."""
    match check:
        case SqlCheck(sql=database, query=query, is_=expected):
            return f"check that on {database} {query!r} is {expected!r}"
        case RoundTripCheck(roundtrip=name, within=within):
            return f"check that {name} answers a question within {within.total_seconds():g} s"
        case EqualCheck(equal=names):
            return f"check that {', '.join(names)} equal those in the system snapshot"
        case FilesCheck(files=path, access="absent"):
            return f"check that {path} is not there"
        case FilesCheck(files=path, access=access):
            return f"check that {path} can be {'read and written' if access == 'rw' else 'read'}"
        case ConfigCheck(config=path):
            return f"check that {path} is what it was when the system was last verified"
        case McpCheck(mcp=name):
            return f"check that MCP server {name} answers and lists its tools"
        case IntegrityCheck(integrity=database, tables=tables):
            what = ", ".join(tables) if tables else "every table"
            return f"check that {what} of {database} and their indexes are whole, by reading them"


def check_of(step: PlannedStep, system: System) -> Check:
    """The check of the file that a step is planned for. Raises Permanent when the file has no such one."""
    index = step.arguments.get("check", step.arguments.get("index"))
    if not isinstance(index, int) or not 0 <= index < len(system.verify):
        raise Permanent(f"step {step.name} names check {index!r}, but {system.system} has {len(system.verify)}")
    return system.verify[index]


def _held(snapshot: SystemSnapshot, check: EqualCheck) -> dict[str, dict[str, Json]]:
    """The wanted values in the snapshot, by component; components without any are left out."""
    held = {
        name: {key: component.values[key] for key in check.equal if key in component.values}
        for name, component in snapshot.components.items()
    }
    return {name: values for name, values in held.items() if values}


def _nothing_held(snapshot: SystemSnapshot, check: EqualCheck) -> tuple[Json, Json]:
    """Only a component that was dead before the restart excuses a snapshot without the values."""
    dead = [name for name, one in snapshot.components.items() if not one.kept and one.running is False]
    if not dead:
        raise Permanent(f"{check.title}: nobody reported these before the restart, so nothing shows what survived")
    return f"lost before the restart, when {', '.join(dead)} did not run", "nothing to compare"


def _same(found: Json, expected: Json) -> bool:
    """Equal as JSON has it: true is not 1, and numbers within a relative 1e-9."""
    numbers = (int, float)
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, numbers) and isinstance(expected, numbers):
        return math.isclose(found, expected, rel_tol=RELATIVE)
    return found == expected


def _flat(values: Mapping[str, Mapping[str, Json]]) -> Json:
    """One component's values stand alone; those of several by `component.name`."""
    if len(values) == 1:
        return dict(next(iter(values.values())))
    return {f"{component}.{name}": value for component, inner in values.items() for name, value in inner.items()}
