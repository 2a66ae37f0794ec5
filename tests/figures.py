"""What tests count and measure beside passing: gathered from all workers, shown at the end, and written as JSON.

A test notes figures with the fixture `figures`; nothing is asserted by them. Seconds are shown as medians.
"""

import json
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests import sizes

PROPERTY = "figures"
"""Under this name they travel with a test's report, from a worker to the process that shows them."""
SECONDS = "seconds"


class Noting:
    """What the fixture `figures` is."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self._properties = properties

    def count(self, **counts: int) -> None:
        """Adds to counts by name."""
        self._properties.append((PROPERTY, json.dumps(counts)))

    def seconds(self, what: str, measured: Sequence[float]) -> None:
        """Adds measurements of one kind."""
        if measured:
            self._properties.append((PROPERTY, json.dumps({SECONDS: {what: list(measured)}})))


class Gathering:
    """The plugin beside the terminal: sums up what the reports of all tests bring."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.measured: dict[str, list[float]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        for name, value in report.user_properties:
            if name != PROPERTY:
                continue
            found = json.loads(str(value))
            for what, measured in found.pop(SECONDS, {}).items():
                self.measured.setdefault(what, []).extend(measured)
            self.counts.update(found)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        if not self.counts and not self.measured:
            return
        took = time.monotonic() - self._began
        chosen = sizes.now()
        terminalreporter.section(f"figures ({chosen.name})")
        for what, count in sorted(self.counts.items()):
            terminalreporter.write_line(f"{what.replace('_', ' '):<58} {count:>10,}")
        for what, measured in sorted(self.measured.items()):
            few = f"median {statistics.median(measured):7.2f} s   {min(measured):.2f} to {max(measured):.2f}"
            terminalreporter.write_line(f"{what:<58} {few}   ({len(measured)} times)")
        terminalreporter.write_line(f"{'duration':<58} {took:10.0f} s")
        file = self._file()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(self._document(took, exitstatus), indent=1, sort_keys=True) + "\n")
            terminalreporter.write_line(f"written to {file}")

    def _file(self) -> Path | None:
        """Where they are written: where the person said, or in the private folder for a great run."""
        said = self._config.getoption("--figures")
        if said:
            return Path(said).absolute()
        great = sizes.now() is not sizes.EVERYDAY
        return self._config.rootpath / ".relight" / f"figures-{sizes.now().name}.json" if great else None

    def _document(self, took: float, exitstatus: int) -> Mapping[str, Any]:
        return {
            "sizes": asdict(sizes.now()),
            "passed": int(exitstatus) == 0,
            "seconds": round(took, 1),
            "counts": dict(self.counts),
            "measured": {
                what: {
                    "median": round(statistics.median(found), 3),
                    "least": round(min(found), 3),
                    "most": round(max(found), 3),
                    "times": len(found),
                }
                for what, found in self.measured.items()
            },
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        }
