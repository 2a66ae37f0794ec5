"""What carrying an event costs in Python, by part: `python -m benchmarks.carrying [--profile]`. No server, no socket.

Deliveries of measurements come in as bytes, are taken in batches of 200 and acknowledged; their 200 notifications go
from the outbox, are packed, and confirmed as RabbitMQ 3.10 confirmed batches of this size to a stream: a few multiple
acks, a single one now and then, each read by itself. Figures are microseconds of CPU an event; a tenth of the batches
took less: what others do at the same time disturbs those least.
"""

import argparse
import asyncio
import contextlib
import cProfile
import itertools
import pstats
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise

import uvloop
from aiormq.abc import AbstractConnection

from benchmarks.batches import SIZE
from benchmarks.waves import Instances, Wave
from benchmarks.wire import WiredLink, confirmed, delivered
from schemas.events import Lane
from service.adapters.memory.store import MemoryStore
from service.adapters.rabbitmq.confirms import ConfirmChannel
from service.adapters.rabbitmq.connection import running, say_to_log
from service.adapters.rabbitmq.lanes import RabbitLanes
from service.adapters.rabbitmq.names import STATUS_EXCHANGE, intake_queue
from service.clock import SystemClock
from service.engine.outbox import Outbox
from service.ports import OutMessage, Sent

INSTANCES = Instances(100, 100)
PARTS = ("cut", "take", "acknowledge", "outbox", "pack", "confirm")
QUEUE = intake_queue(Lane.METRICS, 0)
NOTIFICATION = "n" * 1200
"""About as long as what tells of a transition."""
SHARES = ((3, 32, 64, 101), (83, 4, 32, 64, 17), (200,), (1, 32, 64, 103))
"""Messages each confirm of a batch was for; the batches take turns."""


class Confirming:
    """A publisher that costs next to nothing."""

    async def publish(self, messages: Sequence[OutMessage], *, mandatory: bool = False) -> tuple[Sent, ...]:
        return (Sent.CONFIRMED,) * len(messages)


class Carrying:
    """Lanes, a channel with confirms and an outbox over one wire, and what has gone over it."""

    def __init__(self, link: WiredLink, lanes: RabbitLanes, channel: ConfirmChannel, outbox: Outbox) -> None:
        self._link, self._lanes, self._channel, self._outbox = link, lanes, channel, outbox
        self._carried = 0

    async def one(self, arriving: bytes, notifications: Sequence[OutMessage], shares: Sequence[int]) -> list[float]:
        """One batch; the seconds of each part."""
        first, feed = self._carried + 1, self._link.wire.tap.feed_data
        confirms = confirmed(self._channel.number, first, shares)
        self._carried += len(notifications)
        marks = [time.process_time()]
        feed(arriving)
        await self._lanes.wait(1)
        await settled()
        marks.append(time.process_time())
        deliveries = self._lanes.take(SIZE)
        marks.append(time.process_time())
        await self._lanes.ack(deliveries)
        await settled()
        marks.append(time.process_time())
        self._outbox.offer(range(first, first + len(notifications)), notifications)
        while not self._outbox.has_sent:
            await asyncio.sleep(0)
        sent = self._outbox.take_sent()
        self._outbox.deleted(sent)
        marks.append(time.process_time())
        waiting, _ = self._channel.number_and_pack(notifications, False, None)
        marks.append(time.process_time())
        for confirm in confirms:
            feed(confirm)
            await settled()
        await waiting.done
        marks.append(time.process_time())
        if not len(deliveries) == len(sent) == len(notifications) == sum(shares):
            raise ValueError(f"{len(deliveries)} arrived and {len(sent)} were sent of {len(notifications)}")
        return [end - begin for begin, end in pairwise(marks)]


async def settled() -> None:
    """Whoever has something to read has read it: the connection's reader, and a channel's behind it."""
    for _ in range(3):
        await asyncio.sleep(0)


async def measure(rounds: int, instances: Instances, profiler: cProfile.Profile | None) -> list[list[float]]:
    """The seconds of each part, by batch; the first round of all instances is not counted."""
    clock, link = SystemClock(), WiredLink()
    store = MemoryStore(clock)
    ownership = await store.acquire(0, "bench", timedelta(hours=1))
    if ownership is None:
        raise ValueError("the lease of a new store is free")
    lanes = RabbitLanes(
        0, link=link, prefetch=600, clock=clock, say=say_to_log, restore=_nothing, numbers=itertools.count(1)
    )
    outbox = Outbox(store, Confirming(), ownership, clock)
    async with running(link.run()), running(lanes.run()), running(outbox.run()):
        channel = ConfirmChannel(await link.up(10))
        await channel.open()
        while QUEUE not in link.wire.consumed:
            await asyncio.sleep(0)
        carrying = Carrying(link, lanes, channel, outbox)
        arriving = _arriving(link.wire.consumed[QUEUE], Wave(instances, "bench/carrying", 0, instances.count * rounds))
        took = []
        for number, (data, notifications) in enumerate(arriving):
            with profiler or contextlib.nullcontext():
                took.append(await carrying.one(data, notifications, SHARES[number % len(SHARES)]))
    return took[instances.count // SIZE :]


def _arriving(channel: int, wave: Wave) -> Iterator[tuple[bytes, list[OutMessage]]]:
    """The wave in batches: its deliveries as one read brings them, and a notification for each."""
    data, said = [], []
    for number, (key, identity, body) in enumerate(wave.events(), start=1):
        data.append(delivered(channel, number, QUEUE, key, identity, "bench", body))
        routing_key = f"{key.split('.', 1)[0]}.alert.critical"
        said.append(OutMessage(STATUS_EXCHANGE, routing_key, f"relight:{identity}", NOTIFICATION))
        if len(data) == SIZE:
            yield b"".join(data), said
            data, said = [], []


async def _nothing(_: AbstractConnection, __: bool) -> None:
    """The topology needs no restoring here."""


def main() -> None:
    """Prints the table, or with `--profile` the functions that cost most."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5, help="of all instances; the first is not counted")
    options = parser.parse_args()
    profiler = cProfile.Profile(time.process_time) if options.profile else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        took = runner.run(measure(options.rounds, INSTANCES, profiler))
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
        return
    costs = [1e6 * statistics.quantiles(part, n=10)[0] / SIZE for part in zip(*took, strict=True)]
    for name, cost in zip((*PARTS, "all"), (*costs, sum(costs)), strict=True):
        print(f"{name:15} {cost:7.2f}")


if __name__ == "__main__":
    main()
