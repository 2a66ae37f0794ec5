"""Waits for what became of a request that was put through the local door: its row in the log. Prints nothing."""

import json
from dataclasses import dataclass
from datetime import timedelta

from machines.model import InstanceId
from service.cli.follow import Logs
from service.ports import Clock

TAKEN_IN_WITHIN = timedelta(seconds=15)
"""How long a request waits for its answer: longer than a lease, so that a take-over may lie between."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reasons`: why it was refused; empty when it was applied. `state`: where the instance stood right after it."""

    state: str
    reason: str
    reasons: tuple[str, ...] = ()


async def outcome(logs: Logs, clock: Clock, instance: InstanceId, seq: int, event_id: str) -> Outcome | None:
    """The log's word on the event, looked for after `seq`; None when nobody took it in within `TAKEN_IN_WITHIN`."""
    until = clock.monotonic() + TAKEN_IN_WITHIN.total_seconds()
    while clock.monotonic() < until:
        for row in await logs.history(instance, seq):
            if row.event.id == event_id:
                record = json.loads(row.record)
                refused = tuple(record["reasons"]) if row.kind == "refusal" else ()
                return Outcome(row.state_to, str(record.get("reason", "")), refused)
        await clock.sleep(0.1)
    return None
