"""When Relight's own database has lost what it had published: whom that concerns, and what is remembered of it.

The lifecycle halts then, wherever it stands: what a restored database says of the world is older than the world.
"""

from collections.abc import Mapping

from machines.evidence import record
from machines.lifecycle_memory import note_given_up
from machines.model import Facts, Reason
from schemas.base import Json
from schemas.events import DatabaseLost

LOST = "database.lost"
"""Raised by the owner of a shard, for each of its systems."""


def rows_lost(facts: Facts) -> Reason | None:
    """A system at rest whose rows are all there is what its log says."""
    match facts.event.data:
        case DatabaseLost(rows=rows) if rows > 0:
            return None
        case _:
            return Reason("nothing of this system was lost, and nothing of it was under way")


def rows_lost_or_begun(facts: Facts) -> Reason | None:
    """A system that was never looked at, here or in what is lost, has nothing to lose."""
    return None if facts.snapshot.entry > 0 else rows_lost(facts)


def note_lost(facts: Facts) -> Mapping[str, Json]:
    """The restart that was under way is given up here; what is gone stays to be read until a person has acted."""
    event = facts.event
    about = event.data.model_dump(mode="json") if isinstance(event.data, DatabaseLost) else {}
    failure: dict[str, Json] = {
        "state": facts.snapshot.state,
        "at": facts.now.isoformat(),
        "by": event.name,
        "reason": about.pop("reason", None),
        "steps": {},
    }
    given_up = dict(note_given_up(facts))
    if "restart" in facts.snapshot.data:
        given_up["last_abort"] = {**record(given_up, "last_abort"), "failure": failure}
    return {**given_up, "failure": failure, "lost": about}
