"""The small process that stands over one component: starts it once, keeps its log short, writes how it ended.

Run as `python -m service.adapters.processes.supervisor FOLDER` with the order as one JSON object on standard input
(command, environment, folder), so that no secret stands in an argument list. It answers with one JSON line on standard
output once the process exists, or with the reason why it does not. Standard library only, one thread: it forks.

Relight may be killed at any moment, and so may this process:
- it is in a session of its own and its parent is gone: nothing that ends Relight ends it;
- looking and starting happen under one file lock, so two starts at once give one process;
- a process that was told to end is not adopted: it would be gone a moment later;
- the child waits on a pipe until its pid and start time are on disk, and ends when the pipe closes before: there is
  never a component that nobody knows of;
- the child writes into its log file by itself: a killed supervisor leaves it running, and it is found by its record.
"""

import contextlib
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from service.adapters.processes.record import LOCK, LOG, Record, boot, is_ending, read, runs, start_time, write
from service.crash import crash_point

LOG_BYTES = 8 * 1024 * 1024
"""Bytes of a log before it is copied to `output.log.1` and begun anew; lines written during the copy may be lost."""
LOOK_AT_LOG = 5.0
"""Seconds between two looks at the size of the log."""
WITHOUT_PIDFD = 0.05
"""Seconds between two looks at the child on kernels that cannot be asked to wait for it."""


def main() -> int:
    """Reads the order, detaches, starts, answers, stands by until the end. Exit status 0, or 1 if nothing started."""
    folder = Path(sys.argv[1])
    order = json.loads(sys.stdin.buffer.read())
    os.setsid()
    # Forked once more: an orphan belongs to init, so that no zombie of it is left to Relight.
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with (folder / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read(folder)
        if known is not None and runs(known):
            ending = is_ending(folder, known)
            _answer({"pid": known.pid, "started": known.started, "adopted": not ending, "ending": ending})
            return 0
        crash_point("supervisor.before_fork")
        try:
            record = _start(folder, order)
        except OSError as error:
            _answer({"error": f"{os.strerror(error.errno or 0)}: {error.filename or order['command'][0]}"})
            return 1
    _answer({"pid": record.pid, "started": record.started, "adopted": False})
    status = _stand_by(folder, record)
    crash_point("supervisor.before_status")
    if (now := read(folder)) is not None and (now.pid, now.started) == (record.pid, record.started):
        write(folder, Record(**{**vars(record), "ended": _now(), "exit_status": status}))
    return 0


def _start(folder: Path, order: dict[str, object]) -> Record:
    """Forks the component and lets it go once it is on record. Raises OSError when the program cannot be run."""
    command, environment, where = order["command"], order["environment"], str(order["folder"])
    assert isinstance(command, list) and isinstance(environment, dict)  # noqa: S101, PT018  # our own sender's shape
    os.chdir(where)
    log = folder / LOG
    go_read, go_write = os.pipe()
    failed_read, failed_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        os.close(failed_read)
        _become(command, environment, log, go_read, failed_write)
    os.close(go_read)
    os.close(failed_write)
    crash_point("supervisor.after_fork")
    started = start_time(pid)
    record = Record(str(order["name"]), pid, started or 0, boot(), os.getpid(), str(log), _now())
    write(folder, record)
    crash_point("supervisor.after_record")
    os.write(go_write, b"!")
    os.close(go_write)
    with os.fdopen(failed_read, "rb") as failed:
        number = failed.read()
    if number:
        os.waitpid(pid, 0)
        write(folder, Record(**{**vars(record), "ended": _now(), "exit_status": 127}))
        raise OSError(int(number), "", command[0])
    crash_point("supervisor.after_leave")
    return record


def _become(command: list[str], environment: dict[str, str], log: Path, go: int, failed: int) -> None:
    """The child: waits for its leave, then is the component. Never returns."""
    try:
        os.setsid()
        if os.read(go, 1) != b"!":
            os._exit(126)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for number in (signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(command[0], command, environment)  # noqa: S606  # an argument list, never a shell
    except OSError as error:
        os.write(failed, str(error.errno or errno.EINVAL).encode())
    finally:
        os._exit(127)


def _stand_by(folder: Path, record: Record) -> int:
    """Waits for the end and keeps the log short meanwhile. The exit status, negative for a signal."""
    with contextlib.ExitStack() as stack:
        try:
            pidfd = os.pidfd_open(record.pid)
            stack.callback(os.close, pidfd)
        except (OSError, AttributeError):
            pidfd = -1
        while True:
            pid, status = os.waitpid(record.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            _rotate(folder / LOG)
            if pidfd >= 0:
                select.select([pidfd], [], [], LOOK_AT_LOG)
            else:
                select.select([], [], [], WITHOUT_PIDFD)


def _rotate(log: Path) -> None:
    # Copied and cut rather than renamed: the component keeps its file open and appends.
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def _answer(line: dict[str, object]) -> None:
    """One line, and then standard output is closed: whoever asked may be gone already."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(line).encode() + b"\n")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


def _now() -> str:
    return datetime.now(UTC).isoformat()


if __name__ == "__main__":
    sys.exit(main())
