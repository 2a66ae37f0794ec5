"""Processes that look like a component and were not started here: found, so that nobody starts a second copy.

Alike are the argument list (of the program only its name, without a version: `python3.11` is `python`) and the working
folder. Nothing is touched.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import psutil

_VERSION = re.compile(r"[\d.]+$")


def alike(command: Sequence[str], folder: str, found: Sequence[str], where: str | None) -> bool:
    """Whether a process with the argument list `found` in the folder `where` is a copy of what `command` would start.

    A script is run by the interpreter of its first line, which then stands before it.
    """
    if where is None or not command or os.path.realpath(where) != os.path.realpath(folder):
        return False
    return any(_same(command, words) for words in (found, found[1:]))


def strangers(name: str, command: Sequence[str], folder: str, known: int | None) -> tuple[int, ...]:
    """The pids of look-alikes, lowest first: what another Relight or a person started as this very component.

    Not among them: this process, the children of such a process, what is in the session of the pid `known` (what our
    own last run left), and what Relight started under another name.
    """
    found: dict[int, int] = {}
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or not alike(command, folder, process.cmdline(), _folder(process)):
                continue
            if process.status() == psutil.STATUS_ZOMBIE or (known is not None and os.getsid(process.pid) == known):
                continue
            if _another(process, name):
                continue
            found[process.pid] = process.ppid()
        except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, PermissionError):
            continue
    return tuple(sorted(pid for pid, parent in found.items() if parent not in found))


def _same(command: Sequence[str], found: Sequence[str]) -> bool:
    return bool(found) and _program(command[0]) == _program(found[0]) and list(command[1:]) == list(found[1:])


def _program(path: str) -> str:
    name = PurePosixPath(path).name
    return _VERSION.sub("", name) or name


def _folder(process: psutil.Process) -> str | None:
    try:
        return str(Path(process.cwd()))
    except (psutil.AccessDenied, OSError):
        return None


def _another(process: psutil.Process, name: str) -> bool:
    """Whether it says of itself that a Relight started it as another component."""
    try:
        given = process.environ()
    except (psutil.AccessDenied, OSError):
        return False
    whole = f"{given.get('RELIGHT_SYSTEM', '')}.{given.get('RELIGHT_COMPONENT', '')}"
    return whole not in (".", name)
