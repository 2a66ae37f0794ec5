"""From what arrived to events: deliveries and signals in, events or rejections out. Pure; nothing is lost or raised."""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from machines.model import Event, InstanceId
from schemas.base import Closed
from schemas.envelope import CloudEvent, Read, Rejected, read
from schemas.events import ChecklistSigned, ParticipantAnswered
from schemas.record import record
from service.engine.definitions import Definitions
from service.ports import Delivery, EventKey, Signal, TimerRow

UNREADABLE = "relight.unreadable"
"""The source under which a body without readable source and id is kept; its id is the body's SHA-256."""

Meant = tuple[InstanceId, ...]
"""The instances that an event means, whether they exist or not."""

SIGNALS = "relight.signals"
"""The source under which the attempts at a signal are counted; its id there is that of its row."""


@record
class Arrived:
    """One thing to be settled in a batch. `event` None: `rejected` says why it is none."""

    key: EventKey
    body_hash: bytes
    event: Event | None
    rejected: Rejected | None
    delivery: Delivery | None = None
    signal: Signal | None = None
    timer: TimerRow | None = None

    @property
    def body(self) -> bytes:
        """What arrived, byte for byte; nothing for a due time."""
        return self.delivery.body if self.delivery else self.signal.body.encode() if self.signal else b""

    @property
    def redelivered(self) -> bool:
        """The broker gave it to somebody before, who did not acknowledge it."""
        return self.delivery is not None and self.delivery.redelivered

    @property
    def counted_as(self) -> EventKey:
        """Under which its attempts are counted: a signal is a row, whatever its body says it is called."""
        return EventKey(SIGNALS, str(self.signal.id)) if self.signal is not None else self.key

    @property
    def kept_in_inbox(self) -> bool:
        """Engine-raised events are deleted with the batch that settles them and need no inbox row."""
        return self.delivery is not None or (self.event is not None and self.event.local)


def from_delivery(delivery: Delivery, definitions: Definitions, at: datetime) -> Arrived:
    """A message from RabbitMQ; an engine-raised type or an unknown system is rejected here."""
    digest = hashlib.sha256(delivery.body).digest()
    found = read(delivery.body, delivery.routing_key)
    if isinstance(found, Read):
        system = found.envelope.subject
        about = (system, found.envelope.source, found.envelope.id, found.envelope.type)
        if found.kind.engine_raised:
            found = Rejected(
                (f"{found.envelope.type} is raised by Relight itself, never accepted from outside",), *about
            )
        elif system not in definitions.systems:
            known = ", ".join(sorted(definitions.systems)) or "none"
            found = Rejected((f"no system is called {system!r}; known: {known}",), *about)
    if isinstance(found, Rejected):
        key = EventKey(found.source, found.id) if found.source and found.id else EventKey(UNREADABLE, digest.hex())
        return Arrived(key, digest, None, found, delivery=delivery)
    event = event_of(found.envelope, found.kind.name, found.data, at, delivery.user, local=False)
    return Arrived(EventKey(event.source, event.id), digest, event, None, delivery=delivery)


def from_signal(signal: Signal, definitions: Definitions, at: datetime) -> Arrived:
    """An event from the table of signals: who can write there is trusted, and its content is still checked."""
    body = signal.body.encode()
    digest = hashlib.sha256(body).digest()
    found = read(body)
    if isinstance(found, Read) and found.envelope.subject not in definitions.systems:
        found = Rejected((f"no system is called {found.envelope.subject!r}",), found.envelope.subject)
    if isinstance(found, Rejected):
        key = EventKey(found.source or UNREADABLE, found.id or digest.hex())
        return Arrived(key, digest, None, found, signal=signal)
    event = event_of(found.envelope, found.kind.name, found.data, at, signal.user, local=signal.local)
    return Arrived(EventKey(event.source, event.id), digest, event, None, signal=signal)


def from_timer(timer: TimerRow, event: Event) -> Arrived:
    """A due time that has come; `event` is the timer.fired made of it."""
    return Arrived(EventKey(event.source, event.id), b"", event, None, timer=timer)


def event_of(
    envelope: CloudEvent, name: str, data: Closed, at: datetime, user: str | None, *, local: bool
) -> Event:  # fmt: skip
    """A valid envelope with its typed data as an event that is taken in at `at`."""
    return Event(
        id=envelope.id,
        source=envelope.source,
        name=name,
        system=envelope.subject,
        data=data,
        at=at,
        user=user,
        local=local,
        causation=envelope.causationid,
        correlation=envelope.correlationid,
        depth=envelope.causationdepth,
        traceparent=envelope.traceparent,
    )


def addresses(event: Event, definitions: Definitions) -> Meant:
    """Every instance that the event means, of whatever machine; the system in the id must be the event's."""
    if type(event.data) is ChecklistSigned:
        # Whatever machine the run is of: no table decides about a signature.
        found = [InstanceId(event.data.instance)]
    else:
        found = [i for machine in definitions.machines.values() if (i := machine.address(event)) is not None]
    return tuple(i for i in found if i.split("/")[1:2] == [event.system] and definitions.machine_of(i) is not None)


def meant(arrived: Sequence[Arrived], definitions: Definitions) -> list[Meant]:
    """The addresses of each. Asked for where an event is decided: a machine that fails at one is that event's fault."""
    return [addresses(one.event, definitions) if one.event is not None else () for one in arrived]


def component_of(event: Event) -> str | None:
    """The component that an answer speaks for; authority to answer is the component's own."""
    return event.data.component if type(event.data) is ParticipantAnswered else None
