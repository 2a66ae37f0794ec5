"""A small system that somebody runs by hand: `ledger` keeps a connection to a database and listens, `desk` is connected
to it. No Relight knows of them. Run as `python byhand.py ledger PORT` with LEDGER_DSN, or `python byhand.py desk PORT`.
"""

import asyncio
import os
import sys

import asyncpg


async def ledger(port: int) -> None:
    """Holds one session, and one connection from whoever comes."""
    connection = await asyncpg.connect(os.environ["LEDGER_DSN"], server_settings={"application_name": "ledger"})
    await connection.execute("create table if not exists entries (at timestamptz default now())")
    await connection.execute("insert into entries default values")
    visitors: list[asyncio.StreamWriter] = []  # a writer that nobody holds closes its connection
    server = await asyncio.start_server(lambda _, writer: visitors.append(writer), "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


async def desk(port: int) -> None:
    """Stays connected to the ledger."""
    reader, _ = await asyncio.open_connection("127.0.0.1", port)
    print("ready", flush=True)
    await reader.read()


if __name__ == "__main__":
    asyncio.run({"ledger": ledger, "desk": desk}[sys.argv[1]](int(sys.argv[2])))
