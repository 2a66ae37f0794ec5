"""The consuming half of the broker in memory: channels with prefetch, tags and multiple acks. No queue is kept here."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.events import Lane
from service.ports import Delivery
from service.timeouts import time_limit

UNROUTED = "relight.unrouted"
CONTENT_TYPE = "application/cloudevents+json"


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a queue holds it. `due`: not delivered before, on the monotonic clock."""

    routing_key: str
    body: bytes
    user: str | None = None
    content_type: str | None = CONTENT_TYPE
    due: float = 0.0
    redelivered: bool = False


class Deliverer(Protocol):
    """What the lanes need of the broker."""

    prefetch: int

    def pump(self, names: Iterable[str]) -> None:
        """Hands ready messages to the consumers of these queues."""
        ...

    def next_due(self, names: Iterable[str]) -> float | None:
        """Seconds until a message that is late becomes due; None when none is."""
        ...

    def consume(self, name: str, consumer: "Consumer") -> None: ...

    def give_back(self, name: str, consumer: "Consumer", messages: Sequence[Message]) -> None: ...

    def number(self) -> int:
        """A channel number that was never used."""
        ...


def intake_queue(lane: Lane, shard: int) -> str:
    """`relight.intake.control.0`"""
    return f"relight.intake.{lane.value}.{shard}"


class Consumer:
    """One lane's channel: what it was given and has not acknowledged, by tag."""

    def __init__(self, broker: Deliverer, lane: Lane, queues: tuple[str, ...], arrived: asyncio.Event) -> None:
        self.lane, self.queues = lane, queues
        self.buffer: deque[Delivery] = deque()
        self._broker, self._arrived = broker, arrived
        self._number: int | None = None
        self._tag = 0
        self._held: dict[int, tuple[str, Message]] = {}

    def open(self) -> None:
        if self._number is None:
            self._number, self._tag = self._broker.number(), 0
            for name in self.queues:
                self._broker.consume(name, self)

    def wants(self, name: str) -> bool:
        # As with the real one, the prefetch counts for each consumer of the channel.
        return sum(1 for queue, _ in self._held.values() if queue == name) < self._broker.prefetch

    def receive(self, name: str, message: Message) -> None:
        if self._number is None:
            raise RuntimeError("a closed channel was given a message")
        self._tag += 1
        self._held[self._tag] = (name, message)
        self.buffer.append(
            Delivery(
                lane=self.lane,
                channel=self._number,
                tag=self._tag,
                queue=name,
                routing_key=message.routing_key,
                body=message.body,
                user=message.user,
                redelivered=message.redelivered,
                content_type=message.content_type,
            )
        )
        self._arrived.set()

    def ack(self, number: int, upto: int) -> None:
        if number != self._number:
            return
        for tag in [tag for tag in self._held if tag <= upto]:
            del self._held[tag]
        self._broker.pump(self.queues)

    def lose(self) -> None:
        """The channel is closed, by whomever."""
        self._number = None
        self.buffer.clear()
        held, self._held = self._held, {}
        for name in self.queues:
            self._broker.give_back(name, self, [message for queue, message in held.values() if queue == name])


class MemoryLanes:
    """The port Lanes."""

    def __init__(self, broker: Deliverer, shard: int) -> None:
        self._broker = broker
        self._arrived = asyncio.Event()
        self._opened = asyncio.Event()
        self._resumed = asyncio.Event()
        self._resumed.set()
        own = (intake_queue(Lane.CONTROL, shard),) + ((UNROUTED,) if shard == 0 else ())
        self._lanes = (
            Consumer(broker, Lane.CONTROL, own, self._arrived),
            Consumer(broker, Lane.METRICS, (intake_queue(Lane.METRICS, shard),), self._arrived),
        )
        self._names = tuple(name for lane in self._lanes for name in lane.queues)

    def open(self) -> None:
        for lane in self._lanes:
            lane.open()
        self._opened.set()

    def lose(self) -> None:
        for lane in self._lanes:
            lane.lose()

    async def opened(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with time_limit(timeout):
                await self._opened.wait()

    async def wait(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with time_limit(timeout):
                await self._resumed.wait()
                while True:
                    self._broker.pump(self._names)
                    if any(lane.buffer for lane in self._lanes):
                        return
                    self._arrived.clear()
                    with contextlib.suppress(TimeoutError):
                        async with time_limit(self._broker.next_due(self._names)):
                            await self._arrived.wait()

    def waiting(self) -> int:
        if not self._resumed.is_set():
            return 0
        self._broker.pump(self._names)
        return sum(len(lane.buffer) for lane in self._lanes)

    def take(self, limit: int) -> tuple[Delivery, ...]:
        if not self._resumed.is_set():
            return ()
        self._broker.pump(self._names)
        taken: list[Delivery] = []
        for lane in self._lanes:
            taken.extend(lane.buffer.popleft() for _ in range(min(limit - len(taken), len(lane.buffer))))
        return tuple(taken)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        for lane in self._lanes:
            highest: dict[int, int] = {}
            for delivery in deliveries:
                if delivery.lane is lane.lane:
                    highest[delivery.channel] = max(delivery.tag, highest.get(delivery.channel, 0))
            for number, tag in highest.items():
                lane.ack(number, tag)

    def pause(self) -> None:
        self._resumed.clear()

    def resume(self) -> None:
        self._resumed.set()
