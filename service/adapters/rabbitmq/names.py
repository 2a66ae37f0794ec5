"""What Relight has on the broker, as data: exchanges, queues, bindings. Nothing here talks to a broker."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.events import EVENTS, Lane

EVENTS_EXCHANGE = "relight.events"
UNROUTED = "relight.unrouted"
DEAD = "relight.dead"
STATUS_EXCHANGE = "relight.status"
STATUS_LOG = "relight.status.log"
COMMANDS_EXCHANGE = "relight.commands"
OPERATIONS_EXCHANGE = "relight.operations"

MARK = "relight.mark"
"""The type of what marks a place in the status log for who reads it to its end. It is no notification."""

UNROUTED_SHARD = 0
"""The shard whose control lane takes what nobody bound."""

STREAM_AGE = "7D"
"""How long the status log keeps notifications: a week of nights. It is an argument, so fixed once declared."""

Argument = str | int | bool


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    kind: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    arguments: Mapping[str, Argument]


@dataclass(frozen=True, slots=True)
class Binding:
    exchange: str
    routing_key: str
    queue: str


@dataclass(frozen=True, slots=True)
class Topology:
    """All that is declared, and the bindings that a system of another shard must not have."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    foreign: tuple[Binding, ...]


def intake_queue(lane: Lane, shard: int) -> str:
    """`relight.intake.control.0`"""
    return f"relight.intake.{lane.value}.{shard}"


def operations_queue(system: str) -> str:
    """`relight.operations.metrics`: what has passed the gate of a system, for whoever works on it."""
    return f"{OPERATIONS_EXCHANGE}.{system}"


def consumed(lane: Lane, shard: int) -> tuple[str, ...]:
    """The queues that one lane of a shard takes from."""
    own = intake_queue(lane, shard)
    return (own, UNROUTED) if lane is Lane.CONTROL and shard == UNROUTED_SHARD else (own,)


def topology(
    systems: Sequence[str],
    shards: Mapping[str, int],
    stream_age: str = STREAM_AGE,
    owned: Iterable[int] = (),
    gated: Sequence[str] = (),
) -> Topology:
    """Everything for these systems. A system without a shard belongs to shard 0; `owned` shards need no system.

    Those that are `gated` have a queue for operations, with no bound of its own: the gate's bounds what is held, and an
    absent consumer must not stop what else the shard has to say.
    """
    numbers = sorted({UNROUTED_SHARD, *shards.values(), *owned})
    quorum: dict[str, Argument] = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        # At least once, so that even what the broker gives up on is not lost; it needs reject-publish.
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    exchanges = (
        Exchange(UNROUTED, "fanout"),
        Exchange(DEAD, "fanout"),
        Exchange(EVENTS_EXCHANGE, "topic", {"alternate-exchange": UNROUTED}),
        Exchange(STATUS_EXCHANGE, "topic"),
        Exchange(COMMANDS_EXCHANGE, "topic"),
        Exchange(OPERATIONS_EXCHANGE, "topic"),
    )
    queues = (
        Queue(DEAD, {"x-queue-type": "quorum"}),
        Queue(UNROUTED, quorum),
        *(Queue(intake_queue(lane, shard), quorum) for shard in numbers for lane in Lane),
        Queue(STATUS_LOG, {"x-queue-type": "stream", "x-max-age": stream_age}),
        # One consumer at a time, or two that share the queue would work out of order.
        *(Queue(operations_queue(system), quorum) for system in gated),
    )
    bindings = (
        Binding(UNROUTED, "", UNROUTED),
        Binding(DEAD, "", DEAD),
        Binding(STATUS_EXCHANGE, "#", STATUS_LOG),
        *(Binding(OPERATIONS_EXCHANGE, f"{system}.#", operations_queue(system)) for system in gated),
        *(binding for system in systems for binding in _of(system, shards.get(system, UNROUTED_SHARD))),
    )
    foreign = tuple(
        binding
        for system in systems
        for shard in numbers
        if shard != shards.get(system, UNROUTED_SHARD)
        for binding in _of(system, shard)
    )
    return Topology(exchanges, queues, bindings, foreign)


def _of(system: str, shard: int) -> Iterator[Binding]:
    """One binding a known type. Engine-raised types have none: from outside they land in the unrouted queue."""
    for kind in EVENTS.values():
        if not kind.engine_raised:
            yield Binding(EVENTS_EXCHANGE, f"{system}.{kind.name}", intake_queue(kind.lane, shard))
