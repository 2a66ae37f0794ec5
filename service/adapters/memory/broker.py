"""A broker in memory with the manners of the real one, for tests and simulations. No socket, no thread, no chance.

It lives on while engines are thrown away: what a closed channel had not acknowledged is delivered again, in order and
marked. Time comes from the clock; whoever simulates decides what is late, doubled, shuffled, refused or cut.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from typing import Literal

from schemas.events import EVENTS, Lane
from service.adapters.memory.lanes import CONTENT_TYPE, UNROUTED, Consumer, MemoryLanes, Message, intake_queue
from service.errors import Retry, Unavailable
from service.ports import Clock, OutMessage, Sent

EVENTS_EXCHANGE, STATUS_EXCHANGE, COMMANDS_EXCHANGE = "relight.events", "relight.status", "relight.commands"
OPERATIONS_EXCHANGE = "relight.operations"
STATUS_LOG = "relight.status.log"
PREFETCH = 600
"""Deliveries a lane may hold unacknowledged, as with the real one."""

Notification = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Logged:
    """A notification in the status log."""

    at: datetime
    routing_key: str
    body: bytes


def matches(binding: str, routing_key: str) -> bool:
    """Whether a topic binding (`*` one word, `#` any number) means this routing key."""
    return _match(binding.split("."), routing_key.split("."))


def _match(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_match(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _match(pattern[1:], words[1:])


class _Queue:
    """Messages in order and the lanes that asked for them; only the first is served (single active consumer)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[Message] = deque()
        self.consumers: list[Consumer] = []


class MemoryBroker:
    """The ports Broker and StatusReader; `commands()` gives Commands.

    Hooks: `put` is a stranger's publish; `delay`, `duplicate`, `shuffle`, `cut`, `away`, `full` and `cut_publish_after`
    do what networks and brokers do.
    """

    def __init__(self, clock: Clock, *, prefetch: int = PREFETCH) -> None:
        self.log: list[Logged] = []
        """The status log: every notification, oldest first."""
        self.sent: list[tuple[str, str, str]] = []
        """Every command that had a participant: routing key, command id, body."""
        self.full: set[str] = set()
        """Exchanges to which a stranger has bound a full queue (publishes are nacked), or full queues by name."""
        self.delay: Callable[[str], float] | None = None
        """Seconds by which a message with this routing key is late."""
        self.cut_publish_after: int | None = None
        """So many messages of the next batch arrive, then the connection is lost before any confirm."""
        self.confirm_after = 0.0
        """Seconds between a publish and its confirms."""
        self.clock, self.prefetch = clock, prefetch
        self._away = False
        self._cuts = 0
        self._queues: dict[str, _Queue] = {}
        self._bindings: dict[str, set[str]] = {}
        self._lanes: list[MemoryLanes] = []
        self._watchers: list[tuple[str, asyncio.Queue[Notification]]] = []
        self._participants: list[tuple[str, Callable[[str, str], None]]] = []
        self._numbers = count(1)

    # --- what strangers and the weather do

    def put(
        self,
        routing_key: str,
        body: bytes,
        *,
        user: str | None = "tester",
        content_type: str | None = CONTENT_TYPE,
    ) -> None:
        """Publishes to `relight.events`; what nobody bound goes to `relight.unrouted`."""
        due = self.clock.monotonic() + self.delay(routing_key) if self.delay else 0.0
        message = Message(routing_key, body, user, content_type, due)
        for queue in sorted(self._bindings.get(routing_key, {UNROUTED})):
            self._enqueue(queue, message)

    def participant(self, binding: str, receive: Callable[[str, str], None]) -> None:
        """Binds a participant: `receive(routing_key, body)` is called with each command that matches."""
        self._participants.append((binding, receive))

    def waiting(self, queue: str) -> int:
        """Messages in a queue that no channel holds."""
        return len(self._queue(queue).ready)

    def bodies(self, queue: str) -> tuple[bytes, ...]:
        """What waits in a queue, oldest first."""
        return tuple(message.body for message in self._queue(queue).ready)

    def queues(self) -> tuple[str, ...]:
        """Names of all queues there are."""
        return tuple(sorted(self._queues))

    def duplicate(self, queue: str) -> bool:
        """Doubles the oldest waiting message, as a publisher does that lost its confirm; False when none waits."""
        ready = self._queue(queue).ready
        if ready:
            ready.append(ready[0])
        return bool(ready)

    def shuffle(self, queue: str, shuffle: Callable[[MutableSequence[Message]], None]) -> None:
        """Brings the waiting messages into another order, with the caller's own randomness (`random.shuffle`)."""
        shuffle(self._queue(queue).ready)

    def cut(self) -> None:
        """Every connection is lost and made again at once: what was not acknowledged or confirmed becomes uncertain."""
        self._cuts += 1
        for lanes in self._lanes:
            lanes.lose()
        if not self._away:
            self._reopen()

    @property
    def away(self) -> bool:
        """The broker cannot be reached. Setting it True cuts every connection."""
        return self._away

    @away.setter
    def away(self, away: bool) -> None:
        self._away = away
        if away:
            self.cut()
        else:
            self._reopen()

    # --- Broker

    async def declare(self, systems: Sequence[str], shards: Mapping[str, int], gated: Sequence[str] = ()) -> None:
        self._reach()
        for system in gated:
            self._queue(f"{OPERATIONS_EXCHANGE}.{system}")
        for queue in (UNROUTED, STATUS_LOG):
            self._queue(queue)
        for shard in {0, *shards.values()}:
            for lane in Lane:
                self._queue(intake_queue(lane, shard))
        for system in systems:
            for kind in EVENTS.values():
                if not kind.engine_raised:
                    # One queue each: a system that moved to another shard is not heard in both.
                    queue = intake_queue(kind.lane, shards.get(system, 0))
                    self._bindings[f"{system}.{kind.name}"] = {queue}

    @contextlib.asynccontextmanager
    async def lanes(self, shard: int) -> AsyncIterator[MemoryLanes]:
        lanes = MemoryLanes(self, shard)
        self._lanes.append(lanes)
        if not self._away:
            lanes.open()
        try:
            yield lanes
        finally:
            lanes.lose()
            self._lanes.remove(lanes)
            self._pump_all()

    @contextlib.asynccontextmanager
    async def publisher(self) -> AsyncIterator["MemoryPublisher"]:
        yield MemoryPublisher(self)

    @contextlib.asynccontextmanager
    async def commands(self) -> AsyncIterator["MemoryCommands"]:
        yield MemoryCommands(self)

    def available(self) -> Mapping[str, bool]:
        return {"consuming": not self._away, "publishing": not self._away}

    async def told(self, since: datetime | None) -> AsyncGenerator[Notification, None]:
        self._reach()
        for logged in list(self.log):
            if since is None or logged.at >= since:
                self._reach()
                yield logged.routing_key, logged.body

    # --- StatusReader

    async def watch(self, binding: str) -> AsyncGenerator[Notification, None]:
        async with self.watching(binding) as notifications:
            async for notification in notifications:
                yield notification

    @contextlib.asynccontextmanager
    async def watching(self, binding: str) -> AsyncIterator[AsyncIterator[Notification]]:
        """The same, entered when the binding stands."""
        inbox: asyncio.Queue[Notification] = asyncio.Queue()
        entry = (binding, inbox)
        self._watchers.append(entry)

        async def notifications() -> AsyncIterator[Notification]:
            while True:
                yield await inbox.get()

        try:
            yield notifications()
        finally:
            self._watchers.remove(entry)

    async def replay(
        self, offset: Literal["first"] | datetime = "first", quiet: float = 0.0
    ) -> AsyncGenerator[Notification, None]:
        """What the status log holds, oldest first. There is nothing to be `quiet` about: the end is known here."""
        self._reach()
        for logged in list(self.log):
            if offset == "first" or logged.at >= offset:
                yield logged.routing_key, logged.body

    # --- what the parts below share

    async def publish(self, messages: Sequence[OutMessage], mandatory: bool) -> tuple[Sent, ...]:
        """Routes a batch and confirms it, unless the connection is lost in between."""
        self._reach()
        arriving = len(messages) if self.cut_publish_after is None else self.cut_publish_after
        verdicts = tuple(self._route(message, mandatory) for message in messages[:arriving])
        if self.cut_publish_after is not None:
            self.cut_publish_after = None
            self.cut()
            raise Unavailable("RabbitMQ", f"the connection was lost; {len(messages)} messages are without a confirm")
        before = self._cuts
        await self.clock.sleep(self.confirm_after)
        if before != self._cuts:
            raise Unavailable("RabbitMQ", f"the connection was lost; {len(messages)} messages are without a confirm")
        return verdicts

    def pump(self, names: Iterable[str]) -> None:
        """Hands ready messages to the consumer of each queue, as far as its prefetch reaches."""
        now = self.clock.monotonic()
        for name in names:
            queue = self._queue(name)
            while queue.ready and queue.consumers and queue.ready[0].due <= now and queue.consumers[0].wants(name):
                queue.consumers[0].receive(name, queue.ready.popleft())

    def next_due(self, names: Iterable[str]) -> float | None:
        """Seconds until a message that is late becomes due; None when none is."""
        now = self.clock.monotonic()
        late = [queue.ready[0].due - now for name in names if (queue := self._queue(name)).ready]
        # What is due and was not delivered waits for something else: for an ack, or for its consumer to end.
        return min((seconds for seconds in late if seconds > 0), default=None)

    def consume(self, name: str, consumer: Consumer) -> None:
        self._queue(name).consumers.append(consumer)
        self.pump([name])

    def give_back(self, name: str, consumer: Consumer, messages: Sequence[Message]) -> None:
        """A channel was closed: what it held goes to the front again, in order and marked."""
        queue = self._queue(name)
        if consumer in queue.consumers:
            queue.consumers.remove(consumer)
        queue.ready.extendleft(replace(message, redelivered=True) for message in reversed(messages))

    def number(self) -> int:
        return next(self._numbers)

    def tell(self, routing_key: str, command_id: str, body: str) -> bool:
        """A command to whoever is bound to it; False when nobody is."""
        self._reach()
        found = [receive for binding, receive in self._participants if matches(binding, routing_key)]
        if found:
            self.sent.append((routing_key, command_id, body))
        for receive in found:
            receive(routing_key, body)
        return bool(found)

    def _route(self, message: OutMessage, mandatory: bool) -> Sent:
        body = message.body.encode()
        name = message.exchange or message.routing_key
        if name in self.full:
            return Sent.NACKED
        if name in (STATUS_EXCHANGE, STATUS_LOG):
            self.log.append(Logged(self.clock.now(), message.routing_key, body))
            for binding, inbox in self._watchers if name == STATUS_EXCHANGE else ():
                if matches(binding, message.routing_key):
                    inbox.put_nowait((message.routing_key, body))
        elif name == EVENTS_EXCHANGE:
            self.put(message.routing_key, body, user=None)
        elif name == COMMANDS_EXCHANGE:
            if not self.tell(message.routing_key, message.message_id, message.body) and mandatory:
                return Sent.RETURNED
        elif name == OPERATIONS_EXCHANGE:
            queue = f"{OPERATIONS_EXCHANGE}.{message.routing_key.split('.', 1)[0]}"
            if queue not in self._queues:
                return Sent.RETURNED if mandatory else Sent.CONFIRMED
            self._enqueue(queue, Message(message.routing_key, body))
        elif not message.exchange and name in self._queues:
            self._enqueue(name, Message(message.routing_key, body))
        elif not message.exchange:
            return Sent.RETURNED if mandatory else Sent.CONFIRMED
        else:
            raise Unavailable("RabbitMQ", f"NOT_FOUND - no exchange {message.exchange!r}")
        return Sent.CONFIRMED

    def _enqueue(self, name: str, message: Message) -> None:
        self._queue(name).ready.append(message)
        self.pump([name])

    def _queue(self, name: str) -> _Queue:
        return self._queues.setdefault(name, _Queue(name))

    def _reopen(self) -> None:
        for lanes in self._lanes:
            lanes.open()

    def _pump_all(self) -> None:
        self.pump(list(self._queues))

    def _reach(self) -> None:
        if self._away:
            raise Unavailable("RabbitMQ", "it was taken away")


class MemoryPublisher:
    """The port Publisher."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def publish(self, messages: Sequence[OutMessage], *, mandatory: bool = False) -> tuple[Sent, ...]:
        return await self._broker.publish(messages, mandatory)


class MemoryCommands:
    """The port Commands."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def send(self, routing_key: str, command_id: str, body: str) -> bool:
        message = OutMessage(COMMANDS_EXCHANGE, routing_key, command_id, body)
        (verdict,) = await self._broker.publish([message], mandatory=True)
        if verdict is Sent.NACKED:
            raise Retry(f"the broker refused the command {command_id}: a queue bound to {routing_key} is full")
        return verdict is Sent.CONFIRMED
