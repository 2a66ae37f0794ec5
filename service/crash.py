"""The places where Relight can be told to die, so that tests kill it at the worst moments. No recovery lives here.

`RELIGHT_CRASH_AT=intake.after_commit:3` ends this process with SIGKILL when it passes that place for the third time.
"""

import os
import signal

from service.errors import Misconfigured

VARIABLE = "RELIGHT_CRASH_AT"

NAMES = {
    "intake.before_commit": "a batch is decided and nothing of it is written",
    "intake.after_commit": "a batch is written and its deliveries are not acknowledged",
    "intake.after_ack": "a batch is acknowledged and its notifications may not be sent",
    "outbox.before_publish": "outbox rows are read and nothing of them is sent",
    "outbox.after_confirm": "the broker confirmed notifications and their rows still stand in the outbox",
    "outbox.after_delete": "sent rows are deleted",
    "runner.after_claim": "a step is claimed and its action has not begun",
    "runner.after_effect": "a step's effect happened and is not recorded",
    "runner.after_record": "a step's result is recorded and intake has not seen it",
    "owner.after_acquire": "a shard's lease is taken and nothing is consumed yet",
    "owner.after_release": "a shard's lease is given up and the process still runs",
}
"""Every place by name, with what is true there."""


def parse(text: str | None) -> tuple[str, int] | None:
    """`name:n` as name and passage (counted from 1; `:1` may be left out). Raises Misconfigured for anything else."""
    if not text:
        return None
    name, _, number = text.partition(":")
    problems = []
    if name not in NAMES:
        problems.append(f"{VARIABLE}={text}: there is no crash point {name!r}; there are: {', '.join(NAMES)}")
    if number and not (number.isascii() and number.isdigit() and int(number) > 0):
        problems.append(f"{VARIABLE}={text}: the passage {number!r} is not a number from 1")
    if problems:
        raise Misconfigured(tuple(problems))
    return name, int(number or 1)


_armed: tuple[str, int] | None = None
_passed = 0


def arm(text: str | None) -> None:
    """Says where to die; None or empty: nowhere. Raises Misconfigured when the place is not declared."""
    global _armed, _passed  # one process dies once: this is state of the process, not of an object
    _armed, _passed = parse(text), 0


def crash_point(name: str) -> None:
    """Dies here if this is the armed place and passage; otherwise costs one comparison."""
    if _armed is not None:
        _pass(name, *_armed)


def _pass(name: str, armed: str, at: int) -> None:
    global _passed  # noqa: PLW0603  # see `arm`
    if name not in NAMES:
        raise KeyError(f"the crash point {name!r} is not declared in {__name__}")
    if name == armed:
        _passed += 1
        if _passed == at:
            os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE))
