"""The rows of a system's gate: operations that it holds, and what a batch knows and changes of it. Frozen data only."""

from dataclasses import dataclass
from datetime import datetime

from machines.model import InstanceId
from service.ports.rows import EventKey, OutMessage


@dataclass(frozen=True, slots=True)
class HeldRow:
    """An operation that a gate holds, and the message by which it will be released, unless it expires before.

    `id` grows in the order in which a system's operations were taken in (0: not stored yet). `user` as the broker
    verified it.
    """

    system: str
    event: EventKey
    user: str | None
    local: bool
    message: OutMessage
    held_at: datetime
    expires_at: datetime
    id: int = 0


@dataclass(frozen=True, slots=True)
class GateRow:
    """What a batch must know of one gate. `waiting`: held and not expired; `expiring`: when the first of them expires.

    `held`: how many it has held since it last released. `overdue`: the first of those that have expired and were not
    told of yet; `more`: there are others.
    """

    system: str
    waiting: int = 0
    held: int = 0
    expiring: datetime | None = None
    overdue: tuple[HeldRow, ...] = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class GateChange:
    """What a batch does to one gate, in this order: rows that `expired` go (the inbox then says that `instance` refused
    them), all others that are stored go to the outbox before the batch's own messages (`released`), and `new` ones are
    stored. `held` is the new count."""

    system: str
    instance: InstanceId
    held: int
    expired: tuple[HeldRow, ...] = ()
    released: bool = False
    new: tuple[HeldRow, ...] = ()


@dataclass(frozen=True, slots=True)
class GateView:
    """A gate that holds something, for people. `since`: when the oldest was taken in; `expiring`: of the first one."""

    system: str
    waiting: int
    since: datetime
    expiring: datetime
