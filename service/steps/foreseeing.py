"""What a planned step would meet as things stand now, without being performed. It looks through read-only ports.

What can only be known by doing it is said to be unknown; nothing here is a promise.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from machines.model import PlannedStep
from schemas.base import Json, format_duration
from schemas.components import Command
from service.errors import Missing, Permanent, Refrained, StepError
from service.ports import StepContext
from service.steps.backups import reusable
from service.steps.checks import RunCheck
from service.steps.critical import look_once
from service.steps.draining import open_transactions
from service.steps.grounds import CheckIdentity, stand_clear
from service.steps.naming import environment, folder, running_name, the_component

WITHIN = timedelta(seconds=5)
"""For one small question to a database."""
YOUNG = 5.0
"""Seconds: a transaction younger than this is everyday business and nothing that a drain would wait for long."""
UNREADABLE = """
select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm', 'S') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
  and not has_table_privilege(c.oid, 'SELECT')
"""
"""Tables and sequences that our role may not read: pg_dump would fail at the first of them."""


class Outlook(StrEnum):
    """`would`: nothing is in the way. `would_not`: it would fail or wait. `unknown`: only doing it would tell."""

    WOULD = "would"
    WOULD_NOT = "would_not"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A step, what it would do, and what it would meet. `evidence`: of a check, what was found."""

    state: str
    step: str
    does: str
    outlook: Outlook
    words: str
    evidence: Mapping[str, Json]


class Unknowable(Exception):  # no error: an answer
    """Only doing it would tell."""


Answer = tuple[str, Mapping[str, Json]]


async def foresee(context: StepContext, does: str) -> Foreseen:
    """The outlook of the step of `context`, whose world can only be looked at. Raises nothing of the world's."""
    row = context.row
    outlook, words, evidence = Outlook.WOULD, "", dict[str, Json]()
    try:
        said, found = await _answer(context)
        words, evidence = said, dict(found)
    except (Unknowable, Refrained) as error:
        outlook, words = Outlook.UNKNOWN, str(error)
    except StepError as error:
        outlook, words = Outlook.WOULD_NOT, str(error)
    return Foreseen(row.state, row.key.name, does, outlook, context.world.secrets.hide(words), evidence)


def elsewhere(context: StepContext, does: str, place: str) -> Foreseen:
    """The outlook of a step that belongs to another host: from here it has none."""
    words = f"it belongs to {place}, which is not looked at from here"
    return Foreseen(context.row.state, context.row.key.name, does, Outlook.UNKNOWN, words, {})


async def _answer(context: StepContext) -> Answer:
    action = context.row.planned.action
    look = LOOKS.get(action)
    if look is not None:
        return await look(context)
    if action.startswith("participant."):
        return await _participant(context, action.removeprefix("participant."))
    raise Unknowable("only doing it would tell")


async def _observe(context: StepContext) -> Answer:
    name, _ = the_component(context)
    state = await context.world.processes.state(running_name(context.system, name))
    if not state.running:
        raise Permanent(f"{name} does not run")
    return f"pid {state.pid}", {"pid": state.pid}


async def _check(context: StepContext) -> Answer:
    try:
        done = await RunCheck().perform(context)
    except Refrained as error:
        raise Unknowable(f"not asked: {error}") from error
    result: Mapping[str, Json] = getattr(done, "result", {})
    if result.get("passed") is False:
        raise Permanent(str(result.get("finding")))
    seconds = result.get("seconds")
    took = f" in {seconds:g} s" if isinstance(seconds, int | float) else ""
    return f"passes now: {_brief(result.get('value'))}{took}", result


async def _critical(context: StepContext) -> Answer:
    try:
        found = await look_once(context)
    except Refrained as error:
        raise Unknowable(f"not asked: {error}") from error
    except StepError as error:
        limit = format_duration(context.row.planned.timeout)
        raise Permanent(f"{error}; it would be waited for {limit}, then the restart is given up") from error
    if found is None:
        raise Unknowable("an answer by message is not waited for here")
    return "nothing critical is in progress now", {"checks": found}


async def _identity(context: StepContext) -> Answer:
    done = await CheckIdentity().perform(context)
    identities = done.result.get("identities")
    pinned = f"{', '.join(identities)} on the pinned server" if isinstance(identities, dict) and identities else ""
    return f"{pinned or 'no identity is pinned'}; Relight stands on none of it", done.result


async def _drain(context: StepContext) -> Answer:
    database = str(context.row.planned.arguments.get("database"))
    found = await open_transactions(context, database, 0.0)
    old = [one for one in found if one.seconds >= YOUNG]
    if old:
        limit = format_duration(context.row.planned.timeout)
        named = "; ".join(one.brief for one in old)
        raise Permanent(f"{named} would block now; it would be waited for {limit}, then the restart is taken back")
    young = f"; {len(found)} younger than {YOUNG:g} s are open" if found else ""
    return f"no transaction would block now{young}", {"open": len(found)}


async def _backup(context: StepContext) -> Answer:
    system, world = context.system, context.world
    name = str(context.row.planned.arguments.get("database"))
    dsn = world.secrets.resolve(system.databases[name].url, system.folder)
    server = await world.dumps.identify(dsn)
    if (pinned := system.identity.get(name)) not in (None, server):
        raise Permanent(f"{name} is on the server {server}, but {pinned} is pinned as its identity")
    if (done := await reusable(context, name, server)) is not None:
        return f"the backup of {done.result.get('made_at')} would be reused", done.result
    unreadable = await world.databases.value(dsn, UNREADABLE, WITHIN)
    if isinstance(unreadable, int) and unreadable:
        raise Permanent(f"the role of databases.{name} may not read {unreadable} of its tables and sequences")
    size = await world.databases.value(dsn, "select pg_database_size(current_database())", WITHIN)
    if not isinstance(size, int):
        raise Permanent(f"the server does not say how large {name} is")
    free = await _room(context, system.backup_url(name))
    if free is not None and free < size:
        raise Permanent(f"{name} has {amount(size)}, and only {amount(free)} are free at {system.backup_url(name)}")
    left = f"{amount(free)} free" if free is not None else "nobody tells how much is free"
    return f"at most {amount(size)} to {system.backup_url(name)}, {left}", {"bytes": size, "free": free}


async def _store(context: StepContext) -> Answer:
    url = context.system.state_url()
    free = await _room(context, url)
    left = f"{amount(free)} free" if free is not None else "reachable; whether it may be written was not tried"
    return f"{url}: {left}", {"free": free}


async def _notice(context: StepContext) -> Answer:
    planned, system = context.row.planned, context.system
    severity = str(planned.arguments.get("severity"))
    channels: list[str] = list(getattr(system.channels, severity, []))
    if not channels:
        return f"no channels.{severity}: only the log and the status topic say it", {}
    missing = []
    for one in channels:
        try:
            context.world.secrets.resolve(one, system.folder)
        except StepError as error:
            missing.append(str(error))
    if len(missing) == len(channels) and planned.arguments.get("delivery") == "required":
        raise Permanent(f"nobody could be told, and delivery is required: {'; '.join(missing)}")
    lost = f"; not reached: {'; '.join(missing)}" if missing else ""
    return f"{len(channels) - len(missing)} of {len(channels)} channels have an address; nobody was told now{lost}", {}


async def _participant(context: StepContext, word: str) -> Answer:
    name, component = the_component(context)
    state = await context.world.processes.state(running_name(context.system, name))
    if not state.running:
        raise Permanent(f"{name} does not run")
    if not component.takes(Command(word)):
        raise Permanent(f"{name} has no way to be told {word}")
    raise Unknowable(f"pid {state.pid} would be told; whether it answers, only telling it would show")


async def _stop(context: StepContext) -> Answer:
    name, _ = the_component(context)
    state = await context.world.processes.state(running_name(context.system, name))
    if not state.running:
        return f"{name} does not run", {}
    await stand_clear(context, name)
    return f"{state.unit or f'pid {state.pid}'}, TERM, up to {format_duration(context.row.planned.timeout)}", {
        "pid": state.pid
    }


async def _start(context: StepContext) -> Answer:
    name, component = the_component(context)
    environment(context, name)
    if component.service is None:
        found = f"its folder {folder(context.system, component)}, its secrets"
        await context.world.files.tried(folder(context.system, component), write=False)
    else:
        found = f"its unit {component.service}"
        await context.world.processes.state(running_name(context.system, name))
    for need in component.needs:
        if need in context.system.databases:
            dsn = context.world.secrets.resolve(context.system.databases[need].url, context.system.folder)
            await context.world.databases.value(dsn, "select 1", WITHIN)
    return f"{found} and the databases it needs are there", {}


async def _room(context: StepContext, url: str) -> int | None:
    """Bytes free at a place of documents, None where nobody says. Raises Permanent when it could not be written to."""
    if not url.startswith("file://"):
        await context.world.storage.list(f"{url}/")
        return None
    place = PurePosixPath(unquote(urlsplit(url).path))
    for here in (place, *place.parents):
        try:
            return (await context.world.files.tried(str(here), write=True)).free
        except Permanent as error:
            if "No such file" not in str(error) and not isinstance(error, Missing):
                raise
    raise Permanent(f"{url} is no place of this host")


def amount(count: int) -> str:
    """`1.2 GB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _brief(value: Json) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def planned_as(step: PlannedStep) -> tuple[str, Json]:
    """What makes two planned steps the same question: a check before and after is asked once."""
    return step.action, dict(step.arguments) if step.action == "check.run" else step.name


LOOKS: Mapping[str, Callable[[StepContext], Awaitable[Answer]]] = {
    "component.observe": _observe,
    "check.run": _check,
    "check.critical": _critical,
    "identity.check": _identity,
    "postgres.drain": _drain,
    "postgres.backup": _backup,
    "snapshot.seal": _store,
    "report.write": _store,
    "notice.tell": _notice,
    "component.stop": _stop,
    "component.start": _start,
}
"""How each action's outlook is found; of all others only doing it would tell."""
