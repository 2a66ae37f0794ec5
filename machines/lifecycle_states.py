"""The states of the lifecycle: their steps, their waits, and what is said and done in each.

Where the machine goes from them stands in `lifecycle.py`. Nothing here does I/O or reads a clock.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from machines.evidence import record
from machines.lifecycle_authority import asked_for_approval
from machines.model import Each, State, Step
from schemas.base import Json
from schemas.components import Command, OnSilence
from schemas.system import System


class At(StrEnum):
    UNOBSERVED = "unobserved"
    OPERATIONAL = "operational"
    AWAITING_APPROVAL = "preparing_for_restart.awaiting_approval"
    NOTIFYING = "preparing_for_restart.notifying"
    AWAITING_QUIET = "preparing_for_restart.awaiting_quiet"
    PRESERVING = "preparing_for_restart.preserving"
    RESUMING = "preparing_for_restart.resuming"
    SHUTTING_DOWN = "shutting_down"
    INITIALIZING = "starting_up.initializing"
    VERIFYING = "starting_up.verifying"
    RESTORING = "starting_up.restoring"
    DEGRADED = "degraded"
    LEAVING = "degraded.resuming"
    HALTED = "halted"
    LOST = "halted.database_lost"


BEFORE_PAUSE = (At.AWAITING_APPROVAL, At.NOTIFYING, At.AWAITING_QUIET)
BEFORE_NO_RETURN = (*BEFORE_PAUSE, At.PRESERVING)
AFTER_NO_RETURN = (At.SHUTTING_DOWN, At.INITIALIZING, At.VERIFYING, At.RESTORING)

PRUNING = timedelta(minutes=1)
"""How long deleting the backups of one database that are too old may take; what is left is deleted the next time."""

OBSERVING = timedelta(minutes=5)
"""How long the first look at a system may take; looking changes nothing, so giving up costs nothing."""

TELLING = timedelta(minutes=10)
"""How long after the announced time the notice and the baseline may still take before the restart is given up."""

ASKED_AGAIN = 2
"""How many more answers are waited for from a component that has to be told three times."""

GRACE = timedelta(minutes=1)
"""Added to every limit of the system's file: the last retry and the bookkeeping around it still fit in."""


def _answered(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return now + (system.allow.approve.within if system.allow.approve is not None else timedelta(0))


def _announced(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    due = record(data, "restart").get("due")  # as `note_restart` has it: never sooner than the notice
    return datetime.fromisoformat(due) if isinstance(due, str) else now + system.restart.notice.lead


def _announced_at_the_latest(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return _announced(system, data, now) + TELLING + _backing_up(system, "before_pause")


def _quiet(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    """What `note_waiting` remembered, so that the text which names who is in the way says the same."""
    by = record(data, "restart").get("quiet_by")
    return datetime.fromisoformat(by) if isinstance(by, str) else now + system.restart.limits.critical


def _backing_up(system: System, when: str) -> timedelta:
    """What the backups may take where they are made then: each is made, verified and restored in a test, and what is
    too old is deleted."""
    backup = system.restart.backup
    if backup is None or backup.when != when:
        return timedelta(0)
    return (backup.within * 3 + PRUNING) * len(system.backed_up)


def _preserved(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    """Each database is drained, what participants hold is flushed. The pause is renewed for as long as that takes."""
    restart, count = system.restart, len(system.components)
    drain = restart.limits.drain * (1 + len(system.databases))
    return now + drain + restart.answer_within * count + _backing_up(system, "after_flush") + GRACE


def _resumed(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    restart = system.restart
    return now + restart.answer_within * (len(system.components) + ASKED_AGAIN) + restart.limits.verify + GRACE


def _let_go(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return now + system.restart.answer_within * (len(system.components) + ASKED_AGAIN) + GRACE


def _stopped(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return now + system.restart.limits.stop * len(system.components) + GRACE


def _started(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return now + system.restart.limits.start * len(system.components) + GRACE


def _verified(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    # A soak in which something failed begins once more.
    return now + system.restart.limits.verify + system.restart.soak * 2 + GRACE


def _restored(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    pruning = PRUNING * len(system.backed_up) if _prunes_after(system) else timedelta(0)
    return now + system.restart.answer_within * len(system.components) + pruning + GRACE


def _for_whom(severity: str, occasion: str, delivery: str = "best_effort") -> Mapping[str, Json]:
    """What `notice.tell` is told: whom (the channels of a severity), about what, and whether somebody must hear it."""
    return {"severity": severity, "occasion": occasion, "delivery": delivery}


def _asking(system: System) -> Mapping[str, Json]:
    return _for_whom("warning", "asked")


def _planned(system: System) -> Mapping[str, Json]:
    return _for_whom("warning", "planned", system.restart.notice.delivery)


def _given_up(system: System) -> Mapping[str, Json]:
    return _for_whom("warning", "given_up")


def _up_again(system: System) -> Mapping[str, Json]:
    return _for_whom("info", "up_again")


def _calling(system: System) -> Mapping[str, Json]:
    return _for_whom("critical", "called", "required")


# Of a resting state, and no way depends on it: it is tried for some minutes, and its failure is recorded.
CALL = Step("call", "notice.tell", attempts=8, optional=True, arguments=_calling)


# The page of the run; that it could not be written holds up nobody, and `relight report` makes it anew.
REPORT = Step("report", "report.write", attempts=3, optional=True)


def _backup_before(system: System) -> bool:
    return system.restart.backup is not None and system.restart.backup.when == "before_pause"


def _backup_after(system: System) -> bool:
    return system.restart.backup is not None and system.restart.backup.when == "after_flush"


def _prunes_before(system: System) -> bool:
    return _backup_before(system) and system.restart.backup is not None and system.restart.backup.keep != "all"


def _prunes_after(system: System) -> bool:
    return _backup_after(system) and system.restart.backup is not None and system.restart.backup.keep != "all"


def knows_critical(system: System) -> bool:
    """Whether the system's file says how to tell that a critical operation is in progress."""
    return bool(system.restart.critical)


def _soaks(system: System) -> bool:
    return system.restart.soak > timedelta(0)


def _gated(system: System) -> bool:
    return system.gate is not None


# Whatever still waits, and what comes until then, goes on when a state is entered in which operations pass.
RELEASE = Step(
    "release", "gate.release", timeout=timedelta(seconds=10), attempts=3, optional=True, when=_gated
)  # fmt: skip


def _pause_arguments(system: System) -> Mapping[str, Json]:
    return {"lease": system.restart.pause_lease.total_seconds()}


def _renewal_arguments(system: System) -> Mapping[str, Json]:
    return {**_pause_arguments(system), "renews": True}


def _started_paused(system: System) -> Mapping[str, Json]:
    return {"paused": True}


# A participant ends its pause by itself when nobody renews it. Whoever cannot be asked may work again by now, whatever
# its file says of silence.
RENEW = Step(
    "renew", "participant.renew", Each.COMPONENT_REVERSED, takes=Command.PAUSE, every="renew_every",
    limit="renewed_within", attempts=20, asks_again=True, arguments=_renewal_arguments, on_silence=OnSilence.ABORT,
)  # fmt: skip


STATES = (
    State(
        At.UNOBSERVED,
        deadline=OBSERVING,
        then="call it degraded",
        steps=(Step("observe", "component.observe", Each.COMPONENT, keep=True, attempts=3),),
    ),
    State(At.OPERATIONAL, resting=True, passes=True),
    State(
        At.AWAITING_APPROVAL,
        deadline=_answered,
        then="do what allow.approve says of silence",
        steps=(Step("ask", "notice.tell", attempts=3, optional=True, arguments=_asking),),
        asks=asked_for_approval,
        passes=True,
    ),
    State(
        At.NOTIFYING,
        dwell=_announced,
        deadline=_announced_at_the_latest,
        then="give the restart up and resume",
        steps=(
            Step("tell", "notice.tell", attempts=3, arguments=_planned),
            # What was broken before must not be blamed on the restart, nor may it prevent one that would mend it.
            Step("baseline", "check.run", Each.CHECK, limit="verify", optional=True),
            # Inside the lead time, not inside the downtime; the pause waits for them.
            Step("backup", "postgres.backup", Each.BACKUP, limit="backup", attempts=2, when=_backup_before),
            Step(
                "verify_backup", "postgres.verify_backup", Each.BACKUP, limit="backup", attempts=2, when=_backup_before
            ),
            Step("restore_test", "postgres.restore_test", Each.BACKUP, limit="backup", attempts=2, when=_backup_before),
            Step("prune", "postgres.prune", Each.BACKUP, timeout=PRUNING, optional=True, when=_prunes_before),
        ),
        # Nothing is paused during the notice: who has work for the system need not wait yet.
        passes=True,
    ),
    # The last moment at which work may still begin; what is in progress is waited for, and ended by nobody.
    State(
        At.AWAITING_QUIET,
        deadline=_quiet,
        then="give the restart up and resume",
        steps=(Step("interlock", "check.critical", limit="critical", attempts=100),),
        passes=True,
        when=knows_critical,
    ),
    State(
        At.PRESERVING,
        deadline=_preserved,
        then="abort and resume",
        steps=(
            # Turning back costs nothing yet: what must not be stopped, or is another server, is found here.
            Step("identify", "identity.check", attempts=3),
            Step(
                "pause", "participant.pause", Each.COMPONENT_REVERSED, takes=Command.PAUSE,
                limit="answer_within", attempts=3, arguments=_pause_arguments,
            ),
            RENEW,
            # Each attempt is a look of growing length that ends with a message; all together take the limit.
            Step("drain", "postgres.drain", Each.DATABASE, limit="drain", attempts=20),
            Step(
                "flush", "participant.flush", Each.COMPONENT_REVERSED, takes=Command.FLUSH, limit="drain", attempts=3
            ),
            Step("backup", "postgres.backup", Each.BACKUP, limit="backup", when=_backup_after),
            Step("verify_backup", "postgres.verify_backup", Each.BACKUP, limit="backup", when=_backup_after),
            Step("restore_test", "postgres.restore_test", Each.BACKUP, limit="backup", when=_backup_after),
            Step("seal", "snapshot.seal", attempts=3),
            Step("verify_snapshot", "snapshot.verify", attempts=3),
        ),
    ),
    State(
        At.RESUMING,
        deadline=_resumed,
        then="call it degraded",
        steps=(
            # Each is told, whatever became of the one before: nobody stays paused because of another.
            Step(
                "resume", "participant.resume", Each.COMPONENT, takes=Command.RESUME, limit="answer_within", attempts=3,
                optional=True, asks_again=True,
            ),
            RELEASE,
            Step("check", "check.run", Each.CHECK, limit="verify", attempts=2, optional=True),
            # Who was told that it comes must hear that it does not.
            Step("tell", "notice.tell", optional=True, arguments=_given_up),
            REPORT,
        ),
    ),
    State(
        At.SHUTTING_DOWN,
        deadline=_stopped,
        then="halt and call a person",
        steps=(
            Step(
                "disconnect", "participant.disconnect", Each.COMPONENT_REVERSED, takes=Command.DISCONNECT,
                limit="answer_within", attempts=2,
            ),
            Step("stop", "component.stop", Each.COMPONENT_REVERSED, limit="stop", attempts=2),
            # Past the point of no return a lapsed pause changes no way: it is recorded, and the component is stopped.
            replace(RENEW, optional=True),
            Step("confirm_stopped", "component.confirm_stopped", attempts=5),
        ),
    ),
    State(
        At.INITIALIZING,
        deadline=_started,
        then="halt and call a person",
        steps=(
            Step(
                "start", "component.start", Each.COMPONENT, limit="start", attempts=3, keep=True,
                arguments=_started_paused, asks_again=True,
            ),
        ),
    ),
    State(
        At.VERIFYING,
        deadline=_verified,
        then="halt and call a person",
        steps=(
            Step("compare", "snapshot.compare", attempts=3),
            Step("check", "check.run", Each.CHECK, limit="verify", attempts=3),
            Step("soak", "check.soak", Each.CHECK, limit="soaking", attempts=2, when=_soaks),
        ),
    ),
    State(
        At.RESTORING,
        deadline=_restored,
        then="halt and call a person",
        steps=(
            # Kept components that were absent were started paused like all others, so all are told.
            Step(
                "resume", "participant.resume", Each.COMPONENT, takes=Command.RESUME, limit="answer_within", attempts=3,
                keep=True, asks_again=True,
            ),
            RELEASE,
            # Nobody is told that it is up, and it is not called so, with a component that died after its own last step.
            Step("confirm_running", "component.confirm_running", Each.COMPONENT, keep=True, attempts=2),
            Step("complete", "notice.tell", attempts=3, arguments=_up_again),
            # Not while the system is down.
            Step("prune", "postgres.prune", Each.BACKUP, timeout=PRUNING, optional=True, when=_prunes_after),
            REPORT,
        ),
    ),
    # Nothing stays paused in silence: whoever ends a start that went wrong leaves components behind that wait for this.
    State(
        At.LEAVING,
        deadline=_let_go,
        then="call it degraded",
        steps=(
            Step(
                "resume", "participant.resume", Each.COMPONENT, takes=Command.RESUME, limit="answer_within", attempts=3,
                keep=True, optional=True, asks_again=True,
            ),
        ),
    ),
    State(At.DEGRADED, resting=True, passes=True, steps=(CALL,)),
    State(At.HALTED, resting=True, steps=(CALL,)),
    # What was being done is known no more. Looking changes nothing, and tells a person what there is to adopt.
    State(
        At.LOST,
        resting=True,
        steps=(Step("look", "component.observe", Each.COMPONENT, keep=True, attempts=3, optional=True), CALL),
    ),
)  # fmt: skip
