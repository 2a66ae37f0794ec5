"""Runs Relight's own command line and looks, each millisecond of its CPU time, where it is: for the profile only.

`python -m benchmarks.sampling serve --systems PATH` looks from SIGUSR1 to SIGUSR2, so that its start is not in the
picture, and writes what it saw to the file that BENCH_SAMPLES names.
"""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from benchmarks.child import ROOT

EVERY = 0.001
"""Seconds of CPU time between two looks; the kernel may make it four times that."""

OURS = ("service/", "machines/", "schemas/")


class Sampler:
    """Counts, by function, who was at work; and by our own function, who had it done."""

    def __init__(self) -> None:
        self.inner: Counter[str] = Counter()
        self.ours: Counter[str] = Counter()
        self.total = 0

    def look(self, _: int, frame: FrameType | None) -> None:
        """The handler of the timer's signal."""
        self.total += 1
        if frame is None:
            return
        self.inner[_name(frame)] += 1
        at: FrameType | None = frame
        while at is not None:
            name = _name(at)
            if name.startswith(OURS):
                self.ours[name] += 1
                return
            at = at.f_back
        self.ours["(the event loop and libraries)"] += 1

    def write(self, path: Path) -> None:
        """As JSON, the most frequent first."""
        path.write_text(
            json.dumps({"total": self.total, "inner": self.inner.most_common(), "ours": self.ours.most_common()})
        )


def _name(frame: FrameType) -> str:
    """`service/engine/work.py Work.append`; of a library only its package and file."""
    code = frame.f_code
    file = code.co_filename.removeprefix(f"{ROOT}/")
    if "site-packages/" in file:
        file = file.split("site-packages/", 1)[1]
    elif "/lib/python" in file:
        file = file.rsplit("/lib/python", 1)[1].split("/", 1)[1]
    return f"{file} {code.co_qualname}"


def _pace(every: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, every, every)


def main() -> None:
    """The command line, watched."""
    sampler = Sampler()
    signal.signal(signal.SIGPROF, sampler.look)
    signal.signal(signal.SIGUSR1, lambda *_: _pace(EVERY))
    signal.signal(signal.SIGUSR2, lambda *_: _pace(0.0))
    from service.cli.main import run

    try:
        status = run()
    finally:
        sampler.write(Path(os.environ["BENCH_SAMPLES"]))
    sys.exit(status)


if __name__ == "__main__":
    main()
