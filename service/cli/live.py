"""Lines on a terminal with the one in the making below them; without a terminal, plain lines only."""

from types import TracebackType
from typing import Self

from rich.live import Live
from rich.text import Text

from service.cli.console import STYLES, Screen, shown
from service.cli.render import Line, Tone


class LiveLines:
    """What `follow` writes to. A context: the line in the making is gone when it ends, however it ends."""

    def __init__(self, screen: Screen, *, quiet: bool = False) -> None:
        """`quiet`: nothing is shown, for a program that only wants the end."""
        self._screen = None if quiet else screen
        self._live: Live | None = None
        if screen.live and not quiet:
            self._live = Live(console=screen.out, transient=True, auto_refresh=False, redirect_stderr=False)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, line: Line) -> None:
        if self._screen is not None:
            self._screen.line(line)

    def pending(self, text: str) -> None:
        if self._live is not None:
            self._live.update(Text(f"{' ' * 11}{shown(text)}" if text else "", STYLES[Tone.QUIET]), refresh=True)
