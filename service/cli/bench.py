"""`relight bench`: runs what stands in `benchmarks/` of the checkout, and shows its result."""

import asyncio
import time
from typing import TYPE_CHECKING

from service.cli.console import Screen
from service.cli.ending import Signals, Told
from service.errors import RelightError
from service.settings import Settings

if TYPE_CHECKING:
    from benchmarks.sizes import Sizes


def bench(settings: Settings, screen: Screen, size: str, as_json: bool, write: bool) -> int:
    """0 when everything was measured, whatever the figures; 1 when it was told to end. Raises RelightError."""
    try:
        from benchmarks import report, sizes, writing
        from benchmarks.run import bench as perform
    except ImportError as error:
        raise RelightError(
            f"the benchmark belongs to a checkout of Relight and is not installed here ({error}); nothing was measured"
        ) from error
    if (why := writing.refused(size)) is not None and write:
        raise RelightError(why)
    chosen: Sizes = getattr(sizes, size.upper())
    began = time.monotonic()

    def say(text: str) -> None:
        screen.note(f"{time.monotonic() - began:6.0f}s  {text}")

    signals = Signals(
        lambda: screen.note("relight: ending the measurement and its servers; nothing was written"),
        lambda: screen.note("relight: already ending; a moment"),
    )
    signals.listen()
    with asyncio.Runner() as runner:
        try:
            found = signals.run(runner, perform(settings.servers.home / "bench", chosen, say, profiled=write))
        except Told:
            return 1
    if as_json:
        screen.json({part: found[part] for part in ("figures", "ratios", "machine")})
    else:
        screen.say(report.title(found))
        screen.table(report.COLUMNS, report.rows(found))
    if write:
        for path in writing.write(found):
            screen.note(f"wrote {path}")
    return 0
