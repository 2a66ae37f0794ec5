"""Trades made from real prices: a moving-average crossover over the history that the package `backtesting` ships.

Deterministic and pure apart from reading two CSV files. Nothing is stored here.
"""

import csv
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True)
class Market:
    """What is traded: the file of its prices, the two averages in bars, and how much is bought or sold at once."""

    instrument: str
    file: str
    fast: int
    slow: int
    quantity: int


MARKETS = (Market("GOOG", "GOOG.csv", 3, 8, 100), Market("EURUSD", "EURUSD.csv", 8, 24, 10_000))
"""Daily Google 2004-2013 by a hundred shares, hourly EUR/USD 2017-2018 by a tenth of a lot."""


@dataclass(frozen=True)
class Bar:
    """One row of a price history."""

    at: str
    open: float
    close: float


@dataclass(frozen=True)
class Trade:
    """One closed position. `opened` and `closed` are the bars of the history; `pnl` in dollars, rounded to cents."""

    instrument: str
    side: str
    quantity: int
    opened: str
    closed: str
    entry: float
    exit: float
    pnl: float


def history() -> tuple[Trade, ...]:
    """All trades of all markets, in the order in which they closed, each market starting at the same moment."""
    made = [list(trades(market)) for market in MARKETS]
    # The markets' years differ: they are woven by how far each has come.
    placed = [(index / len(one), market, trade) for market, one in enumerate(made) for index, trade in enumerate(one)]
    return tuple(trade for _, _, trade in sorted(placed, key=lambda item: item[:2]))


def trades(market: Market) -> Iterator[Trade]:
    """Always in the market, on the side of the fast average; it turns at the open after the averages crossed."""
    bars = _bars(market.file)
    closes = [bar.close for bar in bars]
    turns: list[tuple[int, int]] = []
    for index in range(market.slow, len(bars)):
        fast = sum(closes[index - market.fast : index]) / market.fast
        slow = sum(closes[index - market.slow : index]) / market.slow
        side = 1 if fast > slow else -1
        if not turns or turns[-1][1] != side:
            turns.append((index, side))
    for (opened, side), (closed, _) in pairwise(turns):
        entry, leave = bars[opened].open, bars[closed].open
        yield Trade(
            market.instrument,
            "long" if side > 0 else "short",
            market.quantity,
            bars[opened].at,
            bars[closed].at,
            entry,
            leave,
            round(side * (leave - entry) * market.quantity, 2),
        )


def _bars(name: str) -> list[Bar]:
    # The files are read in place: importing the package would load a plotting library first.
    spec = importlib.util.find_spec("backtesting")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package backtesting is not installed, from whose price history the trades are made")
    with (Path(spec.submodule_search_locations[0]) / "test" / name).open(newline="") as file:
        return [Bar(row[""], float(row["Open"]), float(row["Close"])) for row in csv.DictReader(file)]
