"""Finds the processes that belong to a folder, by what Linux says of them. Ends nothing."""

import contextlib
import os
from pathlib import Path

from service.embedded.processes import alive


def below(folder: Path) -> dict[int, str]:
    """Processes (not this one) that work in `folder` or have it in their arguments: pid to the command line.

    Needs /proc, and sees only what this user may see: processes of the user, all of them for root.
    """
    wanted = os.fsencode(folder.resolve())
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            pid = int(entry.name)
            arguments = Path(entry.path, "cmdline").read_bytes()
            inside = os.fsencode(Path(entry.path, "cwd").readlink())
            mine = wanted in (argument[: len(wanted)] for argument in arguments.split(b"\0")) or wanted == inside
            if (mine or inside.startswith(wanted + b"/")) and alive(pid):
                found[pid] = arguments.replace(b"\0", b" ").decode(errors="replace").strip()
    return found
