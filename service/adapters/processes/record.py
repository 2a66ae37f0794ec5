"""What is written down about a supervised process, and whether it still runs. Standard library only: the supervisor
starts with it, and it must start fast.

A process is named by three numbers, never by its pid alone: the machine's boot, the pid, and its start time in clock
ticks since boot (/proc/PID/stat field 22, see proc_pid_stat(5)). The kernel gives a pid again, but not all three.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

STATE = "state.json"
LOCK = "start.lock"
LOG = "output.log"


@dataclass(frozen=True)
class Record:
    """The last run of a process. `exit_status` (negative: the signal) once its supervisor saw the end, `ended` then.

    `begun` and `ended` are ISO 8601 in UTC, for people.
    """

    name: str
    pid: int
    started: int
    boot: str
    supervisor: int
    log: str
    begun: str
    ended: str | None = None
    exit_status: int | None = None


def boot() -> str:
    """This boot of the machine; start times count from it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of `pid`, or None when it is gone or only a zombie is left of it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in brackets may hold spaces and brackets of its own: fields are counted after the last one.
    rest = stat.rpartition(b")")[2].split()
    return None if rest[0] in (b"Z", b"X") else int(rest[19])


def runs(record: Record) -> bool:
    """Whether the very process of the record is there."""
    return record.ended is None and record.boot == boot() and start_time(record.pid) == record.started


def read(folder: Path) -> Record | None:
    """The record in `folder`; None when nothing was ever started there. Fields of a newer version are passed over."""
    try:
        raw = json.loads((folder / STATE).read_text())
    except FileNotFoundError:
        return None
    known = {field.name for field in fields(Record)}
    return Record(**{key: value for key, value in raw.items() if key in known})


def write(folder: Path, record: Record) -> None:
    """Whole or not at all, and on disk: a crash of the machine leaves the old record or the new one."""
    aside = folder / f"{STATE}.{os.getpid()}"
    with aside.open("w") as file:
        json.dump(asdict(record), file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / STATE)
