"""The check of a database's integrity: every table and index of it is read and found whole, not only reachable."""

from schemas.base import Json
from schemas.checks import IntegrityCheck
from service.errors import Permanent, Retry
from service.ports import StepContext

SHARE = 0.8
"""The share of the step's timeout that reading may take; the rest is for connecting and leaving."""
NAMED = 5
"""Findings that an error names; of more it says the number."""


async def integrity(context: StepContext, check: IntegrityCheck) -> tuple[Json, Json]:
    """How many tables and indexes were read. Raises Permanent with what is damaged: that does not pass by itself."""
    system, within = context.system, context.row.planned.timeout * SHARE
    dsn = context.world.secrets.resolve(system.databases[check.integrity].url, system.folder)
    try:
        looked = await context.world.databases.damage(dsn, check.tables, within)
    except Retry as error:
        raise Retry(f"{check.title}: {error}", error.after) from error
    except Permanent as error:
        raise Permanent(f"{check.title}: {error}") from error
    if looked.damage:
        more = f"; and {len(looked.damage) - NAMED} more" if len(looked.damage) > NAMED else ""
        raise Permanent(
            f"{check.title}: {'; '.join(looked.damage[:NAMED])}{more}. Nothing was changed: `reindex` mends an index; "
            "a damaged table comes from a backup, and its server's disk should be looked at first"
        )
    if not looked.tables:
        raise Permanent(f"{check.title}: there was nothing to read, so nothing was verified")
    return {"tables": looked.tables, "indexes": looked.indexes}, "no damage"
