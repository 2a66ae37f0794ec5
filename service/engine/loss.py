"""Whether Relight's own database has lost what it had published: looked for at every take-over, before deciding.

A database that was restored from a backup, or failed over with loss, knows less than the stream of its notifications.
What is published stands in the database first, and in that order, so a published row without a log row is a lost one;
a log row that nobody has heard of yet is none. What then happens to the systems, their machines say.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog

from machines.lifecycle import NAME as LIFECYCLE
from machines.model import InstanceId
from schemas.base import Json
from schemas.events import EVENTS, PREFIX
from service.engine.records import canonical
from service.errors import LostLease, Transient, Unavailable
from service.ports import Broker, Clock, EventKey, Loss, Ownership, Publication, Store, epoch_of
from service.timeouts import time_limit

PATIENCE = 10.0
"""Seconds that a take-over waits for the end of the look; then deciding begins, and the look goes on beside it."""
LONGEST = 300.0
"""Seconds after which a loss that was found is said with what is known of it: the stream may hold a week."""
SKEW = timedelta(minutes=1)
"""By how much the clocks of PostgreSQL and RabbitMQ may differ."""
AT_ONCE = 500
"""Publications that are looked up at once; no more are ever in memory."""
NAMED = 20
"""The newest lost rows that are named of each system."""
REPLAYED = 100
"""The newest events of others that led to lost rows and are named of each system: what a person may publish again."""
REMEMBERED = 100_000
"""Lost rows that are told from their own repetitions; beyond it the number that is said may count one twice."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two tries to look, doubled from the first to the longest."""

STATUS_LOG = "relight.status.log"
LOGGED = ("relight.transition", "relight.refused")
"""The notifications that tell of a log row."""

log = structlog.get_logger()


@dataclass(slots=True)
class Lost:
    """What is gone of one system, as it is found: counted, and the newest of it by name."""

    rows: int = 0
    first: datetime | None = None
    last: datetime | None = None
    entry: int = 0
    told: deque[Publication] = field(default_factory=lambda: deque(maxlen=NAMED))
    events: deque[tuple[str, EventKey]] = field(default_factory=lambda: deque(maxlen=REPLAYED))

    def add(self, one: Publication) -> None:
        self.rows += 1
        self.first = min(self.first or one.at, one.at)
        self.last = max(self.last or one.at, one.at)
        if one.instance == f"{LIFECYCLE}/{one.system}":
            self.entry = max(self.entry, one.entry)
        self.told.append(one)
        kind = EVENTS.get(one.event_type.removeprefix(PREFIX))
        if kind is not None and not kind.engine_raised and (one.event_type, one.event) not in self.events:
            self.events.append((one.event_type, one.event))


class Look:
    """One owner's look. `trouble` says for people why it has not ended yet, once that is worth saying."""

    def __init__(
        self, store: Store, broker: Broker, ownership: Ownership, systems: Sequence[str], clock: Clock
    ) -> None:
        """`systems`: all of the owner's shard."""
        self.trouble: str | None = None
        self._store, self._broker, self._ownership, self._clock = store, broker, ownership, clock
        self._systems = tuple(systems)
        self._done = asyncio.Event()
        self._lost: dict[str, Lost] = {}
        self._seen: set[tuple[InstanceId, int, int]] = set()
        self._newest = 0
        """The highest epoch of a lost row."""

    async def run(self) -> None:
        """Until all that was published was found in the log. Raises LostLease when it was not: the loss is written down
        then, the epoch has risen, and the shard has to be taken anew."""
        pause = FIRST_PAUSE
        while True:
            try:
                if await self._finds_loss():
                    await self._say()
                await self._store.clear(self._ownership, self._systems, compared=True)
                break
            except (Unavailable, Transient) as error:
                if self.trouble is None:
                    log.warning("owner.cannot_look", shard=self._ownership.shard, error=str(error))
                self.trouble = f"{self._whether()}, and that cannot be looked up: {error}"
                await self._clock.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)
        self.trouble = None
        self._done.set()

    async def ended(self) -> bool:
        """Waits as long as a take-over may; whether the look has ended well by then. A loss that is being counted is
        waited for."""
        with contextlib.suppress(TimeoutError):
            async with time_limit(PATIENCE):
                await self._done.wait()
        while self._lost and not self._done.is_set():
            await self._clock.sleep(FIRST_PAUSE)
        if not self._done.is_set():
            self.trouble = self.trouble or f"{self._whether()}, and its status log is long"
            log.warning("owner.goes_on_unlooked", shard=self._ownership.shard, trouble=self.trouble)
            await self._let_go_on()
        return self._done.is_set()

    async def _let_go_on(self) -> None:
        pause = FIRST_PAUSE
        while not self._done.is_set():
            try:
                await self._store.clear(self._ownership, self._systems, compared=False)
                break
            except (Unavailable, Transient):
                await self._clock.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)

    def _whether(self) -> str:
        return f"shard {self._ownership.shard}: it is not known yet whether Relight's database has lost anything"

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _finds_loss(self) -> bool:
        self._lost.clear()
        self._seen.clear()
        if not self._systems:
            return False
        since = self._ownership.compared_until
        # In the order of the outbox only an end can be missing: if the newest that was said is there, all is.
        if since is not None and self._ownership.compared and await self._read(since) and not self._lost:
            return False
        self._lost.clear()
        self._seen.clear()
        await self._read(since - SKEW if since is not None else None)
        return bool(self._lost)

    async def _read(self, since: datetime | None) -> bool:
        """Looks up all that was told since then, up to the end as of now; whether any of it was about these systems."""
        some: list[Publication] = []
        any_ = False
        began = self._clock.monotonic()
        async with contextlib.aclosing(self._broker.told(since)) as notifications:
            async for key, body in notifications:
                one = publication(key, body, self._systems)
                if one is None:
                    continue
                any_ = True
                some.append(one)
                if len(some) == AT_ONCE:
                    await self._look_up(some)
                    some = []
                    if self._lost and self._clock.monotonic() - began > LONGEST:
                        return True
        await self._look_up(some)
        return any_

    async def _look_up(self, some: Sequence[Publication]) -> None:
        for one in await self._store.missing(some) if some else ():
            place = (one.instance, one.epoch, one.seq)
            if place in self._seen:
                continue
            if len(self._seen) < REMEMBERED:
                self._seen.add(place)
            self._newest = max(self._newest, one.epoch)
            self._lost.setdefault(one.system, Lost()).add(one)

    # --- saying ------------------------------------------------------------------------------------------------------

    async def _say(self) -> None:
        epoch = max(epoch_of(self._ownership.token), self._newest + 1)
        losses = [self._loss(system, epoch) for system in self._systems]
        await self._store.lose(self._ownership, epoch, self._systems, losses)
        rows = {system: lost.rows for system, lost in self._lost.items()}
        log.error("owner.found_loss", shard=self._ownership.shard, rows=rows, epoch=epoch, then="waits for a person")
        raise LostLease(
            f"shard {self._ownership.shard}: the database lacks {sum(rows.values())} rows that were published; epoch "
            f"{epoch} begins"
        )

    def _loss(self, system: str, epoch: int) -> Loss:
        lost = self._lost.get(system, Lost())
        data: dict[str, Json] = {
            "epoch": epoch,
            "rows": lost.rows,
            "reason": _words(system, lost),
            "first": _moment(lost.first),
            "last": _moment(lost.last),
            "entry": lost.entry,
            "told": [_line(one) for one in lost.told],
            "events": [{"type": kind, "id": key.id, "source": key.source} for kind, key in lost.events],
        }
        envelope: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"lost:{epoch}:{system}:{self._ownership.token}",
            "source": "relight/owner",
            "type": "relight.database.lost",
            "subject": system,
            "time": self._clock.now(),
            "data": data,
        }
        return Loss(system, canonical(data) if lost.rows else None, canonical(envelope))


def publication(key: str, body: bytes, systems: Sequence[str]) -> Publication | None:
    """What a notification tells of a log row of these systems; None for all others, and for what is none."""
    words = key.split(".")
    # What the exchange refused stands there under the stream's own name.
    if key != STATUS_LOG and (words[0] not in systems or (words[-1].startswith("_") and words[-1] != "_refused")):
        return None
    try:
        envelope = orjson.loads(body)
        data = envelope["data"]
        if envelope["type"] not in LOGGED or data["system"] not in systems or data.get("seq") is None:
            return None
        event = data["event"]
        return Publication(
            system=data["system"],
            instance=InstanceId(str(data["instance"])),
            epoch=int(data["epoch"]),
            seq=int(data["seq"]),
            at=datetime.fromisoformat(data["at"]),
            event=EventKey(str(event["source"]), str(event["id"])),
            event_type=str(event["type"]),
            state=str(data.get("to") or data.get("state")),
            entry=int(data.get("snapshot", {}).get("entry", 0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _words(system: str, lost: Lost) -> str:
    older = "Relight's database is older than what Relight has done: it was restored from a backup, or failed over"
    if lost.first is None or lost.last is None:
        return f"{older}. Nothing that was published of {system} is missing, but it was in the middle of something"
    one = lost.told[-1]
    rows = "1 published row" if lost.rows == 1 else f"{lost.rows} published rows"
    when = f"from {_moment(lost.first)} to {_moment(lost.last)}"
    newest = f"the newest said that {one.instance} was {one.state} ({one.event_type} {one.event.id})"
    return f"{older}. {rows} of {system} are missing, {when}; {newest}"[:1000]


def _line(one: Publication) -> str:
    return f"{_moment(one.at)} {one.instance} ({one.epoch}, {one.seq}): {one.state} by {one.event_type} {one.event.id}"


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
