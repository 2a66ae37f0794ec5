"""The outbox of one shard: committed notifications go out in order, with a window of confirms, until each is confirmed.

What is unsent lives in the table; the copy here only saves reading it back. After any doubt it is read again.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice

import structlog

from service import metrics
from service.crash import crash_point
from service.engine.gate import OPERATIONS_EXCHANGE
from service.errors import Transient, Unavailable
from service.ports import Clock, OutboxRow, OutMessage, Ownership, Publisher, Sent, Store

WINDOW = 500
"""Messages in flight at most; above it RabbitMQ confirms no faster (measured with 500: 4,700 to 12,000 a second)."""

BOUND = 10_000
"""Unsent rows above which the queues pause: notifications wait in the table, not in memory."""

STATUS_LOG = "relight.status.log"

log = structlog.get_logger()


class Outbox:
    """Publishes what `offer` brings and what the table still holds. One task runs `run`; intake calls the rest."""

    def __init__(self, store: Store, publisher: Publisher, ownership: Ownership, clock: Clock) -> None:
        self._store = store
        self._publisher = publisher
        self._ownership = ownership
        self._clock = clock
        self._rows: deque[OutboxRow] = deque()
        self._sent: list[int] = []
        self._handed: set[int] = set()
        self._deleted: set[int] = set()
        """While the table is read: what left it meanwhile, and may be among what was read."""
        self._doubt = True
        self._unread = 0
        """Rows that were offered while in doubt: the next read brings them."""
        self._more = False
        self._reading = False
        self._event = asyncio.Event()

    @property
    def full(self) -> bool:
        """More rows are unsent than the bound, or so many that not all of them are here."""
        return self._more or len(self._rows) + self._unread > BOUND

    def offer(self, ids: Sequence[int], messages: Sequence[OutMessage]) -> None:
        """What a commit just wrote; passed over when the table is to be read anyway."""
        if self._doubt or self._reading:
            # What is being read may be older than this commit, and would take its place.
            self._doubt = True
            self._unread += len(messages)
        elif self.full:
            self._more = True
        else:
            self._rows.extend(OutboxRow(i, m) for i, m in zip(ids, messages, strict=True))
        self._wake()

    def doubt(self) -> None:
        """A commit may or may not have happened: read the table again before sending more."""
        self._doubt = True
        self._wake()

    def take_sent(self) -> tuple[int, ...]:
        """Confirmed rows, to be deleted by the next batch; hand them back with `give_back` if that fails."""
        taken, self._sent = tuple(self._sent), []
        self._handed.update(taken)
        return taken

    def deleted(self, ids: Sequence[int]) -> None:
        self._handed.difference_update(ids)
        if self._reading:
            self._deleted.update(ids)

    def give_back(self, ids: Sequence[int]) -> None:
        self._handed.difference_update(ids)
        self._sent.extend(ids)

    @property
    def has_sent(self) -> bool:
        return bool(self._sent)

    async def run(self) -> None:
        """Until cancelled. Raises LostLease when a row may not be marked any more."""
        while True:
            if self._doubt or (self._more and not self._rows):
                await self._read()
            if not self._rows:
                await self._sleep()
                continue
            try:
                await self._publish()
            except (Unavailable, Transient):
                # The broker's adapter says so once and comes back by itself; rows wait in order. So does a row that
                # could not be marked undelivered: it is sent once more.
                await self._clock.sleep(0.2)

    async def _read(self) -> None:
        # Lowered before the question is asked: a doubt that arises meanwhile asks again.
        self._doubt = False
        self._reading = True
        self._deleted.clear()
        offered = self._unread
        limit = BOUND + len(self._sent) + len(self._handed) + 1
        try:
            rows = await self._store.unsent(self._ownership.shard, limit)
        except (Unavailable, Transient):
            self._doubt = True
            await self._clock.sleep(0.2)
            return
        finally:
            self._reading = False
        self._unread -= offered
        gone = self._handed.union(self._sent, self._deleted)
        self._rows = deque(row for row in rows if row.id not in gone)
        if self._rows:
            crash_point("outbox.after_read")
        self._more = len(self._rows) > BOUND

    async def _publish(self) -> None:
        window, operations = self._window()
        crash_point("outbox.before_publish")
        with metrics.PUBLISH_SECONDS.time():
            # An operation that no queue would take must come back: nobody keeps it but us.
            verdicts = await self._publisher.publish([row.message for row in window], mandatory=operations)
        crash_point("outbox.after_confirm")
        confirmed = 0
        try:
            for row, verdict in zip(window, verdicts, strict=True):
                if verdict is Sent.CONFIRMED:
                    confirmed += 1
                    self._sent.append(row.id)
                else:
                    metrics.PUBLISHED.labels(result=str(verdict)).inc()
                    if not await self._second_way(row):
                        break
                if self._rows and self._rows[0].id == row.id:
                    self._rows.popleft()
        finally:
            # Once for all of them: counting each took more than everything else here.
            metrics.PUBLISHED.labels(result=str(Sent.CONFIRMED)).inc(confirmed)

    def _window(self) -> tuple[list[OutboxRow], bool]:
        """The next rows, as many as are in flight at once, and whether they are operations: all are, or none is."""
        operations = self._rows[0].message.exchange == OPERATIONS_EXCHANGE
        window: list[OutboxRow] = []
        for row in islice(self._rows, WINDOW):
            if (row.message.exchange == OPERATIONS_EXCHANGE) is not operations:
                break
            window.append(row)
        return window, operations

    async def _second_way(self, row: OutboxRow) -> bool:
        """A refused row goes straight to the queue that must have it: the status log, or the system's operations.

        True when it is out of the way, False to wait in order.
        """
        operation = row.message.exchange == OPERATIONS_EXCHANGE
        queue = f"{OPERATIONS_EXCHANGE}.{row.message.routing_key.split('.', 1)[0]}" if operation else STATUS_LOG
        straight = OutMessage("", queue, row.message.message_id, row.message.body)
        (verdict,) = await self._publisher.publish([straight], mandatory=operation)
        if verdict is not Sent.CONFIRMED:
            log.warning("outbox.refused", shard=self._ownership.shard, row=row.id, key=row.message.routing_key)
            await self._clock.sleep(1.0)
            return False
        if operation:
            # There it is where it should be; it may stand there twice, with the same id.
            self._sent.append(row.id)
            return True
        crash_point("outbox.after_second_way")
        why = "a queue bound to relight.status refused it; it stands in relight.status.log"
        await self._store.undeliverable(self._ownership.shard, self._ownership.token, row.id, why)
        log.warning("outbox.undelivered", shard=self._ownership.shard, row=row.id, key=row.message.routing_key, why=why)
        return True

    def _wake(self) -> None:
        self._event.set()

    async def _sleep(self) -> None:
        self._event.clear()
        if not (self._rows or self._doubt or self._more):
            await self._event.wait()
