"""Signing an item of a run's checklist: what a person says was done, beside what the steps of the run show.

No table decides about it and no course depends on it. No I/O.
"""

from collections.abc import Mapping
from datetime import datetime

from machines.checklist import DAILY_RESTART
from machines.evidence import record, text, who
from machines.model import Event, Reason, Snapshot
from schemas.base import Json
from schemas.events import ChecklistSigned
from service.engine.noting import note
from service.engine.work import Live, Work

SIGNATURES = "signatures"
"""Where they are kept in an instance's data, of one run at a time: `{restart, items: {item: {by, at, reason}}}`.

Those of earlier runs stay in the log, where the report finds them."""


def sign(work: Work, live: Live, event: Event, signed: ChecklistSigned) -> Reason | None:
    """Notes the signature, or says why this signs nothing."""
    match _remembered(live.snapshot, event, signed, work.now):
        case str() as why_not:
            return why_not
        case changes:
            note(work, live, event, f"{signed.item!r} is signed: {signed.reason}", changes)
            return None


def _remembered(
    snapshot: Snapshot, event: Event, signed: ChecklistSigned, now: datetime
) -> Mapping[str, Json] | Reason:
    items = [item.text for item in DAILY_RESTART]
    if signed.item not in items:
        return Reason(f"{signed.item!r} is no item of the checklist; its items are: {'; '.join(items)}")
    known = _runs(snapshot.data)
    if not known:
        return Reason(f"{snapshot.instance} remembers no restart whose checklist could be signed")
    run = signed.restart or known[0]
    if run not in known:
        return Reason(f"the restart {run!r} is not remembered any more; its last ones are: {', '.join(known)}")
    earlier = record(snapshot.data, SIGNATURES)
    signatures = record(earlier, "items") if earlier.get("restart") == run else {}
    if signed.item in signatures:
        by = record(signatures, signed.item)
        return Reason(f"{signed.item!r} of {run} was signed already, by {by.get('by')} at {by.get('at')}")
    signature: dict[str, Json] = {"by": who(event), "at": now.isoformat(), "reason": signed.reason}
    return {SIGNATURES: {"restart": run, "items": {**signatures, signed.item: signature}}}


def _runs(data: Mapping[str, Json]) -> list[str]:
    """The restarts that the instance remembers: the one under way, then those that ended, the newest first."""
    ended = [(record(data, key), end) for key, end in (("last_restart", "up_at"), ("last_abort", "ended_at"))]
    newest = sorted(ended, key=lambda one: text(one[0], one[1]) or "", reverse=True)
    found = (text(about, "id") for about in (record(data, "restart"), *(about for about, _ in newest)))
    return list(dict.fromkeys(name for name in found if name is not None))
