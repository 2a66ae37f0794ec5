"""The trading-server: runs the trading database in the foreground and books trades into it, a few a second.

`python -m metrics.server` serves until TERM; `python -m metrics.server --delete` deletes its data.
"""

import asyncio
import os
import signal
import sys
from datetime import datetime
from pathlib import Path

import asyncpg

from metrics.postgres import Postgres, write_private
from metrics.prices import Trade, history

VAR = Path(os.environ.get("METRICS_VAR") or "var").absolute()
"""Where the example keeps everything it writes."""
EVERY = 0.25
"""Seconds between two trades: quick for a market, slow for a database."""
ANSWER_WITHIN = 40.0
"""Seconds until the server must accept connections; recovery after a crash is part of it."""

SCHEMA = """
create extension if not exists amcheck; -- for the check of its integrity
create table if not exists trades (
    id bigint generated always as identity primary key,
    ts timestamptz not null default clock_timestamp(),
    instrument text not null, side text not null, quantity integer not null,
    opened timestamp not null, closed timestamp not null,
    entry double precision not null, exit double precision not null, pnl double precision not null
);
create table if not exists published (
    calculator text primary key, at timestamptz not null, trades bigint not null, last_trade bigint not null,
    win_rate double precision, pnl double precision not null, sharpe double precision,
    drawdown double precision not null, paused boolean not null
);
"""
BOOK = """insert into trades (instrument, side, quantity, opened, closed, entry, exit, pnl)
values ($1, $2, $3, $4, $5, $6, $7, $8)"""
ALONE = "select pg_advisory_lock(hashtext('metrics.feed'))"
"""One feed at a time: a killed server's last insert may still be under way, and would commit a lower id than one that
the calculator has read already, which it would then never count."""


async def serve() -> int:
    """Until TERM (0), or until the database ends by itself (1)."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    postgres = Postgres(VAR / "trading")
    dsn = await asyncio.to_thread(postgres.prepare)
    postgres.start()
    try:
        connection = await _connect(dsn, postgres)
        await connection.execute(ALONE, timeout=ANSWER_WITHIN)
        await connection.execute(SCHEMA)
        # Only now: whoever finds the DSN finds a database that is ready.
        write_private(postgres.dsn_file, dsn)
        print(f"the trading database answers; its DSN is in {postgres.dsn_file}", flush=True)
        async with asyncio.TaskGroup() as tasks:
            life = [tasks.create_task(work) for work in (ending.wait(), _until_ended(postgres), _feed(connection))]
            await asyncio.wait(life, return_when=asyncio.FIRST_COMPLETED)
            for task in life:
                task.cancel()
        connection.terminate()
        return 0 if ending.is_set() else 1
    finally:
        await asyncio.to_thread(postgres.stop)


async def _connect(dsn: str, postgres: Postgres) -> asyncpg.Connection:
    async with asyncio.timeout(ANSWER_WITHIN):
        while True:
            try:
                return await asyncpg.connect(
                    dsn, timeout=5, server_settings={"application_name": "metrics.trading-server"}
                )
            except (OSError, asyncpg.PostgresError):
                if postgres.poll() is not None:
                    raise SystemExit(f"postgres ended with status {postgres.poll()} while it started") from None
                await asyncio.sleep(0.1)


async def _until_ended(postgres: Postgres) -> None:
    while postgres.poll() is None:  # noqa: ASYNC110  # a child's end sets no event
        await asyncio.sleep(0.5)
    print(f"the trading database ended by itself with status {postgres.poll()}", file=sys.stderr)


async def _feed(connection: asyncpg.Connection) -> None:
    """The history, trade by trade, going on where the table ends; after the last one it begins anew."""
    trades = history()
    booked = await connection.fetchval("select count(*) from trades", timeout=10)
    while True:
        await connection.execute(BOOK, *_row(trades[booked % len(trades)]), timeout=10)
        booked += 1
        await asyncio.sleep(EVERY)


def _row(trade: Trade) -> tuple[object, ...]:
    opened, closed = datetime.fromisoformat(trade.opened), datetime.fromisoformat(trade.closed)
    about = (trade.instrument, trade.side, trade.quantity)
    return (*about, opened, closed, trade.entry, trade.exit, trade.pnl)


if __name__ == "__main__":
    if "--delete" in sys.argv[1:]:
        Postgres(VAR / "trading").delete()
        sys.exit(0)
    sys.exit(asyncio.run(serve()))
