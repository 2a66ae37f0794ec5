"""Deleting backups that are too old, `postgres.prune`: what Relight made and no longer keeps, and nothing else ever.

What a backup is, and how it is made, stands in `backups.py`.
"""

from pydantic import ValidationError

from machines.model import PlannedStep
from schemas.backup import Backup
from schemas.base import Json
from schemas.system import System
from service.errors import Missing, Permanent
from service.ports import Done, StepContext
from service.steps.backups import LATEST

MANIFEST = ".manifest.json"
"""What the names of manifests end with."""


class Prune:
    """Keeps the newest `restart.backup.keep` backups of a database that were restored in a test, always `latest.json`
    and its dump, and deletes what is older. Only manifests of this very system and database count, and only the dumps
    that they name are deleted. Twice is safe: gone is gone, and what is kept is counted anew.
    """

    name = "postgres.prune"
    twice_is_safe = True

    def plan(self, step: PlannedStep, system: System) -> str:
        name, backup = str(step.arguments.get("database")), system.restart.backup
        kept = backup.keep if backup is not None else "all"
        return (
            f"keep the newest {kept} tested backups in {system.backup_url(name, '')}, delete older ones made by Relight"
        )

    async def perform(self, context: StepContext) -> Done:
        """Result: `database`, `keep`, `kept` and `deleted` (names of dumps), `bytes` that were freed; `detail` when
        nothing may be deleted. Raises Retry and Permanent of the storage."""
        name, backup = str(context.row.planned.arguments.get("database")), context.system.restart.backup
        if backup is None or backup.keep == "all":
            raise Permanent(f"step {context.row.key.name} has no number of backups to keep (restart.backup.keep)")
        about: dict[str, Json] = {"database": name, "keep": backup.keep}
        latest = await _read(context, name, context.system.backup_url(name, LATEST))
        if latest is None:
            return Done({**about, "deleted": [], "detail": "no tested backup is published: nothing is deleted"})
        own = await self._own(context, name)
        tested = sorted((made for made in own.values() if made.restored), key=lambda made: made.ended_at, reverse=True)
        kept = tested[: backup.keep]
        # What was made since the oldest kept one and never passed its test is looked at by a person, not deleted.
        oldest = kept[-1].ended_at if len(kept) == backup.keep else None
        old = {
            url: made
            for url, made in own.items()
            if oldest is not None and made.ended_at < oldest and made.file != latest.file
        }
        for url, made in old.items():
            # The manifest goes last: interrupted in between, it still says what there is to delete.
            await context.world.storage.delete(context.system.backup_url(name, made.file))
            await context.world.storage.delete(url)
        names: list[Json] = [made.file for made in kept]
        deleted: list[Json] = [made.file for made in old.values()]
        return Done({**about, "kept": names, "deleted": deleted, "bytes": sum(made.bytes for made in old.values())})

    async def probe(self, context: StepContext) -> Done | None:
        return None

    async def _own(self, context: StepContext, name: str) -> dict[str, Backup]:
        """Every manifest of this system's database, by its URL."""
        found = {}
        for stored in await context.world.storage.list(context.system.backup_url(name, "")):
            if stored.url.endswith(MANIFEST) and (made := await _read(context, name, stored.url)) is not None:
                found[stored.url] = made
        return found


async def _read(context: StepContext, name: str, url: str) -> Backup | None:
    """The manifest there; None for what is none, or none of this system and database: it is somebody else's."""
    try:
        made = Backup.model_validate_json(await context.world.storage.read(url))
    except (Missing, ValidationError):
        return None
    return made if (made.system, made.database) == (context.system.system, name) else None
