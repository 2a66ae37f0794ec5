"""The system snapshot, `snapshot.*`: sealed before the system goes down, read back at once and after the start."""

from pydantic import ValidationError

from machines.model import PlannedStep
from schemas.base import Json, findings
from schemas.system import System
from schemas.system_snapshot import ComponentSnapshot, SystemSnapshot, sha256
from service.errors import Missing, Permanent, RelightError
from service.ports import Done, StepContext
from service.steps.naming import record, restart_id, running_name

BEFORE_THE_STOP = "preparing_for_restart.preserving"
PUT_IT_BACK = (
    "Put the document with that SHA-256 back there (an earlier version, or a copy of that storage) and retry; where "
    "there is none, waive what needs it. What each component loaded was compared with what it flushed as it started"
)
"""What a person can do when the system is down: there is no other document to seal then."""


async def sealed(context: StepContext) -> SystemSnapshot | None:
    """The snapshot that this restart went down with, read back and its seal checked; None outside of a restart.

    Raises Permanent when it is gone, changed or unreadable: then nothing may be compared with it.
    """
    about = record(context.data, "system_snapshot")
    if not about:
        return None
    return await _read(context, str(about.get("url")), str(about.get("sha256")))


async def _read(context: StepContext, url: str, seal: str) -> SystemSnapshot:
    """Raises Permanent when it is gone or not what was sealed; what can be done depends on when that is found."""
    advice = "" if context.row.state == BEFORE_THE_STOP else f". {PUT_IT_BACK}"
    try:
        content = await context.world.storage.read(url)
    except Missing as error:
        raise Permanent(f"the system snapshot {url}, sealed with SHA-256 {seal}, is gone ({error}){advice}") from error
    found = sha256(content)
    if found != seal:
        raise Permanent(
            f"the system snapshot {url} was sealed with SHA-256 {seal}, but read back it is {found}: it was changed"
            f"{advice}"
        )
    try:
        return SystemSnapshot.model_validate_json(content)
    except ValidationError as error:
        raise Permanent(f"the system snapshot {url} cannot be read: {findings(error)}{advice}") from error


class Seal:
    """Writes down what every component holds and where. Twice is safe: the same restart writes the same place, and
    what was sealed before stays when it says the same.
    """

    name = "snapshot.seal"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        return f"seal the system snapshot as {system.state_url('snapshots')}/<restart>.json"

    async def perform(self, context: StepContext) -> Done:
        """Result: `url`, `sha256` (hex), `bytes`. Raises Permanent outside of a restart."""
        restart = restart_id(context.data)
        if restart is None:
            raise Permanent(f"{context.system.system} is in no restart, so there is nothing to seal a snapshot for")
        url = context.system.state_url("snapshots", f"{restart}.json")
        snapshot = SystemSnapshot(
            system=context.system.system,
            restart=restart,
            config_hash=context.row.config_hash,
            at=context.clock.now(),
            components={name: await self._component(context, name) for name in context.system.components},
        )
        earlier = await self._earlier(context, url)
        if earlier is not None and earlier.model_copy(update={"at": snapshot.at}) == snapshot:
            snapshot = earlier
        content = snapshot.canonical()
        await context.world.storage.write(url, content)
        return Done({"url": url, "sha256": sha256(content), "bytes": len(content)})

    async def probe(self, context: StepContext) -> Done | None:
        return None

    async def _component(self, context: StepContext, name: str) -> ComponentSnapshot:
        component = context.system.components[name]
        flushed, paused = (context.results.get(f"{step}:{name}", {}) for step in ("flush", "pause"))
        here = component.place == context.row.place
        # On another host only its own steps could look; whoever answered there runs.
        state = await context.world.processes.state(running_name(context.system, name)) if here else None
        running = state.running if state is not None else paused.get("running", bool(paused or flushed) or None)
        return ComponentSnapshot.model_validate(
            {
                **{key: flushed[key] for key in ("digest", "where", "bytes", "values") if key in flushed},
                "kept": component.keep,
                "running": running,
                "pid": state.pid if state is not None else paused.get("pid"),
                "started": state.started if state is not None else paused.get("started"),
                "paused": dict(paused),
            }
        )

    async def _earlier(self, context: StepContext, url: str) -> SystemSnapshot | None:
        try:
            return SystemSnapshot.model_validate_json(await context.world.storage.read(url))
        except (RelightError, ValidationError):
            return None  # not there yet, or half of something: it is written now


class Verify:
    """Reads the sealed snapshot back. Twice is safe: it only reads."""

    name = "snapshot.verify"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        return "read the system snapshot back and compare its SHA-256"

    async def perform(self, context: StepContext) -> Done:
        """Result: `verified` true, `url`, `sha256`. Raises Permanent when it is not what was sealed."""
        made = context.results.get("seal")
        if made is None:
            raise Permanent(f"{context.system.system} has no system snapshot sealed in this entry")
        url, seal = str(made.get("url")), str(made.get("sha256"))
        snapshot = await _read(context, url, seal)
        _belongs(context, snapshot, url)
        return Done({"verified": True, "url": url, "sha256": seal})

    async def probe(self, context: StepContext) -> Done | None:
        return None


class Compare:
    """After the start: the snapshot is still what was sealed, and still of this configuration. What each component
    loaded was compared as it started. Twice is safe: it only reads.
    """

    name = "snapshot.compare"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        return "load the system snapshot, compare its SHA-256 and its configuration"

    async def perform(self, context: StepContext) -> Done:
        """Result: `compared`; with a snapshot `url`, `sha256` and the `digests` by component, else `why`."""
        snapshot = await sealed(context)
        if snapshot is None:
            return Done({"compared": False, "why": "no restart went before, so there is no system snapshot"})
        about = record(context.data, "system_snapshot")
        _belongs(context, snapshot, str(about.get("url")))
        digests: dict[str, Json] = {name: c.digest for name, c in snapshot.components.items() if c.digest}
        expected = record(context.data, "digests")
        if dict(expected) != digests:
            raise Permanent(f"the system snapshot holds the digests {digests}, but {dict(expected)} were flushed")
        return Done({"compared": True, "url": about.get("url"), "sha256": about.get("sha256"), "digests": digests})

    async def probe(self, context: StepContext) -> Done | None:
        return None


def _belongs(context: StepContext, snapshot: SystemSnapshot, url: str) -> None:
    wanted = {
        "system": context.system.system,
        "restart": restart_id(context.data),
        "config_hash": context.row.config_hash,
    }
    for key, value in wanted.items():
        if value is not None and getattr(snapshot, key) != value:
            raise Permanent(f"the system snapshot {url} is of {key} {getattr(snapshot, key)}, not of {value}")
