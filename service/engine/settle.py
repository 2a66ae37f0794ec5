"""One arrived event settled in the working set: known, rejected, not allowed, or decided by its instances. No I/O."""

from collections.abc import Mapping

from machines.address import carried
from machines.model import Event, InstanceId, Reason
from schemas.envelope import Rejected
from schemas.events import EVENTS, ChecklistSigned, OperationRequested
from service.engine import gate, notices
from service.engine.decide import Outcome, decide, refuse
from service.engine.reading import UNREADABLE, Arrived, Meant, component_of
from service.engine.records import keepable
from service.engine.work import Work
from service.ports import DeadLetter, EventKey, InboxRow

NO_INSTANCE = "-"
"""Stands for the instance in the outcomes of an event that no instance took."""


def settle(
    work: Work, arrived: Arrived, meant: Meant, known: Mapping[EventKey, InboxRow], seen: dict[EventKey, bytes]
) -> str:
    """Gives the event its outcome (`duplicate` for one that has its outcomes already).

    `meant` are its addresses; `seen` are the keys of this batch.
    """
    if arrived.signal is not None:
        work.signal_done(arrived.signal.id)
    if arrived.timer is not None:
        work.timer_done(arrived.timer)
    earlier = known[arrived.key].body_hash if arrived.key in known else seen.get(arrived.key)
    if arrived.kept_in_inbox or arrived.rejected is not None:
        if earlier == arrived.body_hash:
            return "duplicate"
        if earlier is not None:
            about = arrived.rejected.system if arrived.rejected else arrived.event.system if arrived.event else None
            why = f"the id {arrived.key.id!r} of source {arrived.key.source!r} is known already, with another body"
            bury(work, arrived, Rejected((why,), about, arrived.key.source, arrived.key.id), 1)
            return Outcome.DEAD
        seen[arrived.key] = arrived.body_hash
    if arrived.event is not None:
        return _decide_all(work, arrived, arrived.event, meant)
    bury(work, arrived, arrived.rejected or Rejected(("no event and no reason",)), 1)
    work.settle_event(arrived.key, arrived.body_hash, {NO_INSTANCE: Outcome.DEAD})
    return Outcome.DEAD


def _decide_all(work: Work, arrived: Arrived, event: Event, addressed: Meant) -> str:
    meant = [instance for instance in addressed if work.exists(instance) or not _names(event, instance)]
    if not meant:
        reason = f"no instance of {event.system} is meant by this relight.{event.name}"
        bury(work, arrived, Rejected((reason,), event.system, event.source, event.id, f"relight.{event.name}"), 1)
        if arrived.kept_in_inbox:
            work.settle_event(arrived.key, arrived.body_hash, {NO_INSTANCE: Outcome.DEAD})
        return Outcome.DEAD
    forbidden = None
    right = EVENTS[event.name].right
    if right is not None:
        system = work.definitions.systems[event.system]
        forbidden = system.permits(right, event.user, local=event.local, component=component_of(event))
    outcomes = {}
    for instance in meant:
        if forbidden is not None:
            outcomes[instance] = refuse(work, instance, event, (Reason(forbidden),))
        elif type(event.data) is OperationRequested:
            why = gate.take_in(work, work.live(instance, event.system), event, event.data, arrived.body)
            outcomes[instance] = Outcome.ABSORBED if why is None else refuse(work, instance, event, (why,))
        else:
            outcomes[instance] = decide(work, instance, event)
    if arrived.kept_in_inbox:
        work.settle_event(arrived.key, arrived.body_hash, {str(i): str(o) for i, o in outcomes.items()})
    for outcome in (Outcome.APPLIED, Outcome.REFUSED):
        if outcome in outcomes.values():
            return outcome
    return Outcome.ABSORBED


def _names(event: Event, instance: InstanceId) -> bool:
    """Whether the event itself says the instance's id: an act or an answer is for one that is there, and makes none."""
    return type(event.data) is ChecklistSigned or carried(instance.split("/", 1)[0], event) == instance


def bury(work: Work, arrived: Arrived, why: Rejected, attempts: int) -> None:
    """Keeps what arrived as a dead letter and says so on the status topic."""
    delivery, signal = arrived.delivery, arrived.signal
    user = delivery.user if delivery else signal.user if signal else None
    user = keepable(user) if user is not None else None
    work.bury(
        DeadLetter(
            queue=delivery.queue if delivery else "signals",
            routing_key=keepable(delivery.routing_key) if delivery else "",
            reasons=why.reasons,
            body=arrived.body,
            source=why.source,
            event_id=why.id,
            user=user,
            attempts=attempts,
            at=work.now,
        )
    )
    about = {"type": why.type, "id": why.id, "source": why.source, "user": user}
    system = why.system if why.system in work.definitions.systems else None
    unique = f"{arrived.key.source}:{arrived.key.id}:{arrived.body_hash.hex()[:16]}"
    work.say(notices.rejection(system, why.reasons, about, work.epoch, work.now, unique))


def bury_poison(work: Work, arrived: Arrived, reason: str, attempts: int) -> None:
    """Settles an event that could not be taken in, after it was tried alone."""
    event = arrived.event
    if arrived.signal is not None:
        work.signal_done(arrived.signal.id)
    if arrived.timer is not None:
        work.timer_done(arrived.timer)
    name = f"relight.{event.name}" if event else None
    system = event.system if event else arrived.rejected.system if arrived.rejected else None
    key = arrived.key
    source, identity = (key.source, key.id) if key.source != UNREADABLE else (None, None)
    bury(work, arrived, Rejected((keepable(reason),), system, source, identity, name), attempts)
    if arrived.kept_in_inbox:
        work.settle_event(arrived.key, arrived.body_hash, {NO_INSTANCE: Outcome.DEAD})
