"""What is written down about a supervised process, and whether it still runs. Standard library only: the supervisor
starts with it, and it must start fast.

A process is named by three numbers, never by its pid alone: the machine's boot, the pid, and its start time in clock
ticks since boot (/proc/PID/stat field 22, see proc_pid_stat(5)). The kernel gives a pid again, but not all three.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

STATE = "state.json"
ENDING = "ending.json"
"""Names the run that was told to end; apart from the record, which its supervisor writes as well."""
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
    _write(folder / STATE, asdict(record))


def note_ending(folder: Path, record: Record) -> None:
    """Writes down, before it is told, that this run was told to end: whatever it still does, it is on its way out."""
    _write(folder / ENDING, _run(record))


def is_ending(folder: Path, record: Record) -> bool:
    """Whether this very run was told to end."""
    try:
        told: object = json.loads((folder / ENDING).read_text())
    except FileNotFoundError:
        return False
    return told == _run(record)


def _run(record: Record) -> dict[str, int | str]:
    return {"pid": record.pid, "started": record.started, "boot": record.boot}


def _write(path: Path, content: Mapping[str, object]) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with aside.open("w") as file:
        json.dump(dict(content), file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
