"""The reporter: writes a report from the published metrics once a second. It knows nothing of Relight.

It pauses on USR1, goes on at USR2, leaves the research-server on HUP, ends on TERM. `python -m metrics.reporter --last`
prints what the running one has done, as JSON. RELIGHT_START=paused starts it paused, which is one `if`.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from metrics.notes import Notes
from metrics.prices import MARKETS

VAR = Path(os.environ.get("METRICS_VAR") or "var").absolute()
STATUS = VAR / "reports" / "status.json"
REPORT = VAR / "reports" / "metrics.md"
SETTINGS = Path(__file__).parents[1] / "reporter.toml"
AWAY = (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""How a database is away: the last is what asyncpg says of a connection that was cut in mid-answer."""


class Reporter:
    """Counts its reports; `paused` is set by the signals."""

    def __init__(self, paused: bool, settings: dict[str, Any], notes: Notes) -> None:
        self.paused = paused
        self.title, self.every = str(settings["title"]), float(settings["every"])
        self.notes = notes
        self.reports = 0

    def pause(self) -> None:
        self.paused = True
        self.say()

    def resume(self) -> None:
        self.paused = False
        self.say()

    def say(self) -> None:
        """Leaves a note for `--last`: which process it is, and what it has done."""
        status = {"pid": os.getpid(), "started": _started(os.getpid()), "reports": self.reports, "paused": self.paused}
        _write(STATUS, json.dumps(status))

    async def work(self, dsn: str) -> None:
        """Reports for ever; a database that is away only delays the next one."""
        while True:
            try:
                if not self.paused:
                    await self._report(dsn)
            except AWAY as error:
                print(f"no report: {type(error).__name__}: {error}", flush=True)
            await asyncio.sleep(self.every)

    async def _report(self, dsn: str) -> None:
        connection = await asyncpg.connect(
            dsn, timeout=5, server_settings={"application_name": os.environ.get("PGAPPNAME", "reporter")}
        )
        try:
            row = await connection.fetchrow("select * from published where calculator = 'calculator'", timeout=10)
            best = await connection.fetch(
                "select instrument, count(*) as n, sum(pnl) as pnl from trades group by 1 order by 1", timeout=10
            )
        finally:
            connection.terminate()
        if row is None or self.paused:
            return
        _write(REPORT, _text(self.title, row, best, self.notes.known))
        self.reports += 1
        self.say()


def _text(title: str, row: asyncpg.Record, markets: list[asyncpg.Record], known: dict[str, str]) -> str:
    percent = "-" if row["win_rate"] is None else f"{row['win_rate']:.1%}"
    sharpe = "-" if row["sharpe"] is None else f"{row['sharpe']:.4f}"
    lines = [
        f"# {title}",
        "",
        f"{row['trades']} trades counted, the last is {row['last_trade']}; as of {row['at']:%Y-%m-%d %H:%M:%S} UTC, "
        f"written {datetime.now(UTC):%H:%M:%S}.",
        "",
        "| win rate | profit and loss | Sharpe ratio (per trade) | largest drawdown |",
        "|---|---|---|---|",
        f"| {percent} | {row['pnl']:,.2f} | {sharpe} | {row['drawdown']:,.2f} |",
        "",
        "| market | trades booked | profit and loss | research |",
        "|---|---|---|---|",
        *(
            f"| {market['instrument']} | {market['n']} | {market['pnl']:,.2f} | {known.get(market['instrument'], '')} |"
            for market in markets
        ),
    ]
    return "\n".join(lines) + "\n"


def last() -> int:
    """Prints the running reporter's status; 1 when none runs."""
    try:
        status = json.loads(STATUS.read_text())
        running = _started(status["pid"]) == status["started"]
    except (OSError, ValueError, KeyError):
        running = False
    if not running:
        print("no reporter runs", file=sys.stderr)
        return 1
    values = {"reports": status["reports"], "paused": status["paused"]}
    print(json.dumps({"outcome": "done", "detail": f"pid {status['pid']}", "values": values}))
    return 0


def _started(pid: int) -> int:
    """A process's start time: with it, a pid names one process only."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    aside.replace(path)


async def main() -> None:
    """Until TERM or INT."""
    notes = Notes(os.environ.get("RESEARCH_URL"), (market.instrument for market in MARKETS))
    paused = os.environ.get("RELIGHT_START") == "paused"
    reporter = Reporter(paused, tomllib.loads(SETTINGS.read_text()), notes)
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this is not None  # noqa: S101  # we are in one
    loop.add_signal_handler(signal.SIGUSR1, reporter.pause)
    loop.add_signal_handler(signal.SIGUSR2, reporter.resume)
    loop.add_signal_handler(signal.SIGHUP, notes.disconnect)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, this.cancel)
    # Said after the handlers are there: a signal before would have ended it.
    reporter.say()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(notes.run())
        await reporter.work(os.environ["TRADING_DSN"])


if __name__ == "__main__":
    if "--last" in sys.argv[1:]:
        sys.exit(last())
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main())
