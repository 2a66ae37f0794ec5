"""The calculator: reads new trades, holds the running metrics in memory, publishes them once a second.

It counts from the moment it was started, as a program does that never reads its history again: what it holds is lost
when it dies, unless it was flushed and is started with RELIGHT_STATE. `python -m metrics.calculator`; ends on TERM.
"""

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

from metrics.participant import Participant, Refused
from metrics.running import Running

VAR = Path(os.environ.get("METRICS_VAR") or "var").absolute()
LOOK = 0.1
"""Seconds between two looks for new trades."""
PUBLISH = 1.0
"""Seconds between two publications."""
CANCEL_AGAIN = 1.0
"""Seconds that a task gets to end after it was cancelled, before it is cancelled again."""
AWAY = (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""How a database is away: the last is what asyncpg says of a connection that was cut in mid-answer."""
STATES_KEPT = 5
"""Flushed states that stay on disk."""

NEW = "select id, pnl, entry * quantity as invested from trades where id > $1 order by id limit 500"
PUBLISHED = """
insert into published values ('calculator', clock_timestamp(), $1, $2, $3, $4, $5, $6, $7)
on conflict (calculator) do update set at = excluded.at, trades = excluded.trades, last_trade = excluded.last_trade,
    win_rate = excluded.win_rate, pnl = excluded.pnl, sharpe = excluded.sharpe, drawdown = excluded.drawdown,
    paused = excluded.paused
"""


class Calculator:
    """The metrics, whether they stand still, and until when: a pause with a lease ends by itself."""

    def __init__(self, running: Running | None, loaded: str | None, paused: bool) -> None:
        self.running = running
        self.loaded = loaded
        self.paused = paused
        self._lease_ends: float | None = None

    async def work(self, dsn: str) -> None:
        """Reads and publishes for ever; a database that is away is waited for, in memory nothing is lost by it."""
        while True:
            try:
                connection = await asyncpg.connect(
                    dsn, timeout=5, server_settings={"application_name": os.environ.get("PGAPPNAME", "calculator")}
                )
                try:
                    await self._work(connection)
                finally:
                    connection.terminate()
            except AWAY as error:
                print(f"the trading database is away: {type(error).__name__}: {error}", flush=True)
                await asyncio.sleep(0.5)

    async def perform(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One command of Relight. Reading and this run in one loop: after `pause` not one more trade is taken in."""
        match command:
            case "pause":
                lease = float(arguments.get("lease") or 0)
                if arguments.get("renews") and not self._still_paused():
                    raise Refused("the pause has ended by itself: the calculator works again")
                self._lease_ends = time.monotonic() + lease if lease else None
                self.paused = True
                return {"detail": f"paused for at most {lease:g} s" if lease else "paused", **self._values()}
            case "resume":
                self.paused, self._lease_ends = False, None
                return {"detail": "resumed", **self._values()}
            case "flush":
                return self._flush()
            case "report":
                return {"digest": self.loaded, "detail": "paused" if self.paused else "running", **self._values()}
            case _:
                raise Refused(f"the calculator knows no command {command!r}")

    async def _work(self, connection: asyncpg.Connection) -> None:
        published = 0.0
        while True:
            self._end_lapsed_pause()
            if self.running is None:
                newest = await connection.fetchval("select coalesce(max(id), 0) from trades", timeout=10)
                self.running = Running(last_trade=newest)
            if not self.paused:
                rows = await connection.fetch(NEW, self.running.last_trade, timeout=10)
                self._take(self.running, rows)
            if time.monotonic() - published >= PUBLISH:
                await connection.execute(PUBLISHED, *self._published(), timeout=10)
                published = time.monotonic()
            await asyncio.sleep(LOOK)

    def _take(self, running: Running, rows: list[asyncpg.Record]) -> None:
        if self.paused:
            return  # the pause came while the rows were on their way: they are read again after it
        for row in rows:
            running.add(row["id"], row["pnl"], row["invested"])

    def _end_lapsed_pause(self) -> None:
        if self.paused and self._lease_ends is not None and time.monotonic() >= self._lease_ends:
            self.paused, self._lease_ends = False, None
            print("the pause was not renewed: going on", flush=True)

    def _still_paused(self) -> bool:
        return self.paused and (self._lease_ends is None or time.monotonic() < self._lease_ends)

    def _flush(self) -> dict[str, Any]:
        if not self.paused or self.running is None:
            raise Refused("a flush needs a pause: what is flushed must not change any more")
        content = self.running.dump()
        digest = hashlib.sha256(content).hexdigest()
        folder = VAR / "calculator"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"state-{digest}.json"
        aside = path.with_suffix(".new")
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        old = sorted(folder.glob("state-*.json"), key=lambda one: one.stat().st_mtime_ns)[:-STATES_KEPT]
        for one in old:
            one.unlink(missing_ok=True)
        return {"digest": digest, "where": path.as_uri(), "detail": f"{len(content)} bytes", **self._values()}

    def _values(self) -> dict[str, Any]:
        return {"values": self.running.values() if self.running else {}}

    def _published(self) -> tuple[object, ...]:
        values = (self.running or Running()).values()
        order = ("trades", "last_trade", "win_rate", "pnl", "sharpe", "drawdown")
        return (*(values[name] for name in order), self.paused)


def begin(environment: Mapping[str, str]) -> Calculator:
    """What the environment says: the state to load, if any, and whether to wait for `resume`."""
    paused = environment.get("RELIGHT_START") == "paused"
    url = environment.get("RELIGHT_STATE")
    if not url:
        return Calculator(None, None, paused)
    content = Path(unquote(urlsplit(url).path)).read_bytes()
    running = Running.load(content)
    print(f"loaded {running.trades} trades from {url}", flush=True)
    return Calculator(running, hashlib.sha256(content).hexdigest(), paused)


async def main() -> None:
    """Until TERM or INT."""
    calculator = begin(os.environ)
    url, system = os.environ["RELIGHT_AMQP_URL"], os.environ.get("RELIGHT_SYSTEM", "metrics")
    participant = Participant(url, system, os.environ.get("RELIGHT_COMPONENT", "calculator"), calculator.perform)
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    work = [asyncio.create_task(calculator.work(os.environ["TRADING_DSN"])), asyncio.create_task(participant.run())]
    ending = asyncio.create_task(told.wait())
    await asyncio.wait({ending, *work}, return_when=asyncio.FIRST_COMPLETED)
    for task in (ending, *work):
        # More than once: the AMQP client can swallow a cancel that meets the loss of its connection.
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_AGAIN)
    for task in work:
        if not task.cancelled():
            task.result()


if __name__ == "__main__":
    asyncio.run(main())
