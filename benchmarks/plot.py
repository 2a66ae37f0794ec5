"""Throughput and latency against load, drawn as plain SVG. Pure."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 560
LEFT, RIGHT, TOP = 70, 30, 46
PANEL = 200
"""Pixels of one of the two panels, and the gap to what stands above it."""
GAP = 70

COLOURS = {"reached": "#2563eb", "p50_ms": "#059669", "p99_ms": "#d97706"}

LOAD = "events offered a second, by a producer and with a subscriber on the same machine"

Points = Sequence[Mapping[str, float]]
"""Each with offered, reached, p50_ms and p99_ms."""


def svg(points: Points, full_queue: float) -> str:
    """Above what was reached of what was offered, below the latency; `full_queue` is drawn as the top there is."""
    if not points:
        raise ValueError("nothing was measured at any load")
    most = max(*(point["offered"] for point in points), full_queue) * 1.05
    upper = _Panel(TOP, most, most)
    lower = _LogPanel(TOP + PANEL + GAP, most, [point[name] for point in points for name in ("p50_ms", "p99_ms")])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" role="img">',
        "<title>Throughput and latency against load</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *upper.frame("transitions a second, reached"),
        upper.level(full_queue, f"from a full queue: {full_queue:,.0f}"),
        upper.line([(p["offered"], p["reached"]) for p in points], "reached"),
        *lower.frame("milliseconds from publish to notification"),
        lower.line([(p["offered"], p["p50_ms"]) for p in points], "p50_ms"),
        lower.line([(p["offered"], p["p99_ms"]) for p in points], "p99_ms"),
        *_legend(lower.top),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, LOAD, "middle"),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


class _Panel:
    """One coordinate system; x is the load in both."""

    def __init__(self, top: float, most: float, highest: float) -> None:
        self.top, self._most, self._highest = top, most, highest

    def x(self, value: float) -> float:
        return round(LEFT + value / self._most * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        return round(self.top + PANEL * (1 - min(1.0, value / self._highest)), 1)

    def ticks(self) -> list[float]:
        """Where its lines are."""
        return _ticks(self._highest, 4)

    def frame(self, title: str) -> list[str]:
        """The title, the grid, and the numbers beside it."""
        lines = [_text(LEFT, self.top - 10, title, "start", bold=True)]
        for value in self.ticks():
            height = self.y(value)
            lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}" stroke="#e5e7eb"/>')
            lines.append(_text(LEFT - 8, height + 4, f"{value:,.0f}", "end"))
        below = self.top + PANEL + 18
        return [*lines, *(_text(self.x(value), below, f"{value:,.0f}", "middle") for value in _ticks(self._most, 6))]

    def line(self, points: Sequence[tuple[float, float]], name: str) -> str:
        path = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in sorted(points))
        dots = "".join(f'<circle cx="{self.x(x)}" cy="{self.y(y)}" r="3" fill="{COLOURS[name]}"/>' for x, y in points)
        return f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>{dots}'

    def level(self, value: float, words: str) -> str:
        height = self.y(value)
        return (
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}" stroke="#6b7280" '
            f'stroke-dasharray="5 4"/>{_text(LEFT + 6, height - 5, words, "start")}'
        )


class _LogPanel(_Panel):
    """Each line is ten times the one below: a queue that grows would leave nothing to see of what stands below it."""

    def __init__(self, top: float, most: float, values: Sequence[float]) -> None:
        self._low = math.floor(math.log10(max(1.0, min(values))))
        self._high = max(self._low + 1, math.ceil(math.log10(max(1.0, *values))))
        super().__init__(top, most, 10.0**self._high)

    def y(self, value: float) -> float:
        share = (math.log10(max(10.0**self._low, value)) - self._low) / (self._high - self._low)
        return round(self.top + PANEL * (1 - min(1.0, share)), 1)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self._low, self._high + 1)]


def _legend(top: float) -> list[str]:
    right = WIDTH - RIGHT
    return [
        f'<text x="{right - 60}" y="{top - 10}" text-anchor="end" fill="{COLOURS["p50_ms"]}">p50</text>',
        f'<text x="{right}" y="{top - 10}" text-anchor="end" fill="{COLOURS["p99_ms"]}">p99</text>',
    ]


def _text(x: float, y: float, words: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#111827"{weight}>{escape(words)}</text>'


def _ticks(highest: float, about: int) -> list[float]:
    """Round numbers from 0 to `highest`."""
    step = _nice(highest / about)
    return [number * step for number in range(int(highest / step) + 1)]


def _nice(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten that is not below `value`."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * (1 - 1e-9))
