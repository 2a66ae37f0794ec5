"""Intake of one shard: takes what has arrived, decides it as one micro-batch, commits it, acknowledges it.

A batch is a prefix of each lane plus signals and due timers. Every event in it gets an outcome; acks follow the commit.
"""

import asyncio
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from machines.model import Event
from schemas.events import TimerFired
from service import metrics
from service.crash import crash_point
from service.engine.ahead import Ahead
from service.engine.counting import count_outcomes, count_rows
from service.engine.deciding import Decided, Decider
from service.engine.definitions import Definitions
from service.engine.listening import Listening
from service.engine.outbox import Outbox
from service.engine.reading import UNREADABLE, Arrived, from_delivery, from_signal, from_timer, meant
from service.engine.settle import bury_poison
from service.engine.work import Work
from service.errors import Conflict, LostLease, Misconfigured, RelightError, Transient, Unavailable
from service.ports import Clock, Delivery, EventKey, Lanes, Ownership, Prepared, Store, TimerRow
from service.timeouts import time_limit

ATTEMPTS = 3
"""How often an event is tried alone before it becomes a dead letter; only tries alone are counted."""

IDLE = 1.0
"""Seconds after which signals and timers are looked at even if nothing woke the owner."""

NO_EVENTS_FAULT = (Transient, Conflict, Unavailable, LostLease, Misconfigured)
"""Errors that no event is to blame for: servers, other writers, and what this replica lacks and another may have."""

STUCK = 5
"""Failures of one batch in a row, something over a second of them, after which people are told that it waits."""

FULL = 0.05
"""Seconds between looks at a full outbox; deliveries wait in their queues meanwhile."""

ALONE = 20
"""Redelivered events settled one by one before signals and timers have their turn: after a crash a cancel waits for
these few tries and not for all that was in flight."""

NONE_LEFT: frozenset[int] = frozenset()
"""Of the signals that waited when this owner took over: all have their outcome."""

log = structlog.get_logger()


class Intake:
    """Runs while its shard is owned. Raises LostLease when it is not any more; waits out every other server's mood."""

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        outbox: Outbox,
        definitions: Definitions,
        ownership: Ownership,
        clock: Clock,
        *,
        size: int,
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._outbox = outbox
        self._definitions = definitions
        self._ownership = ownership
        self._clock = clock
        self._size = size
        self._decider = Decider(store, definitions, ownership)
        self._tasks = asyncio.TaskGroup()
        self._ahead = Ahead(lanes, self._decider, clock, size, self._tasks)
        self.trouble: str | None = None
        """Why what has arrived cannot be settled, for people, while it is tried again and again."""
        self._signalled = True
        self._inherited: frozenset[int] | None = None
        self._next_timer: datetime | None = None
        self._timers_moved = True
        self._arrival = asyncio.Event()
        self._listening = Listening(lanes, clock, self._arrival.set)
        self._resting = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with self._tasks as tasks:
            tasks.create_task(self._watch_signals())
            tasks.create_task(self._watch_lanes())
            tasks.create_task(self._listening.run())
            tasks.create_task(self._loop())

    async def _loop(self) -> None:
        while True:
            self._arrival.clear()
            if self._outbox.full:
                self._lanes.pause()
            else:
                self._lanes.resume()
            deliveries, decided = await self._ahead.next()
            until = self._clock.now() if not deliveries or self._time_has_come() else None
            if until is not None:
                # Due times up to now pass behind all that has arrived by now, also when some of it was taken earlier.
                deliveries, decided = (*deliveries, *self._lanes.take(self._size)), None
            if deliveries or self._inside_is_due():
                portions = _portions(deliveries)
                for number, some in enumerate(portions, 1):
                    await self._take_in(some, decided, until=until if number == len(portions) else None)
            else:
                if self._outbox.has_sent:
                    await self._take_in(())
                await self._rest()

    def _inside_is_due(self) -> bool:
        return self._signalled or self._time_has_come()

    def _time_has_come(self) -> bool:
        due = self._due()
        return due is not None and due <= self._clock.now()

    def _due(self) -> datetime | None:
        """When to look at the timers; None when there is none."""
        listens = self._listening.left
        if self._next_timer is None or listens <= 0:
            return self._next_timer
        return max(self._next_timer, self._clock.now() + timedelta(seconds=listens))

    async def _rest(self) -> None:
        seconds = FULL if self._outbox.full else IDLE
        if (due := self._due()) is not None:
            seconds = min(seconds, max(0.0, (due - self._clock.now()).total_seconds()))
        self._resting.set()
        try:
            async with time_limit(seconds):
                await self._arrival.wait()
        except TimeoutError:
            self._signalled = True

    async def _watch_signals(self) -> None:
        while True:
            try:
                await self._store.wait_for_signal(self._ownership.shard, IDLE)
            except Unavailable:
                await self._clock.sleep(IDLE)
            self._signalled = True
            self._arrival.set()

    async def _watch_lanes(self) -> None:
        while True:
            await self._resting.wait()
            await self._lanes.wait(IDLE)
            self._resting.clear()
            self._arrival.set()

    # --- one batch -------------------------------------------------------------------------------------------------

    async def _take_in(
        self, deliveries: Sequence[Delivery], decided: Decided | None = None, *, until: datetime | None = None
    ) -> None:
        """Settles the deliveries together with what waits inside, whatever it takes, then acknowledges them.

        `decided`: what was decided of them ahead. `until`: they are all that had arrived by then, and due times up to
        then pass behind them, however often it is tried; None: no due time passes.
        """
        failures = 0
        tried: dict[EventKey, int] = {}
        while True:
            try:
                await self._try_inherited(tried)
                now = self._clock.now()
                signals, timers = await self._inside(now, until)
                if signals or timers:
                    # They come first, and may mean the same: nothing that arrived may have been taken in before them.
                    decided = None
                if decided is not None:
                    arrived = decided.arrived
                else:
                    arrived = [from_delivery(delivery, self._definitions, now) for delivery in deliveries]
                # Due times last: what had arrived by `until` was in time, however long we could not look at it.
                everything = [*signals, *arrived, *timers]
                if everything:
                    crash_point("intake.after_read")
                if any(delivery.redelivered for delivery in deliveries):
                    await self._one_by_one(everything, tried)
                else:
                    await self._together(everything, now, tried, decided)
                if self._timers_moved:
                    self._next_timer = await self._store.next_timer(self._ownership.shard)
                    self._timers_moved = False
                break
            except (Transient, Conflict, Unavailable) as error:
                # The answer of a commit may be lost: inside events are read again, outside ones are found in the inbox.
                self._outbox.doubt()
                self._signalled = self._timers_moved = True
                decided = None
                failures += 1
                await self._back_off(error, failures)
        self.trouble = None
        if timers:
            crash_point("timers.after_commit")
        crash_point("intake.after_commit")
        if deliveries:
            await self._lanes.ack(deliveries)
        crash_point("intake.after_ack")

    async def _try_inherited(self, tried: dict[EventKey, int]) -> None:
        """Signals that waited at the take-over, each alone: one of them may have ended the owner before this one.

        A batch takes the oldest, and what it killed was not committed: the guilty one is still among the oldest.
        """
        if self._inherited == NONE_LEFT:
            return
        now = self._clock.now()
        signals, _ = await self._store.pending(self._ownership.shard, now, self._size)
        if self._inherited is None:
            self._inherited = frozenset(one.id for one in signals)
        arrived = [from_signal(one, self._definitions, now) for one in signals if one.id in self._inherited]
        await self._one_by_one(arrived, tried, inherited=True)
        self._inherited = NONE_LEFT

    async def _inside(self, now: datetime, until: datetime | None) -> tuple[list[Arrived], list[Arrived]]:
        """Signals, and the due times up to `until`."""
        if not self._inside_is_due():
            return [], []
        self._signalled = False
        signals, timers = await self._store.pending(self._ownership.shard, until or now, self._size)
        # Workers set timers too, always together with a signal.
        self._timers_moved = True
        if more := len(signals) >= self._size:
            self._signalled = True
        if more or until is None or self._listening.left > 0:
            # Also behind the signals that were not read: who reported in time is not called silent.
            timers = ()
        if timers:
            crash_point("timers.after_read")
        return (
            [from_signal(signal, self._definitions, now) for signal in signals],
            [self._timer_event(timer, now) for timer in timers],
        )

    def _timer_event(self, timer: TimerRow, now: datetime) -> Arrived:
        data = TimerFired(instance=timer.instance, entry=timer.entry, kind=timer.kind)
        name = f"{timer.instance}:{timer.entry}:{timer.kind}:{timer.due_at.isoformat()}"
        system = timer.instance.split("/")[1]
        event = Event(name, "relight/timers", "timer.fired", system, data, now)
        return from_timer(timer, event)

    async def _together(
        self, arrived: Sequence[Arrived], now: datetime, tried: dict[EventKey, int], decided: Decided | None
    ) -> None:
        if not arrived and not self._outbox.has_sent:
            return
        try:
            await self._commit(decided or await self._decide(arrived, now), look_ahead=True)
            if decided is not None:
                metrics.DECIDED_AHEAD.inc()
        except NO_EVENTS_FAULT:
            raise
        except Exception as error:  # noqa: BLE001  # one event of these brings it, whatever it is: find that one
            log.warning("intake.taken_apart", shard=self._ownership.shard, events=len(arrived), error=str(error))
            self._outbox.doubt()
            await self._one_by_one(arrived, tried)

    async def _one_by_one(
        self, arrived: Sequence[Arrived], tried: dict[EventKey, int], *, inherited: bool = False
    ) -> None:
        """Each alone, in order. An unknown event that is redelivered, or `inherited` as a signal, may have killed its
        owner: its try is counted first.

        `tried` are the attempts counted for this batch: a try that a database's outage cut short is not another one.
        """
        known = await self._known(arrived)
        for one in arrived:
            suspicious = (inherited or one.redelivered) and one.key not in known
            attempts = tried.get(one.counted_as, 0)
            failed = False
            while True:
                now = self._clock.now()
                if failed or (suspicious and not attempts):
                    counted = await self._store.count_attempt(
                        self._ownership.shard, self._ownership.token, one.counted_as
                    )
                    tried[one.counted_as] = attempts = max(attempts, counted)
                    crash_point("intake.after_count")
                if attempts > ATTEMPTS:
                    await self._bury(one, f"tried alone {ATTEMPTS} times without an end", attempts - 1)
                    break
                try:
                    await self._commit(await self._decide([one], now))
                    break
                except NO_EVENTS_FAULT:
                    raise
                except Exception as error:  # noqa: BLE001  # any fault of this event's ends as a dead letter
                    failed = True
                    attempts += 1
                    log.warning("intake.failed_alone", key=one.key.id, source=one.key.source, error=repr(error))
                    if attempts >= ATTEMPTS:
                        await self._bury(one, f"{type(error).__name__}: {error}", attempts)
                        break

    async def _known(self, arrived: Sequence[Arrived]) -> Collection[EventKey]:
        """Those that have outcomes. None, when one of them cannot even be asked about: each is tried by itself then."""
        try:
            return await self._decider.known(arrived, self._clock.now())
        except NO_EVENTS_FAULT:
            raise
        except Exception as error:  # noqa: BLE001  # which one it is shows when each is alone
            log.warning("intake.cannot_ask", shard=self._ownership.shard, events=len(arrived), error=str(error))
            return ()

    async def _bury(self, one: Arrived, reason: str, attempts: int) -> None:
        try:
            await self._write_burial(one, reason, attempts)
        except NO_EVENTS_FAULT:
            raise
        except Exception as error:  # noqa: BLE001  # even its names are more than a table takes
            digest = one.body_hash or hashlib.sha256(repr(one.key).encode()).digest()
            nameless = replace(one, key=EventKey(UNREADABLE, digest.hex()), event=None, rejected=None)
            await self._write_burial(nameless, f"{reason}; kept without its names: {error}", attempts)

    async def _write_burial(self, one: Arrived, reason: str, attempts: int) -> None:
        settled = (await self._store.prepare(self._ownership.shard, [one.key], [], [])).known.get(one.key)
        if one.delivery is not None and settled is not None and settled.body_hash == one.body_hash:
            # Something failed behind it, or the answer of its burial was lost. A signal's row has to go all the same.
            return
        work = self._decider.work(Prepared({}, {}), self._clock.now())
        bury_poison(work, one, reason, attempts)
        await self._write(work)
        metrics.EVENTS.labels(outcome="dead").inc()

    async def _decide(self, arrived: Sequence[Arrived], now: datetime) -> Decided:
        return await self._decider.decide(arrived, meant(arrived, self._definitions), now)

    async def _commit(self, decided: Decided, *, look_ahead: bool = False) -> None:
        await self._write(decided.work, look_ahead=look_ahead)
        metrics.BATCH_EVENTS.observe(len(decided.arrived))
        count_outcomes(decided.outcomes)

    async def _write(self, work: Work, *, look_ahead: bool = False) -> None:
        sent = self._outbox.take_sent()
        batch = work.batch(self._ownership.shard, self._ownership.token, sent)
        crash_point("intake.before_commit")
        # Whatever is still decided by now was decided before this commit, and does not know of it.
        self._ahead.give_up()
        if look_ahead:
            # Also while portions of what was taken are left: those have their turn first, and end what is decided here.
            self._ahead.begin(work)
        try:
            with metrics.COMMIT_SECONDS.time():
                ids = await self._store.commit(batch)
        except BaseException:
            self._outbox.give_back(sent)
            raise
        crash_point("intake.after_write")
        self._outbox.deleted(sent)
        if sent:
            crash_point("outbox.after_delete")
        if batch.releases:
            # The gate's rows went from table to table, and stand before those of the batch.
            self._outbox.doubt()
        self._outbox.offer(ids, batch.outbox)
        count_rows(batch)
        earliest = work.earliest_timer()
        if earliest is not None and (self._next_timer is None or earliest < self._next_timer):
            self._next_timer = earliest

    # --- waiting out -------------------------------------------------------------------------------------------------

    async def _back_off(self, error: RelightError, failures: int) -> None:
        if failures in (1, 10, 100):
            log.warning("intake.waits", shard=self._ownership.shard, error=str(error), failures=failures)
        if failures >= STUCK:
            # A server that can be read may still take nothing: a full disk, a standby.
            self.trouble = f"shard {self._ownership.shard} settles nothing: {error}; it is tried again until it can"
        await self._clock.sleep(min(2.0, 0.02 * 2 ** min(failures, 10)))


def _portions(deliveries: Sequence[Delivery]) -> list[Sequence[Delivery]]:
    """All at once, or where single tries are to be expected in short portions; each a prefix of what is left."""
    if not any(delivery.redelivered for delivery in deliveries):
        return [deliveries]
    return [deliveries[start : start + ALONE] for start in range(0, len(deliveries), ALONE)]
