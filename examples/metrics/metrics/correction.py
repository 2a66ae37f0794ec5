"""A night job of the back office: corrects the first trade and takes its time over it. No part of the system: it writes
into the trading database in one long transaction, as a role of its own, and is in the way of a restart meanwhile.

`python -m metrics.correction` says `open` when its transaction is, and books it when its standard input ends.
"""

import asyncio
import os
import secrets
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

VAR = Path(os.environ.get("METRICS_VAR") or "var").absolute()
ROLE = "back_office"
LONGEST = 60.0
"""Seconds after which it books its correction by itself."""
RIGHTS = f"""
do $$ begin create role {ROLE} login; exception when duplicate_object then null; end $$;
grant select, update on trades to {ROLE};
"""
CORRECT = "update trades set quantity = quantity where id = (select min(id) from trades)"


async def main() -> None:
    """One correction."""
    dsn = (VAR / "trading" / "dsn").read_text()
    password = secrets.token_hex(16)
    owner = await asyncpg.connect(dsn, timeout=10)
    await owner.execute(f"{RIGHTS} alter role {ROLE} password '{password}'")
    await owner.close(timeout=10)
    parts = urlsplit(dsn)
    own = urlunsplit(parts._replace(netloc=f"{ROLE}:{password}@{parts.hostname}:{parts.port}"))
    connection = await asyncpg.connect(own, timeout=10, server_settings={"application_name": "back-office"})
    async with connection.transaction():
        await connection.execute(CORRECT, timeout=10)
        print("open", flush=True)
        reading = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait({reading}, timeout=LONGEST)
    await connection.close(timeout=10)
    os._exit(0)  # the thread that reads may still wait


if __name__ == "__main__":
    asyncio.run(main())
