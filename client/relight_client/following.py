"""Following the status topic: live, from the stream, and live without gaps. What is a gap, status.py knows."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from aio_pika.abc import AbstractIncomingMessage

from relight_client.errors import Away
from relight_client.session import LOOK, STATUS, STATUS_LOG, Session, asked, session
from relight_client.status import Notification, Order, matches, whole

QUIET = 2.0
"""Seconds without another notification after which a replay has caught up; the broker does not say where the end is."""
OVERLAP = (timedelta(seconds=30), timedelta(minutes=10))
"""How much earlier than a gap the stream is read: first the short one, and when that did not fill it the long one."""
MARK = "mark"
"""The type of what only marks a place in the stream, for Relight itself."""
AGAIN_AFTER = 1.0
"""Seconds until the next attempt to reach a broker that is away."""
AT_ONCE = 500
"""Notifications on their way to us at once."""
READY = 1000
"""Notifications that wait for whoever iterates; then the broker keeps them."""
MOST_WAITING = 100_000
"""Notifications kept at the broker for a subscriber that does not keep up; then the oldest go, and the stream helps."""

Since = Literal["first"] | datetime

log = logging.getLogger("relight_client")


async def replay(
    url: str, binding: str = "#", since: Since = "first", quiet: float = QUIET
) -> AsyncGenerator[Notification, None]:
    """What the status log has kept (seven days), oldest first, until nothing more has come for `quiet` seconds.

    `since`: from the first one, or from a moment (aware; some earlier ones come too, the stream is cut into chunks).
    The log repeats what Relight repeated. Raises Away or Forbidden.
    """
    async with session(url, "replaying", AT_ONCE) as opened:
        arriving: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        stream = await asked(opened.channel.get_queue(STATUS_LOG, ensure=False))
        await asked(stream.consume(arriving.put, arguments={"x-stream-offset": since}))
        while True:
            try:
                async with asyncio.timeout(quiet):
                    message = await arriving.get()
            except TimeoutError:
                if opened.lost.is_set():
                    raise Away("the connection was lost during a replay") from None
                return
            notification = _read(message)
            if notification is not None and matches(binding, notification.routing_key):
                yield notification
            await asked(message.ack())


class Subscription:
    """`async with relight.subscribe("metrics.#") as said: async for notification in said: …`, without end.

    Entered when the binding stands: what is published from then on is seen. Outages of the broker are waited for, and
    what was said meanwhile is read from the stream first. With a binding that takes everything of an instance
    (`metrics.lifecycle.#`) each transition and refusal comes once, in the order of (epoch, seq), and what the topic
    lost is fetched from the stream; with any other, known ids are dropped.
    """

    def __init__(self, url: str, binding: str, since: Since | None, within: float) -> None:
        self._url, self._binding, self._within = url, binding, within
        self._gap = since
        self._order = Order(whole(binding))
        self._ready: asyncio.Queue[Notification | Exception] = asyncio.Queue(READY)
        self._bound = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._why, self._said = "", False

    async def __aenter__(self) -> Self:
        """Raises Away when the broker could not be reached in time, and Forbidden."""
        self._task = asyncio.create_task(self._run())
        bound = asyncio.create_task(self._bound.wait())
        try:
            await asyncio.wait({self._task, bound}, timeout=self._within, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                await self._task
            if not self._bound.is_set():
                raise Away(f"no subscription to {STATUS} within {self._within:g} s{self._why}")
        except BaseException:
            await self._end()
            raise
        finally:
            bound.cancel()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notification:
        """Raises Forbidden when the broker took the right to listen away."""
        found = await self._ready.get()
        if isinstance(found, Exception):
            raise found
        return found

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                async with session(self._url, "subscribing", AT_ONCE) as opened:
                    await self._follow(opened)
            except Away as away:
                self._why = f": {away}"
                if self._bound.is_set() and not self._said:
                    self._said = True
                    log.warning("subscription to %s: the broker is away: %s", self._binding, away)
            except Exception as error:
                if not self._bound.is_set():
                    raise
                await self._ready.put(error)
                return
            if self._bound.is_set() and self._gap is None:
                self._gap = datetime.now(UTC) - OVERLAP[0]
            await asyncio.sleep(AGAIN_AFTER)

    async def _follow(self, opened: Session) -> None:
        """One connection, until it is lost; then raises Away."""
        arriving: asyncio.Queue[tuple[AbstractIncomingMessage, Notification | None]] = asyncio.Queue()
        live: set[str] = set()

        async def hear(message: AbstractIncomingMessage) -> None:
            notification = _read(message)
            if notification is not None and self._gap is not None and len(live) < AT_ONCE:
                live.add(notification.id)
            await arriving.put((message, notification))

        queue = await asked(
            opened.channel.declare_queue(exclusive=True, auto_delete=True, arguments={"x-max-length": MOST_WAITING})
        )
        await asked(queue.bind(STATUS, self._binding))
        await asked(queue.consume(hear))
        self._bound.set()
        again_at = 0.0
        while True:
            if (self._gap is not None or self._order.waiting_since() is not None) and time.monotonic() >= again_at:
                await self._catch_up(opened, live)
                again_at = time.monotonic() + LOOK
            try:
                async with asyncio.timeout(LOOK):
                    message, notification = await arriving.get()
            except TimeoutError:
                await opened.still_heard(queue)
                continue
            if notification is not None:
                await self._hand_out(notification)
            await asked(message.ack())

    async def _catch_up(self, opened: Session, live: set[str]) -> None:
        """Reads from the stream what was missed. While the stream alone is away, the topic is followed without it."""
        try:
            if self._gap is not None:
                # Once the stream says what the topic says too, the topic has the rest.
                await self._read_stream(self._gap, lambda notification: notification.id in live)
                self._gap = None
                live.clear()
            await self._mend()
            self._said = False
        except Away as away:
            if opened.lost.is_set():
                raise
            if not self._said:
                self._said = True
                log.warning("subscription to %s: what was missed cannot be read yet: %s", self._binding, away)

    async def _mend(self) -> None:
        """Fills what the order holds a gap for from the stream; says what even the stream does not have."""
        for overlap in OVERLAP:
            since = self._order.waiting_since()
            if since is None:
                return
            await self._read_stream(since - overlap, lambda _: self._order.waiting_since() is None)
        ready, missing = self._order.give_up()
        for words in missing:
            log.warning("subscription to %s: not even the stream has %s", self._binding, words)
        for notification in ready:
            await self._ready.put(notification)

    async def _read_stream(self, since: Since, enough: Callable[[Notification], bool]) -> None:
        async with contextlib.aclosing(replay(self._url, self._binding, since)) as kept:
            async for notification in kept:
                await self._hand_out(notification)
                if enough(notification):
                    return

    async def _hand_out(self, notification: Notification) -> None:
        for ready in self._order.take(notification):
            await self._ready.put(ready)


def _read(message: AbstractIncomingMessage) -> Notification | None:
    try:
        notification = Notification.read(message.routing_key or "", message.body)
        return notification if notification.type != MARK else None
    except ValueError as error:
        log.warning("passed over on %s: %s", message.routing_key, error)
        return None
