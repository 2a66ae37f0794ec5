"""The running metrics: what the calculator holds in memory, one trade at a time. Pure; it neither reads nor writes."""

import json
import math
from dataclasses import asdict, dataclass


@dataclass
class Running:
    """Win rate, profit and loss, and Sharpe ratio of all trades since the beginning, without keeping the trades.

    `mean` and `squares` are Welford's (B. P. Welford, Technometrics 4, 1962): exact where sums of squares cancel out.
    """

    trades: int = 0
    wins: int = 0
    pnl: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    peak: float = 0.0
    drawdown: float = 0.0
    last_trade: int = 0

    def add(self, trade: int, pnl: float, invested: float) -> None:
        """One more trade: its id, its profit in dollars, and the dollars it took."""
        self.trades += 1
        self.wins += pnl > 0
        self.pnl += pnl
        earned = pnl / invested
        before = self.mean
        self.mean += (earned - before) / self.trades
        self.squares += (earned - before) * (earned - self.mean)
        self.peak = max(self.peak, self.pnl)
        self.drawdown = max(self.drawdown, self.peak - self.pnl)
        self.last_trade = trade

    @property
    def win_rate(self) -> float | None:
        """Share of winning trades, None before the first."""
        return self.wins / self.trades if self.trades else None

    @property
    def sharpe(self) -> float | None:
        """Mean over standard deviation of the trades' returns (per trade, not annualised), None before the second."""
        if self.trades < 2 or self.squares <= 0:
            return None
        return self.mean / math.sqrt(self.squares / (self.trades - 1))

    def values(self) -> dict[str, float | int | None]:
        """What is published and reported."""
        return {
            "trades": self.trades,
            "last_trade": self.last_trade,
            "win_rate": self.win_rate,
            "pnl": self.pnl,
            "sharpe": self.sharpe,
            "drawdown": self.drawdown,
        }

    def dump(self) -> bytes:
        """All of it as bytes; `load` gives back the very same numbers (JSON floats are written to the last digit)."""
        return json.dumps(asdict(self), sort_keys=True).encode() + b"\n"

    @classmethod
    def load(cls, content: bytes) -> "Running":
        """The inverse of `dump`. Raises TypeError or ValueError on anything else."""
        return cls(**json.loads(content))
