"""Runs one of the example's programs as it is and writes down when its process began and ended. It judges nothing.

`python witness.py metrics.calculator`, in the example's folder; WITNESS names the file of the lines. While the file
that FALSIFY names exists, whatever the calculator flushed is changed by a stranger's hand before it is answered.
"""

import fcntl
import importlib
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def note(what: str) -> None:
    """One line: which component's process, by pid and start time, began or ended, and how it was started."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    line = {
        "component": os.environ["RELIGHT_COMPONENT"],
        "what": what,
        "pid": os.getpid(),
        "started": started,
        "how": os.environ.get("RELIGHT_START"),
        "state": os.environ.get("RELIGHT_STATE"),
        "at": time.time(),
    }
    with Path(os.environ["WITNESS"]).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(line) + "\n")


def falsify(switch: Path) -> None:
    """From now on, while `switch` exists, a flushed file is altered after it is written and before that is answered."""
    participant: Any = importlib.import_module("metrics.participant").Participant
    send = participant._send

    async def altered(self: Any, events: Any, commandid: str) -> None:
        where = self._unsent[commandid].get("where")
        if where and switch.exists():
            path = Path(unquote(urlsplit(where).path))
            path.write_bytes(path.read_bytes() + b" ")
        await send(self, events, commandid)

    participant._send = altered


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    sys.argv = sys.argv[1:]
    if switch := os.environ.get("FALSIFY"):
        falsify(Path(switch))
    note("began")
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    finally:
        note("ended")
