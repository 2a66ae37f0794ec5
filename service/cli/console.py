"""What goes to the screen: tables and lines for people, JSON for programs. Without a terminal no control characters.

Whatever strangers wrote (reasons, names, output of programs) is shown and never obeyed; known secrets are not shown.
"""

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.render import Line, Tone
from service.cli.words import typed
from service.masking import MASKS
from service.visible import in_json, in_one_line, visible

STYLES = {
    Tone.PLAIN: "",
    Tone.HEADING: "bold cyan",
    Tone.GOOD: "bold green",
    Tone.BAD: "bold red",
    Tone.WAIT: "yellow",
    Tone.QUIET: "dim",
}

WIDE = 240
"""Columns when nobody looks: a file or a pipe is never wrapped at the width of a terminal that is not there."""


class Screen:
    """Standard output for what was asked, standard error for what is said beside it."""

    def __init__(self) -> None:
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def live(self) -> bool:
        """Whether a line in the making can be shown."""
        return self.out.is_terminal

    @property
    def asks(self) -> bool:
        """Whether a person sits there who can answer."""
        return self.out.is_terminal and sys.stdin.isatty()

    def confirm(self, question: str) -> bool:
        """A person's yes; anything else, an empty line too, is a no."""
        return self.out.input(f"{_safe(question)} Type yes: ").strip().lower() == "yes"

    def line(self, line: Line) -> None:
        self.out.print(Text(shown(typed(line.text)), STYLES[line.tone]), soft_wrap=True)

    def say(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        self.out.print(Text(_safe(typed(text)), STYLES[tone]), soft_wrap=True)

    def note(self, text: str, tone: Tone = Tone.QUIET) -> None:
        """Said beside the result: never in the way of a program that reads it."""
        self.err.print(Text(_safe(typed(text)), STYLES[tone]), soft_wrap=True)

    def problem(self, text: str) -> None:
        """An error, for people: the first line is marked, what follows is as it was written."""
        first, _, rest = _safe(typed(text)).partition("\n")
        self.err.print(Text.assemble(("relight: ", STYLES[Tone.BAD]), first), soft_wrap=True)
        if rest:
            self.err.print(Text(rest), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(shown(cell)) for cell in row))
        self.out.print(table)

    def page(self, text: str) -> None:
        """A document as it is: no wrapping, no colour."""
        self.out.out(_safe(text), end="", highlight=False)

    def json(self, value: object) -> None:
        """One JSON document; `lines` of a stream are one document each."""
        sys.stdout.write(in_json(MASKS.hide(to_json(value))) + "\n")
        sys.stdout.flush()


def shown(text: str) -> str:
    """One line as a terminal may show it: no secret, nothing that steers it, no second line."""
    return in_one_line(MASKS.hide(text))


def _safe(text: str) -> str:
    return visible(MASKS.hide(text))


def to_json(value: object) -> str:
    """JSON of dataclasses, moments and our own names, keys in their own order."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS).decode()


def _plain(value: object) -> Any:
    match value:
        case Enum():
            return value.value
        case Path():
            return str(value)
        case datetime():
            return value.isoformat()
        case frozenset() | set():
            return sorted(value)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        case _ if hasattr(value, "items"):
            return dict(value.items())
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, markup=False, width=WIDE)
