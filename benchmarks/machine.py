"""The machine that figures were taken on, so that they can be read next to others. Looks, and changes nothing."""

import os
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.ground import Ground

WRITES = 60
"""Synced writes of which the median is taken."""


async def describe(ground: Ground) -> dict[str, Any]:
    """Processor, memory, disk, versions; `load` is what others were doing when the run began."""
    rabbit = (await ground.rabbit.ctl("version")).strip()
    return {
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "fsync_ms": round(_fsync(ground.folder), 3),
        "system": f"{platform.system()} {platform.release()}",
        "distribution": _distribution(),
        "python": platform.python_version(),
        "postgresql": (await ground.postgres.sql("SHOW server_version")).strip(),
        "rabbitmq": rabbit,
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _distribution() -> str:
    try:
        return str(platform.freedesktop_os_release().get("PRETTY_NAME", ""))
    except OSError:
        return ""


def _fsync(folder: Path) -> float:
    """Median milliseconds of writing 8 kB and syncing it, on the disk that the servers are on."""
    file, took = folder / "fsync", []
    with file.open("wb") as opened:
        for _ in range(WRITES):
            began = time.perf_counter()
            opened.write(b"x" * 8192)
            opened.flush()
            os.fdatasync(opened.fileno())
            took.append(1000 * (time.perf_counter() - began))
    file.unlink()
    return statistics.median(took)
