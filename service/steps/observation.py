"""One look at a system that is only observed: what runs, what the checks say, what each step of a restart would meet.

`markdown` makes the page of it. Nothing is decided, and nothing of the system is changed: the given world refrains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from machines.model import InstanceId, PlannedStep, StepStatus
from machines.plan import Leg
from schemas.base import Json
from schemas.components import LOCAL
from schemas.system import System
from service.errors import StepError
from service.ports import Action, Clock, StepContext, StepKey, StepRow, Token, World
from service.steps.foreseeing import Foreseen, Outlook, elsewhere, foresee, planned_as
from service.steps.mcp_checks import ask
from service.steps.naming import folder, running_name

MCP_WITHIN = timedelta(seconds=8)
"""For one MCP server: it answers within milliseconds, or something is wrong."""
MARKS = {Outlook.WOULD: "✓", Outlook.WOULD_NOT: "✗", Outlook.UNKNOWN: "?"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A component as it was found: `pid` None when it does not run; `foreign`: this Relight did not start it. `unit`:
    the unit of systemd that it is, and how systemd finds it."""

    component: str
    pid: int | None
    foreign: bool = False
    problem: str | None = None
    unit: str | None = None
    running: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A restart that somebody asked for, and what they were answered."""

    event_id: str
    user: str | None
    at: datetime
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Observation:
    """All of one look. `mcp`: the tools by server, or why it did not answer."""

    system: str
    config_hash: str
    began: datetime
    ended: datetime
    components: tuple[Seen, ...]
    mcp: Mapping[str, tuple[str, ...] | str]
    steps: tuple[Foreseen, ...]
    request: Request | None = None
    statuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_the_way(self) -> tuple[Foreseen, ...]:
        return tuple(one for one in self.steps if one.outlook is Outlook.WOULD_NOT)

    @property
    def summary(self) -> str:
        """One line without a time: the same as long as nothing has changed."""
        running = sum(one.running for one in self.components)
        foreign = sum(one.foreign for one in self.components)
        checks = [one.outlook for one in self.steps if one.step.startswith("baseline:")]
        words = f"{running}/{len(self.components)} run"
        words += f" ({foreign} not started by this Relight)" if foreign else ""
        words += f", {checks.count(Outlook.WOULD)}/{len(checks)} checks pass"
        words += f" ({checks.count(Outlook.UNKNOWN)} not asked)" if Outlook.UNKNOWN in checks else ""
        names = list(dict.fromkeys(one.step for one in self.in_the_way))
        return f"{words}; in the way of a restart: {', '.join(names) or 'nothing that can be seen'}"


async def observe(
    system: System,
    legs: Sequence[Leg],
    actions: Mapping[str, Action],
    world: World,
    clock: Clock,
    request: Request | None = None,
    places: Sequence[str] = (LOCAL,),
) -> Observation:
    """Looks at everything once. `legs` is the very way that a restart would go; `world` must refrain from changes.
    `places`: whose steps can be looked at from here."""
    began = clock.now()
    known: dict[str, Foreseen] = {}
    steps: list[Foreseen] = []
    for leg in legs:
        for step in leg.steps:
            context = _context(system, step, leg.state.name, world, clock)
            key = repr(planned_as(step))
            if key not in known:
                does = actions[step.action].plan(step, system)
                place = system.components[step.component].place if step.component is not None else LOCAL
                known[key] = await foresee(context, does) if place in places else elsewhere(context, does, place)
            same = known[key]
            steps.append(Foreseen(leg.state.name, step.name, same.does, same.outlook, same.words, same.evidence))
    components = tuple([await _seen(system, name, world, places) for name in system.components])
    mcp = {name: await _tools(system, name, world) for name in system.mcp}
    statuses = {leg.state.name: leg.state.status for leg in legs}
    return Observation(
        system.system, system.config_hash(), began, clock.now(), components, mcp, tuple(steps), request, statuses
    )


def _context(system: System, step: PlannedStep, state: str, world: World, clock: Clock) -> StepContext:
    # A claim that fences nobody: nothing that would need one is reached through a world that refrains.
    row = StepRow(
        key=StepKey(InstanceId(f"lifecycle/{system.system}"), 0, step.name),
        system=system.system,
        place="local",
        planned=step,
        status=StepStatus.RUNNING,
        state=state,
        config_hash=system.config_hash(),
        attempt=1,
        token=Token(0),
    )
    return StepContext(row, system, {}, {}, world, clock)


async def _seen(system: System, name: str, world: World, places: Sequence[str]) -> Seen:
    whole, component = running_name(system, name), system.components[name]
    if component.place not in places:
        return Seen(name, None, problem=f"it runs on {component.place}, which is not looked at from here")
    try:
        state = await world.processes.state(whole)
        if state.unit is not None:
            pid, runs = state.pid if state.running else None, state.running and not state.comes_back
            return Seen(name, pid, unit=f"{state.unit} is {state.words}", running=runs)
        pids = await world.processes.strangers(whole, component.command, folder(system, component))
    except StepError as error:
        return Seen(name, None, problem=str(error))
    pid = state.pid if state.running else None
    return Seen(name, pid, foreign=state.running and state.pid in pids, running=state.running)


async def _tools(system: System, name: str, world: World) -> tuple[str, ...] | str:
    try:
        return (await ask(world, system, name, MCP_WITHIN)).tools
    except StepError as error:
        return world.secrets.hide(str(error))


def markdown(seen: Observation) -> str:
    """The page of one look, for people."""
    lines = [
        f"# {seen.system}, observed: nothing was moved",
        "",
        f"{seen.began:%Y-%m-%d %H:%M:%S} UTC, in {(seen.ended - seen.began).total_seconds():.1f} s; "
        f"configuration {seen.config_hash[:12]}.",
        "",
    ]
    if (asked := seen.request) is not None:
        lines += [f"Asked for by {asked.user or 'nobody by name'} at {asked.at:%H:%M:%S} UTC ({asked.event_id}):", ""]
        lines += [f"> {reason}" for reason in asked.reasons] + [""]
    lines += [f"**{seen.summary}**", "", "## What runs", ""]
    lines += [f"- {_component(one)}" for one in seen.components]
    if any(one.foreign for one in seen.components):
        lines += ["", "Relight takes over nothing that it did not start: before its first restart of this system these"]
        lines += ["processes have to be ended where they were started, and `relight serve` then starts them."]
    if seen.mcp:
        lines += ["", "## MCP servers", ""]
        lines += [f"- {'✗' if isinstance(said, str) else '✓'} {name}: {_mcp(said)}" for name, said in seen.mcp.items()]
    lines += ["", "## What a restart would do now, and what it would meet", ""]
    state = ""
    for one in seen.steps:
        if one.state != state:
            state = one.state
            lines += ["", f"### {seen.statuses.get(state, state)} ({state})", ""]
        lines.append(f"- {MARKS[one.outlook]} `{one.step}`: {one.does} → {one.words}")
    lines += ["", "✓ nothing is in its way now; ✗ it would fail or wait; ? only doing it would tell.", ""]
    return "\n".join(lines)


def as_json(seen: Observation) -> dict[str, Json]:
    """The same for programs."""
    asked = seen.request
    return {
        "system": seen.system,
        "config_hash": seen.config_hash,
        "began": seen.began.isoformat(),
        "ended": seen.ended.isoformat(),
        "summary": seen.summary,
        "request": None
        if asked is None
        else {"id": asked.event_id, "user": asked.user, "at": asked.at.isoformat(), "reasons": list(asked.reasons)},
        "components": [
            {
                "name": one.component,
                "pid": one.pid,
                "foreign": one.foreign,
                "problem": one.problem,
                **({"unit": one.unit} if one.unit is not None else {}),
            }
            for one in seen.components
        ],
        "mcp": {name: said if isinstance(said, str) else list(said) for name, said in seen.mcp.items()},
        "steps": [
            {
                "state": one.state,
                "step": one.step,
                "does": one.does,
                "outlook": one.outlook.value,
                "words": one.words,
                "evidence": dict(one.evidence),
            }
            for one in seen.steps
        ],
    }


def _component(one: Seen) -> str:
    if one.problem is not None:
        return f"? {one.component}: {one.problem}"
    if one.unit is not None:
        return f"{'✓' if one.running else '✗'} {one.component}: {one.unit}{f', pid {one.pid}' if one.pid else ''}"
    if one.pid is None:
        return f"✗ {one.component}: it does not run"
    return f"✓ {one.component}: pid {one.pid}{', not started by this Relight' if one.foreign else ''}"


def _mcp(said: tuple[str, ...] | str) -> str:
    return said if isinstance(said, str) else f"{len(said)} tools"
