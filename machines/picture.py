"""A machine drawn from its table as an SVG picture, by a layout of our own: nothing overlaps, whatever the table says.

The states stand in a column, those of one status in a frame. Each transition is a line of its own that leaves its state
to the right, with its words above it, and runs to the rail of the state it leads to; from its rail an arrow enters each
state. Lines end at their rail with a dot; where they cross another rail without one they only pass. Decides nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from machines.diagram import by_status, labels
from machines.model import Machine, State

ROW, HEAD, SPACE = 24, 44, 18
"""Pixels: one transition's height, a state's own lines of text, and what lies between two states."""
LETTER = 6.7
"""Pixels that one letter takes at most on average, at 11 pixels of a usual sans-serif type."""
MARGIN, RAIL, FRAME = 24, 18, 10
"""Pixels: around the picture, between two rails, and from a frame to the states in it."""
COLOURS = ("#0b6e99", "#b3541e", "#2e7d32", "#7b3fa0", "#b0223a", "#8a6d00", "#006d6d", "#5d4037", "#3949ab", "#c2185b")


@dataclass(slots=True)
class _Box:
    """A state's place: `top` in pixels from above, and the lines that leave it: (words, target)."""

    state: State
    top: float
    lines: list[tuple[str, str]]

    @property
    def height(self) -> float:
        return HEAD + ROW * len(self.lines)

    @property
    def entry(self) -> float:
        """Where the arrow from its rail comes in."""
        return self.top + HEAD / 2

    def leaves(self, number: int) -> float:
        """Where line `number` goes out."""
        return self.top + HEAD + ROW * (number + 0.7)


def svg(machine: Machine) -> str:
    """The whole document. The same table makes the same text."""
    boxes, frames, bottom = _column(machine)
    wide = max(_width(name, 13) for name in (_name(box.state) for box in boxes.values()))
    wide = max(wide, *(_width(_steps(box.state)) for box in boxes.values())) + 28
    left = MARGIN + FRAME + 20
    out_at = left + wide
    words_at = out_at + FRAME + 6
    rails_at = words_at + 30 + max(_width(f"{words}  → {_name_of(machine, to)}") for words, to in _all_lines(boxes))
    targets = [name for name in boxes if any(to == name for _, to in _all_lines(boxes))]
    rails = {name: rails_at + RAIL * number for number, name in enumerate(targets)}
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(targets)}
    right = rails_at + RAIL * len(targets) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{right:.0f}" height="{bottom:.0f}" '
        f'viewBox="0 0 {right:.0f} {bottom:.0f}" font-family="DejaVu Sans, Verdana, sans-serif" font-size="11">',
        f"<title>{escape(machine.name)}, version {machine.version}</title>",
        f'<rect width="{right:.0f}" height="{bottom:.0f}" fill="white"/>',
        _text(MARGIN, 30, f"{machine.name}, version {machine.version}", size=16, bold=True),
        _text(MARGIN, 46, "thick border: safe to rest in; double: final; an arrow ends each rail", fill="#666"),
    ]
    for title, top, height in frames:
        parts.append(_rect(left - FRAME, top, wide + 2 * FRAME, height, "#f3f5f8", "#c5ccd6", 1))
        parts.append(_text(left, top + 14, title, fill="#556", bold=True))
    for name in targets:
        parts += _rail(name, boxes, rails[name], out_at, colours[name])
    for box in boxes.values():
        parts += _state(box, left, wide, initial=box.state.name == machine.initial)
        for number, (words, to) in enumerate(box.lines):
            y = box.leaves(number)
            parts.append(
                _path(f"M{out_at:.1f} {y:.1f}H{rails[to]:.1f}", colours[to], f"{box.state.name} to {to}: {words}")
            )
            parts.append(f'<circle cx="{rails[to]:.1f}" cy="{y:.1f}" r="3" fill="{colours[to]}"/>')
            parts.append(
                f'<text x="{words_at:.1f}" y="{y - 5:.1f}">{escape(words)}'
                f'<tspan dx="7" fill="{colours[to]}">→ {escape(_name_of(machine, to))}</tspan></text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _column(machine: Machine) -> tuple[dict[str, _Box], list[tuple[str, float, float]], float]:
    """Every state's box by its name, the frames as (title, top, height), and the height of it all."""
    ways = labels(machine)
    boxes: dict[str, _Box] = {}
    frames: list[tuple[str, float, float]] = []
    y: float = 64
    for states in by_status(machine).values():
        framed = any("." in state.name for state in states)
        top = y
        y += 22 if framed else 0
        for state in states:
            lines = [
                (words, to) for (source, to), all_words in ways.items() if source == state.name for words in all_words
            ]
            boxes[state.name] = _Box(state, y, lines)
            y += boxes[state.name].height + SPACE
        if framed:
            frames.append((states[0].status, top, y - top - SPACE + FRAME))
            y += FRAME
    return boxes, frames, y + MARGIN - SPACE


def _rail(name: str, boxes: dict[str, _Box], x: float, entry_x: float, colour: str) -> Iterator[str]:
    """The vertical line of one target, from its highest to its lowest line, and the arrow into the state."""
    joins = [box.leaves(number) for box in boxes.values() for number, (_, to) in enumerate(box.lines) if to == name]
    entry = boxes[name].entry
    yield _path(f"M{x:.1f} {min([*joins, entry]):.1f}V{max([*joins, entry]):.1f}", colour, f"rail of {name}", 2)
    yield _path(f"M{x:.1f} {entry:.1f}H{entry_x + 8:.1f}", colour, f"into {name}", 2)
    yield f'<path d="M{entry_x:.1f} {entry:.1f}l10 -5v10z" fill="{colour}"/>'


def _state(box: _Box, left: float, wide: float, *, initial: bool) -> Iterator[str]:
    state = box.state
    yield _rect(left, box.top, wide, box.height, "white", "#222", 3 if state.resting else 1.2, box.state.name)
    if state.final:
        yield _rect(left + 4, box.top + 4, wide - 8, box.height - 8, "none", "#222", 1)
    if initial:
        yield f'<circle cx="{left - 20:.1f}" cy="{box.entry:.1f}" r="5" fill="#222"/>'
        yield f'<path d="M{left - 15:.1f} {box.entry:.1f}h8" stroke="#222"/>'
        yield f'<path d="M{left:.1f} {box.entry:.1f}l-8 -4v8z" fill="#222"/>'
    yield _text(left + 12, box.top + 19, _name(state), size=13, bold=True)
    yield _text(left + 12, box.top + 35, _steps(state), fill="#555")


def _all_lines(boxes: dict[str, _Box]) -> list[tuple[str, str]]:
    return [line for box in boxes.values() for line in box.lines]


def _name(state: State) -> str:
    return state.name.split(".")[-1].replace("_", " ")


def _name_of(machine: Machine, name: str) -> str:
    """As its box says it; with its status before it where two states are called the same."""
    state = machine.state(name)
    same = [other for other in machine.states if _name(other) == _name(state)]
    return _name(state) if len(same) == 1 else f"{state.status}: {_name(state)}".lower()


def _steps(state: State) -> str:
    return ", ".join(step.name for step in state.steps)


def _width(text: str, size: int = 11) -> float:
    return len(text) * LETTER * size / 11


def _text(x: float, y: float, text: str, *, size: int = 11, fill: str = "#111", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}"{weight}>{escape(text)}</text>'


def _rect(
    x: float, y: float, width: float, height: float, fill: str, stroke: str, thick: float, title: str = ""
) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" fill="{fill}" '
        f'stroke="{stroke}" stroke-width="{thick:g}"><title>{escape(title)}</title></rect>'
    )


def _path(way: str, colour: str, title: str, thick: float = 1.2) -> str:
    return (
        f'<path d="{way}" fill="none" stroke="{colour}" stroke-width="{thick:g}"><title>{escape(title)}</title></path>'
    )
