"""What the trading database holds and the calculator counted, read there: are all trades there, each counted once.

A sequence of PostgreSQL may leave numbers out after a crash, so trades are counted and never told by their numbers.
"""

import math
from dataclasses import dataclass

from tests.acceptance.harness import House

METRICS = """
select count(*) as trades, max(id) as last_trade, avg((pnl > 0)::int)::float8 as win_rate, sum(pnl) as pnl,
    avg(pnl / (entry * quantity)) / stddev_samp(pnl / (entry * quantity)) as sharpe
from (select * from trades where id <= $1 order by id desc limit $2) as counted
"""
"""Of the newest trades up to one: what the calculator counted one by one, computed anew."""
ROWS = "select md5(string_agg(t::text, chr(10) order by id)) as digest from trades as t where id <= $1"


@dataclass(frozen=True)
class Books:
    """The newest trade that was counted, the digest of all rows up to it, and how many of them are not in memory: the
    same for ever, unless a trade is lost, counted twice, or the memory began anew."""

    last: int
    digest: str
    uncounted: int


async def books(house: House) -> Books:
    """As they stand now. AssertionError when what is counted is not what SQL computes over the same trades."""
    now = await house.counters()
    last = int(now["last_trade"])
    (row,) = await house.trading(METRICS, last, int(now["trades"]))
    pairs = {name: (now[name], value) for name, value in row.items()}
    wrong = {name: pair for name, pair in pairs.items() if None in pair or not math.isclose(*pair, rel_tol=1e-9)}
    assert not wrong, f"counted, and in the table: {wrong}"
    (every,) = await house.trading("select count(*) as n from trades where id <= $1", last)
    return Books(last, await digest(house, last), int(every["n"]) - int(now["trades"]))


async def digest(house: House, last: int) -> str:
    """Of all rows up to a trade, each with all its columns."""
    (row,) = await house.trading(ROWS, last)
    return str(row["digest"])
