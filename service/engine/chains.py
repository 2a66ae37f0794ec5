"""The causation chain of what an instance is doing: what Relight raises inside belongs to the event that began it.

A step's report and a due time carry no chain of their own. Without this a restart that an alert asked for would end as
if it had no cause, and services that answer to notifications could chase each other for ever. No I/O.
"""

from collections.abc import Mapping
from dataclasses import replace

from machines.model import Event, Snapshot
from schemas.base import Json
from schemas.events import StepReported, TimerFired

CHAIN = "chain"
"""The key of a snapshot's data: `depth` links, `correlation`, `traceparent`; absent where nobody began a chain."""


_INSIDE = (StepReported, TimerFired)
"""What carries no chain of its own."""


def inherited(event: Event, snapshot: Snapshot) -> Event:
    """An event from inside as a link of the chain that the instance is in; any other event as it is."""
    chain = snapshot.data.get(CHAIN)
    if type(event.data) not in _INSIDE or not isinstance(chain, Mapping):
        return event
    depth, correlation, trace = (chain.get(key) for key in ("depth", "correlation", "traceparent"))
    return replace(
        event,
        depth=depth if isinstance(depth, int) else 0,
        correlation=correlation if isinstance(correlation, str) else None,
        traceparent=trace if isinstance(trace, str) else None,
    )


def kept(event: Event, snapshot: Snapshot) -> Mapping[str, Json]:
    """What a move on `event` changes of the chain: an event from outside begins another one, or none."""
    if type(event.data) in _INSIDE:
        return {}
    if not (event.depth or event.correlation or event.traceparent):
        return {CHAIN: None} if CHAIN in snapshot.data else {}
    chain: dict[str, Json] = {"depth": event.depth, "correlation": event.correlation, "traceparent": event.traceparent}
    return {CHAIN: {key: value for key, value in chain.items() if value}}
