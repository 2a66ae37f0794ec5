"""The real command line whose wall clock is off by as many seconds as a file says at the moment of each look.

Run as a program: `python -m tests.faults.clocked serve …`. Relight takes its time from the Clock port, so this is a
wall clock that was set, without a change to the machine's; PostgreSQL's and the monotonic clock stay right.
"""

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

from service.cli.main import run
from service.clock import SystemClock

VARIABLE = "CLOCK_IS_OFF_BY"
"""The environment variable that names the file, which holds seconds."""

_right = SystemClock.now


def _off(self: SystemClock) -> datetime:
    return _right(self) + timedelta(seconds=float(Path(os.environ[VARIABLE]).read_text()))


if __name__ == "__main__":
    SystemClock.now = _off  # type: ignore[method-assign]  # exactly this is what the program is for
    sys.exit(run())
