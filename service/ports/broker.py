"""RabbitMQ as the engine and people see it."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

from schemas.events import Lane
from schemas.record import record
from service.ports.rows import OutMessage


@record
class Delivery:
    """A message as it arrived. `channel` names the channel it came on: its `tag` means nothing on another."""

    lane: Lane
    channel: int
    tag: int
    queue: str
    routing_key: str
    body: bytes
    user: str | None
    redelivered: bool
    content_type: str | None = None


class Lanes(Protocol):
    """The two lanes of one shard (shard 0's control lane has the unrouted queue too), each on its own channel."""

    async def opened(self, timeout: float) -> None:
        """Returns once both lanes consume, or after `timeout` seconds."""
        ...

    async def wait(self, timeout: float) -> None:
        """Returns when a delivery is there, or after `timeout` seconds."""
        ...

    def waiting(self) -> int:
        """How many deliveries `take` could give now."""
        ...

    def take(self, limit: int) -> tuple[Delivery, ...]:
        """What has arrived, control before metrics, a prefix of each lane, at most `limit`. Never waits."""
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """One multiple ack a lane for a prefix that was taken. A closed channel's are passed over (redelivered)."""
        ...

    def pause(self) -> None:
        """Stops handing out metrics and control deliveries; what is buffered stays."""
        ...

    def resume(self) -> None: ...


class Sent(StrEnum):
    CONFIRMED = "confirmed"
    NACKED = "nacked"
    RETURNED = "returned"


class Publisher(Protocol):
    """One channel with publisher confirms, in order."""

    async def publish(self, messages: Sequence[OutMessage], *, mandatory: bool = False) -> tuple[Sent, ...]:
        """Sends in one write and waits for every confirm; one verdict a message. Raises Unavailable when cut off."""
        ...


class Broker(Protocol):
    """RabbitMQ: separate connections for consuming and publishing, restored by themselves after every outage."""

    async def declare(self, systems: Sequence[str], shards: Mapping[str, int], gated: Sequence[str] = ()) -> None:
        """Exchanges, queues, bindings and the stream; `shards` gives each system's shard, `gated` those that have a
        queue for operations. Idempotent."""
        ...

    def lanes(self, shard: int) -> AbstractAsyncContextManager[Lanes]:
        """Consumes a shard's lanes until the context ends; ending it closes the channels (a hand-over)."""
        ...

    def publisher(self) -> AbstractAsyncContextManager[Publisher]: ...

    def told(self, since: datetime | None) -> AsyncGenerator[tuple[str, bytes], None]:
        """(routing key, body) of all that the status log holds since a moment (None: since its first) up to its end as
        of this call, oldest first; of some it may hold more than asked for. Raises Unavailable when cut off."""
        ...

    def available(self) -> Mapping[str, bool]:
        """Each connection by name (`consuming`, `publishing`) and whether it is up."""
        ...


class StatusReader(Protocol):
    """What people watch: notifications live or from the stream."""

    def watch(self, binding: str) -> AsyncIterator[tuple[str, bytes]]:
        """(routing key, body) of every notification that matches the topic binding, from now on."""
        ...

    def watching(self, binding: str) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]:
        """The same, entered once the binding stands: whatever is published inside the block is seen."""
        ...

    def replay(self, offset: Literal["first"] | datetime = "first") -> AsyncIterator[tuple[str, bytes]]:
        """What the status log holds, oldest first, until caught up. From a moment: some earlier ones may come too."""
        ...
