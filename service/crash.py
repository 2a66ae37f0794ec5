"""The places where Relight can be told to die, so that tests kill it at the worst moments. No recovery lives here.

`RELIGHT_CRASH_AT=intake.after_commit:3` ends this process with SIGKILL when it passes that place for the third time.
Several places are separated by commas; the first that is reached ends it. Where nothing is armed, a place costs one
look at an empty mapping (30 ns). Standard library only: a component's supervisor has such places, and must start fast.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from service.errors import Misconfigured

VARIABLE = "RELIGHT_CRASH_AT"
SUPERVISOR = "supervisor."
"""How the places in a supervisor begin: of `name:n` the n-th supervisor that this process starts is told to die."""
LAST_WORDS = "relight: killed at the crash point {name}"
"""On standard error just before: whoever tests reads there that it was this place and no other."""


@dataclass(frozen=True, slots=True)
class Point:
    """One place: the file it is in, and what stands and what does not when the process dies there."""

    where: str
    stands: str
    missing: str


_INTAKE, _OUTBOX, _OWNER = "service/engine/intake.py", "service/engine/outbox.py", "service/engine/owner.py"
_RUNNER, _PERFORMING, _APP = "service/engine/runner.py", "service/engine/performing.py", "service/app.py"
_PROCESSES, _SUPERVISOR = "service/adapters/processes/local.py", "service/adapters/processes/supervisor.py"
_ASKING, _TELLING = "service/steps/asking.py", "service/steps/participants.py"
_COMMANDS, _FILES = "service/adapters/rabbitmq/commands.py", "service/adapters/files.py"

POINTS: Mapping[str, Point] = {
    "intake.after_read": Point(_INTAKE, "what arrived, signals and due times are read", "nothing of it is decided"),
    "intake.after_count": Point(_INTAKE, "a redelivered event's attempt is counted", "it is not tried yet"),
    "intake.before_commit": Point(_INTAKE, "a batch is decided in memory", "nothing of it is written"),
    "intake.after_write": Point(_INTAKE, "a batch is written", "the outbox in memory does not know of its rows"),
    "intake.after_commit": Point(_INTAKE, "a batch is written", "its deliveries are not acknowledged"),
    "intake.after_ack": Point(_INTAKE, "a batch is acknowledged", "its notifications may not be sent"),
    "timers.after_read": Point(_INTAKE, "due times that have come are read", "nothing has followed from them"),
    "timers.after_commit": Point(_INTAKE, "what follows from a due time is written", "nobody was told"),
    "outbox.after_read": Point(_OUTBOX, "unsent rows are read from the table", "none of them is sent"),
    "outbox.before_publish": Point(_OUTBOX, "rows stand in the outbox's memory and table", "nothing of them is sent"),
    "outbox.after_confirm": Point(_OUTBOX, "the broker confirmed notifications", "their rows still stand unsent"),
    "outbox.after_second_way": Point(
        _OUTBOX, "a row that the exchange refused is in the status log", "it is not marked undelivered"
    ),
    "outbox.after_delete": Point(_INTAKE, "sent rows are deleted", "nothing else"),
    "runner.after_claim": Point(_RUNNER, "a step is claimed", "its action has not begun"),
    "runner.after_renew": Point(_RUNNER, "a claim is prolonged", "its action has not ended"),
    "runner.after_effect": Point(_PERFORMING, "a step's effect happened", "it is not recorded"),
    "runner.after_record": Point(_PERFORMING, "what became of a step is recorded", "intake has not seen it"),
    "runner.after_retry": Point(_PERFORMING, "a failed attempt is recorded", "the next one has not begun"),
    "runner.after_wait": Point(_PERFORMING, "a step has given its claim up for an answer", "the answer is not there"),
    "runner.before_let_go": Point(_RUNNER, "a step that was taken away has ended", "its claim still stands"),
    "runner.after_let_go": Point(_RUNNER, "the claim of a step that was taken away is given up", "nothing followed"),
    "owner.after_acquire": Point(_OWNER, "a shard's lease is taken", "nothing is consumed yet"),
    "owner.after_open": Point(_OWNER, "a new owner consumes", "nothing of it is taken up, and no old row is sent"),
    "owner.after_renew": Point(_OWNER, "a shard's lease is prolonged", "its owner does nothing more with it"),
    "owner.before_release": Point(_OWNER, "the channels of a shard are closed", "its lease still stands"),
    "owner.after_release": Point(_OWNER, "a shard's lease is given up", "the process has not ended"),
    "serve.after_keep": Point(_APP, "the systems' configurations are kept", "no queue is declared"),
    "serve.after_declare": Point(_APP, "queues are declared and bound", "nobody strives for a shard"),
    "serve.after_register": Point(_APP, "the systems are announced as signals", "nobody has read them"),
    "processes.after_order": Point(_PROCESSES, "a supervisor has its order", "whether it started anything is unknown"),
    "processes.after_note": Point(_PROCESSES, "it is on record that a component is told to end", "it is not told"),
    "processes.after_signal": Point(_PROCESSES, "a component was sent a signal", "that it was is not recorded"),
    "supervisor.before_fork": Point(_SUPERVISOR, "a supervisor holds the lock", "nothing is started"),
    "supervisor.after_fork": Point(_SUPERVISOR, "a component is forked and waits for its leave", "it is on no record"),
    "supervisor.after_record": Point(_SUPERVISOR, "a forked component is on record", "it has no leave to begin"),
    "supervisor.after_leave": Point(_SUPERVISOR, "a component runs", "nobody told Relight"),
    "supervisor.before_status": Point(_SUPERVISOR, "a component has ended", "its exit status is not written down"),
    "participant.after_program": Point(_ASKING, "a participant's program has ended", "its answer is not read"),
    "participant.after_read_back": Point(_TELLING, "what was flushed was read back", "it is not recorded"),
    "commands.before_publish": Point(_COMMANDS, "a command is ready", "the broker does not have it"),
    "commands.after_confirm": Point(_COMMANDS, "the broker has a command", "that an answer is awaited is not recorded"),
    "storage.after_aside": Point(_FILES, "a document is written and synced aside", "its name does not stand for it"),
    "storage.after_publish": Point(_FILES, "a document stands under its name", "no step has recorded it"),
}
"""Every place by name."""


def parse(text: str | None) -> dict[str, int]:
    """`name:n,…` as passages by name (counted from 1; `:1` may be left out). Raises Misconfigured for anything else."""
    found: dict[str, int] = {}
    problems = []
    for part in (text or "").split(","):
        name, _, number = part.partition(":")
        if name not in POINTS and part:
            problems.append(f"{VARIABLE}={text}: there is no crash point {name!r}; there are: {', '.join(POINTS)}")
        if number and not (number.isascii() and number.isdigit() and int(number) > 0):
            problems.append(f"{VARIABLE}={text}: the passage {number!r} is not a number from 1")
        elif part:
            found[name] = int(number or 1)
    if problems:
        raise Misconfigured(tuple(problems))
    return found


_armed: dict[str, int] = {}
_supervisors = 0
_listener: Callable[[str], None] | None = None


def arm(text: str | None) -> None:
    """Says where to die; None or empty: nowhere. Raises Misconfigured when a place is not declared."""
    global _armed, _supervisors  # a process dies once: this is state of the process, not of an object
    _armed, _supervisors = parse(text), 0


def crash_point(name: str) -> None:
    """Dies here if this is an armed place and passage."""
    if _armed:
        _pass(name)


@contextlib.contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside the block each place that is passed is told to `listener`, and nothing dies: for simulations, where this
    process is not the one that has to."""
    global _armed, _listener  # see `arm`
    before = _armed, _listener
    _armed, _listener = dict.fromkeys(POINTS, 0), listener
    try:
        yield
    finally:
        _armed, _listener = before


def for_supervisor() -> dict[str, str]:
    """What the environment of the next supervisor needs so that it dies where this process was told that it should."""
    global _supervisors  # noqa: PLW0603  # see `arm`
    _supervisors += 1
    due = [name for name, at in _armed.items() if name.startswith(SUPERVISOR) and at == _supervisors]
    return {VARIABLE: ",".join(due)} if due else {}


def _pass(name: str) -> None:
    if name not in POINTS:
        raise KeyError(f"the crash point {name!r} is not declared in {__name__}")
    if _listener is not None:
        _listener(name)
        return
    if name in _armed:
        _armed[name] -= 1
        if _armed[name] == 0:
            with contextlib.suppress(OSError):
                os.write(2, f"{LAST_WORDS.format(name=name)}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE))
