"""The gate: operations pass while their system works, are held in order while it does not, and expire. No I/O.

A state of the table says whether operations pass in it. What is said here of an operation is a reason or nothing: the
refusal is logged and published by who asks. Everything is written in the owner's transaction, with the batch.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from machines.model import Event, Reason
from schemas.base import Json
from schemas.envelope import CloudEvent
from schemas.events import OperationRequested, TimerFired
from service.engine.definitions import Definitions
from service.engine.reading import event_of
from service.engine.work import Live, Work
from service.ports import GATE_TIMER, EventKey, HeldRow, OutMessage, short_id

OPERATIONS_EXCHANGE = "relight.operations"

ACTION = "gate.release"
"""The step that is answered by the owner of the shard itself: it releases, and says how many."""

HELD_AT = "heldat"
"""The CloudEvents attribute that a released operation has gained: when it was taken in. One that passed has none."""

NO_ENTRY = -1
"""The state entry of the gate's timer, which outlives them all."""


def concerned(events: Iterable[Event], definitions: Definitions) -> tuple[str, ...]:
    """The systems whose gates matter to these events: those that have one, and those whose held ones expire."""
    systems = {
        event.system
        for event in events
        if definitions.gated(event.system) or (type(event.data) is TimerFired and event.data.kind == GATE_TIMER)
    }
    return tuple(sorted(systems))


def take_in(work: Work, live: Live, event: Event, operation: OperationRequested, body: bytes) -> Reason | None:
    """Lets an operation pass, or holds it behind those that wait; or why neither. `body` is the event as it arrived."""
    gate = work.definitions.systems[event.system].gate
    held = work.gate(live)
    if gate is None or held is None:
        return Reason(
            f"{event.system} has no gate, so operations are not taken in; `gate: {{}}` in the system's file turns it on"
        )
    if operation.expires is not None and operation.expires <= work.now:
        return Reason(f"it was void when it arrived: it expired at {_time(operation.expires)}")
    text = body.decode().lstrip()
    if HELD_AT in json.loads(text):
        return Reason(f"the attribute {HELD_AT} is Relight's own; leave it out")
    if _passes(live):
        _let_go(work, live)
        work.say(_message(event, operation, text))
        return None
    if held.waiting >= gate.holds:
        return Reason(
            f"{event.system} is {live.snapshot.state} and its gate holds {held.waiting} operations, as many as it may "
            f"(gate.holds). This one was not held: send it again, with a new id, when {event.system} works"
        )
    expires = min(work.now + gate.expires, operation.expires or work.now + gate.expires)
    # Put in front of what arrived, whose every other byte stays as it was.
    late = f'{{"{HELD_AT}":"{_time(work.now)}",{text[1:]}'
    key = EventKey(event.source, event.id)
    message = _message(event, operation, late)
    held.hold(HeldRow(event.system, key, event.user, event.local, message, work.now, expires))
    look_again(work, live)
    return None


def release(work: Work, live: Live) -> Mapping[str, Json]:
    """Lets everything go that is held, in order: how many were `held` since the last time, `released`, `expired`."""
    held = work.gate(live)
    if held is None:
        return {"held": 0, "released": 0, "expired": 0}
    count, released = held.since_release, held.waiting
    _let_go(work, live)
    return {"held": count, "released": released, "expired": count - released}


def overdue(work: Work, live: Live) -> Iterator[tuple[Event, Reason]]:
    """The operations that have expired while they were held, and what is to be said of each."""
    held = work.gate(live)
    for row in held.overdue() if held is not None else ():
        why = (
            f"held since {_time(row.held_at)}, because {row.system} did not work, and void since "
            f"{_time(row.expires_at)}: it was not released"
        )
        envelope = CloudEvent.model_validate_json(row.message.body)
        operation = OperationRequested.model_validate(envelope.data)
        name = "operation.requested"
        yield event_of(envelope, name, operation, work.now, row.user, local=row.local), Reason(why)


def look_again(work: Work, live: Live) -> None:
    """Sets the timer for the next operation that expires, if there is one."""
    held = work.gate(live)
    due = held.due(work.now) if held is not None else None
    if due is not None:
        work.timer(live, GATE_TIMER, due, NO_ENTRY)


def _passes(live: Live) -> bool:
    return live.chart.machine.state(live.snapshot.state).passes


def _let_go(work: Work, live: Live) -> None:
    held = work.gate(live)
    for message in held.release() if held is not None else ():
        work.say(message)


def _message(event: Event, operation: OperationRequested, text: str) -> OutMessage:
    return OutMessage(OPERATIONS_EXCHANGE, f"{event.system}.{operation.operation}", short_id(event.id), text)


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
