"""When a wave of events is done, and whether everything it claims is really there: in the tables and on the stream."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import asyncpg

from benchmarks.errors import BenchError
from benchmarks.serving import Serve

LOOK = 0.02
"""Seconds between two looks at how far it has come: the value of one sequence, which costs the server nothing."""

AT_THE_END = 0.01
"""Seconds between two looks how much is confirmed: a measurement ends late by so much and serve's time to answer."""

LEFT = 2_000
"""Rows that may be left in the outbox when all is confirmed: ten batches, whose deletion is not measured."""

GONE_WITHIN = 10.0
"""Seconds in which the last outbox rows are deleted: with the next batch, or a second later when none comes."""

SLOWEST = 50.0
"""Transitions a second below which something is broken."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A wave that is over: `seconds` from its first batch to its last confirmed notification."""

    events: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.events / self.seconds


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a wave begins: notifications ever `written` to the outbox, and those `confirmed` to its serves."""

    written: int
    confirmed: int


class Tables:
    """One connection to the tables of one place. Use it as a context."""

    def __init__(self, postgres_url: str) -> None:
        self._url = postgres_url
        self._connection: Any = None

    async def __aenter__(self) -> Self:
        self._connection = await asyncpg.connect(self._url, timeout=10, command_timeout=120)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close(timeout=10)

    async def value(self, query: str, *arguments: object) -> Any:
        return await self._connection.fetchval(query, *arguments)

    async def row(self, query: str) -> Any:
        return await self._connection.fetchrow(query)

    async def rows(self, query: str) -> Any:
        return await self._connection.fetch(query)

    async def execute(self, query: str) -> None:
        await self._connection.execute(query)

    async def written(self) -> int:
        """How many notifications were ever written to the outbox."""
        return int(await self.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM relight.outbox_id_seq"))

    async def mark(self, *serves: Serve) -> Mark:
        """Before a wave; serves that are not started yet count from nothing."""
        return Mark(await self.written(), await _confirmed(serves))

    async def until_told(self, source: str, events: int, mark: Mark, *serves: Serve) -> Counted:
        """Waits until each of the wave's transitions is committed and its notification confirmed, which is counted.

        Then until the last rows have left the outbox, which is not. Raises BenchError when it takes for ever, or when
        serve ends.
        """
        deadline = time.monotonic() + 30 + events / SLOWEST
        while await self.written() - mark.written < events:
            await self._go_on(deadline, LOOK, source, events, serves)
        while await _confirmed(serves) - mark.confirmed < events:
            await self._go_on(deadline, AT_THE_END, source, events, serves)
        ended = time.time()
        if (left := await self.value("SELECT count(*) FROM relight.outbox")) > LEFT:
            raise BenchError(
                f"{left} rows were left in the outbox when all was confirmed: their deletion is unmeasured"
            )
        await self.until_nothing_is_unsent()
        if (confirmed := await _confirmed(serves) - mark.confirmed) != events:
            raise BenchError(
                f"{confirmed} notifications were confirmed, and the wave has {events}: others were counted"
            )
        return Counted(events, ended - await self.began(source))

    async def until_nothing_is_unsent(self) -> None:
        """Until the outbox is empty. Raises BenchError when it takes for ever."""
        deadline = time.monotonic() + GONE_WITHIN
        while await self.value("SELECT EXISTS (SELECT FROM relight.outbox)"):
            if time.monotonic() > deadline:
                raise BenchError("the outbox does not become empty")
            await asyncio.sleep(LOOK)

    async def until_absorbed(self, source: str, events: int, *serves: Serve) -> Counted:
        """The same for events that move nothing, from the first batch to the commit of the last."""
        deadline = time.monotonic() + 30 + events / SLOWEST
        while await self.taken_in(source) < events:
            await self._go_on(deadline, LOOK, source, events, serves)
        ended = time.time()
        return Counted(events, ended - await self.began(source))

    async def _go_on(self, deadline: float, pause: float, source: str, events: int, serves: tuple[Serve, ...]) -> None:
        for serve in serves:
            serve.alive()
        if time.monotonic() > deadline:
            raise BenchError(
                f"only {await self.taken_in(source)} of the {events} events of {source} were taken in, and "
                f"{await self.value('SELECT count(*) FROM relight.outbox')} rows are left in the outbox; serve says:\n"
                + "\n".join(serve.last_words() for serve in serves)
            )
        await asyncio.sleep(pause)

    async def began(self, source: str) -> float:
        """When the first batch with an event of this source was taken in (seconds since 1970, of this machine)."""
        first = await self.value("SELECT min(received_at) FROM relight.inbox WHERE source = $1", source)
        return float(first.timestamp())

    async def taken_in(self, source: str) -> int:
        return int(await self.value("SELECT count(*) FROM relight.inbox WHERE source = $1", source))

    async def prove(self, source: str, events: int, outcome: str = "applied", *, log: bool = True) -> None:
        """Raises BenchError unless each of these events has this one outcome, and (`log`) its own row in the log."""
        found = await self.value(
            """SELECT count(*) FROM relight.inbox i WHERE i.source = $1
               AND (SELECT array_agg(value) FROM jsonb_each_text(i.outcomes)) = ARRAY[$2::text]""",
            source, outcome,
        )  # fmt: skip
        expected = events if outcome == "applied" else 0
        rows = named = expected
        if log:
            rows, named = await self._connection.fetchrow(
                "SELECT count(*), count(DISTINCT event_id) FROM relight.log WHERE source = $1", source
            )
        if found != events or rows != expected or named != expected:
            raise BenchError(
                f"of {events} events of {source}, {found} have the outcome {outcome!r}, and the log has {rows} rows of "
                f"{named} of them instead of {expected}: what was measured is not what it was meant to be"
            )

    async def prove_moved(self, rows: int) -> None:
        """Raises BenchError unless all alerts together stand at `rows`: for logs that are too long to be searched."""
        found = await self.value("SELECT sum(seq)::bigint FROM relight.instances WHERE machine = 'alert'")
        if found != rows:
            raise BenchError(f"the alerts stand at {found} log rows together, not at {rows}: not each event moved one")


async def _confirmed(serves: Iterable[Serve]) -> int:
    return sum([await serve.confirmed() for serve in serves])
