"""The life of one system: operational, down for a restart, and up again.

Whatever decides where this machine goes next stands in this file. Nothing here does I/O or reads a clock: facts come
in, the table answers. Until the point of no return (the entry of `shutting_down`) failure, cancel and silence lead back
through `preparing_for_restart.resuming`; after it only forward, or to `halted`, where a person is called.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from machines.address import carried
from machines.evidence import record, step_of, steps_of, text
from machines.lifecycle_authority import (
    approval,
    approves_this_plan,
    asked_for_approval,
    no_approval_needed,
    no_freeze_now,
    not_frozen,
    nothing_critical_running,
    silence_allows,
    somebody_may_approve,
)
from machines.lifecycle_memory import (
    absent,
    announced_anew,
    note_absent,
    note_adopted,
    note_approved,
    note_baseline,
    note_failure,
    note_given_up,
    note_no_return,
    note_restart,
    note_resumed,
    note_up,
    note_up_by_waiver,
    note_verified,
)
from machines.lifecycle_proof import checks_of, failed_before, note_failed_before, only_failed_before, passed
from machines.model import (
    Each,
    Event,
    Facts,
    InstanceId,
    Machine,
    On,
    Reason,
    State,
    Step,
    StepStatus,
    Transition,
)
from machines.plan import plan_hash
from schemas.base import Json
from schemas.components import Command
from schemas.events import RestartCancelled, RestartRequested, SystemRegistered
from schemas.system import System

NAME = "lifecycle"


class At(StrEnum):
    UNOBSERVED = "unobserved"
    OPERATIONAL = "operational"
    AWAITING_APPROVAL = "preparing_for_restart.awaiting_approval"
    NOTIFYING = "preparing_for_restart.notifying"
    PRESERVING = "preparing_for_restart.preserving"
    RESUMING = "preparing_for_restart.resuming"
    SHUTTING_DOWN = "shutting_down"
    INITIALIZING = "starting_up.initializing"
    VERIFYING = "starting_up.verifying"
    RESTORING = "starting_up.restoring"
    DEGRADED = "degraded"
    HALTED = "halted"


BEFORE_PAUSE = (At.AWAITING_APPROVAL, At.NOTIFYING)
BEFORE_NO_RETURN = (*BEFORE_PAUSE, At.PRESERVING)
AFTER_NO_RETURN = (At.SHUTTING_DOWN, At.INITIALIZING, At.VERIFYING, At.RESTORING)

OBSERVING = timedelta(minutes=5)
"""How long the first look at a system may take; looking changes nothing, so giving up costs nothing."""

TELLING = timedelta(minutes=10)
"""How long after the announced time the notice and the baseline may still take before the restart is given up."""

GRACE = timedelta(minutes=1)
"""Added to every limit of the system's file: the last retry and the bookkeeping around it still fit in."""


def _answered(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return now + (system.allow.approve.within if system.allow.approve is not None else timedelta(0))


def _announced(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    due = record(data, "restart").get("due")  # as `note_restart` has it: never sooner than the notice
    return datetime.fromisoformat(due) if isinstance(due, str) else now + system.restart.notice.lead


def _announced_at_the_latest(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return _announced(system, data, now) + TELLING + _backing_up(system, "before_pause")


def _backing_up(system: System, when: str) -> timedelta:
    """What the backups may take where they are made then: each is made, verified and restored in a test."""
    backup = system.restart.backup
    return backup.within * 3 * len(backup.databases) if backup is not None and backup.when == when else timedelta(0)


def _before_the_pause_lapses(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    """The pause must still hold while the components are stopped: nothing may be worked on after the snapshot."""
    restart, count = system.restart, len(system.components)
    drain = restart.limits.drain * (1 + len(system.databases))  # each database, and what participants flush
    wanted = drain + restart.answer_within * count + _backing_up(system, "after_flush") + GRACE
    lease = restart.pause_lease
    return now + min(wanted, max(lease - restart.limits.stop * count, lease / 2))


def _resumed(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    restart = system.restart
    return now + restart.answer_within * len(system.components) + restart.limits.verify + GRACE


def _stopped(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return now + system.restart.limits.stop * len(system.components) + GRACE


def _started(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return now + system.restart.limits.start * len(system.components) + GRACE


def _verified(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    # A soak in which something failed begins once more.
    return now + system.restart.limits.verify + system.restart.soak * 2 + GRACE


def _restored(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return now + system.restart.answer_within * len(system.components) + GRACE


def not_yet_observed(facts: Facts) -> Reason | None:
    """A look that is under way goes on with the configuration it began with, like everything between two rests."""
    return None if facts.snapshot.entry == 0 else Reason("the first look is under way")


def configuration_changed(facts: Facts) -> Reason | None:
    match facts.event.data:
        case SystemRegistered(config_hash=new) if new != facts.snapshot.config_hash:
            return None
        case _:
            return Reason("the configuration is the one this system already stands on")


def all_running(facts: Facts) -> Reason | None:
    missing = absent(facts)
    return Reason(f"not running: {', '.join(missing)}") if missing else None


def snapshot_verified(facts: Facts) -> Reason | None:
    sealed, read_back = step_of(facts, "seal"), step_of(facts, "verify_snapshot")
    if sealed is None or not text(sealed.result, "sha256") or not text(sealed.result, "url"):
        return Reason("no system snapshot was sealed")
    if read_back is None or read_back.status is not StepStatus.DONE or read_back.result.get("verified") is not True:
        return Reason("the system snapshot was not verified")
    if read_back.result.get("sha256") != sealed.result["sha256"]:
        return Reason(f"read back {read_back.result.get('sha256')}, but sealed {sealed.result['sha256']}")
    return None


def verified(facts: Facts) -> Reason | None:
    """Every check was performed and passed: done, not waived and not passed over, and there was at least one."""
    checks = checks_of(facts)
    if not checks:
        return Reason("nothing was verified: the list of checks is empty")
    compared = step_of(facts, "compare")
    open_ = [step.planned.name for step in checks if not passed(step)]
    if compared is not None and compared.status is not StepStatus.DONE:
        open_.insert(0, compared.planned.name)
    return Reason(f"not verified: {', '.join(open_)}") if open_ else None


def all_resumed(facts: Facts) -> Reason | None:
    failed = [s for s in steps_of(facts, "resume") if s.status is StepStatus.FAILED]
    why = (f"{s.planned.name} failed: {s.error or 'no reason given'}" for s in failed)
    return Reason("; ".join(why)) if failed else None


def was_verified(facts: Facts) -> Reason | None:
    return None if "verified" in facts.snapshot.data else Reason("the verification was waived in part")


def as_it_was_found(facts: Facts) -> Reason | None:
    """Relight has neither stopped nor started anything since it first looked: the system runs as it was found."""
    if "restart" in facts.snapshot.data:
        return Reason("the system was taken down for a restart")
    return Reason("components were started, paused") if "absent" in facts.snapshot.data else None


def note_asked(facts: Facts) -> Mapping[str, Json]:
    """The restart, and the hash of exactly this plan for exactly this request: what an approval has to name."""
    changes = note_restart(facts)
    restart = record(changes, "restart")
    return {**changes, "restart": {**restart, **approval(facts, plan_hash(LIFECYCLE, facts.system, restart))}}


def note_frozen(facts: Facts) -> Mapping[str, Json]:
    return note_failure(facts, no_freeze_now(facts))


def note_snapshot_missing(facts: Facts) -> Mapping[str, Json]:
    return note_failure(facts, snapshot_verified(facts))


def told_later_than_announced(facts: Facts) -> Reason | None:
    """With a required notice the lead time counts from the first delivery, not from when it was tried."""
    return None if announced_anew(facts) else Reason("the announced time stands")


def note_announced_anew(facts: Facts) -> Mapping[str, Json]:
    return {"restart": {**record(facts.snapshot.data, "restart"), "due": announced_anew(facts)}}


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


def _soaks(system: System) -> bool:
    return system.restart.soak > timedelta(0)


def _pause_arguments(system: System) -> Mapping[str, Json]:
    return {"lease": system.restart.pause_lease.total_seconds()}


def _started_paused(system: System) -> Mapping[str, Json]:
    return {"paused": True}


STATES = (
    State(
        At.UNOBSERVED,
        deadline=OBSERVING,
        then="call it degraded",
        steps=(Step("observe", "component.observe", Each.COMPONENT, keep=True, attempts=3),),
    ),
    State(At.OPERATIONAL, resting=True),
    State(
        At.AWAITING_APPROVAL,
        deadline=_answered,
        then="do what allow.approve says of silence",
        steps=(Step("ask", "notice.tell", attempts=3, optional=True, arguments=_asking),),
        asks=asked_for_approval,
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
        ),
    ),
    State(
        At.PRESERVING,
        deadline=_before_the_pause_lapses,
        then="abort and resume",
        steps=(
            # Turning back costs nothing yet: what must not be stopped, or is another server, is found here.
            Step("identify", "identity.check", attempts=3),
            Step(
                "pause", "participant.pause", Each.COMPONENT_REVERSED, takes=Command.PAUSE,
                limit="answer_within", attempts=3, arguments=_pause_arguments,
            ),
            # Each attempt is a look of growing length that ends with a message; all together take the limit.
            Step("drain", "postgres.drain", Each.DATABASE, limit="drain", attempts=20),
            Step(
                "flush", "participant.flush", Each.COMPONENT_REVERSED, takes=Command.FLUSH, limit="drain", attempts=3
            ),
            Step("backup", "postgres.backup", Each.BACKUP, limit="backup", when=_backup_after),
            Step("verify_backup", "postgres.verify_backup", Each.BACKUP, limit="backup", when=_backup_after),
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
                optional=True,
            ),
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
            Step("complete", "notice.tell", attempts=3, arguments=_up_again),
            REPORT,
        ),
    ),
    State(At.DEGRADED, resting=True, steps=(CALL,)),
    State(At.HALTED, resting=True, steps=(CALL,)),
)  # fmt: skip

TRANSITIONS = (
    # The first look.
    Transition(
        At.UNOBSERVED, "system.registered", At.UNOBSERVED, (not_yet_observed,), reason="observe every component"
    ),
    Transition(At.UNOBSERVED, On.COMPLETED, At.VERIFYING, (all_running,), reason="everything was found running"),
    Transition(At.UNOBSERVED, On.COMPLETED, At.INITIALIZING, (), note_absent, "start what was found absent"),
    Transition(At.UNOBSERVED, On.STEP_FAILED, At.DEGRADED, (), note_failure, "a component could not be observed"),
    Transition(At.UNOBSERVED, On.DEADLINE_PASSED, At.DEGRADED, (), note_failure, "the first look took too long"),
    Transition(At.UNOBSERVED, "operator.abort", At.DEGRADED, (), note_failure, "the first look was ended by a person"),
    # A restart is asked for.
    Transition(
        (At.OPERATIONAL, At.DEGRADED), "restart.requested", At.NOTIFYING,
        (no_approval_needed, nothing_critical_running, not_frozen), note_restart, "restart requested",
    ),
    Transition(
        (At.OPERATIONAL, At.DEGRADED), "restart.requested", At.AWAITING_APPROVAL,
        (somebody_may_approve, nothing_critical_running, not_frozen), note_asked, "restart requested, to be approved",
    ),
    Transition(
        At.AWAITING_APPROVAL, "approval.given", At.NOTIFYING,
        (approves_this_plan, nothing_critical_running, not_frozen), note_approved, "approved",
    ),
    Transition(At.AWAITING_APPROVAL, "approval.denied", At.RESUMING, (approves_this_plan,), note_failure, "denied"),
    Transition(
        At.AWAITING_APPROVAL, On.DEADLINE_PASSED, At.NOTIFYING,
        (silence_allows, nothing_critical_running, not_frozen), note_approved, "nobody objected in time",
    ),
    Transition(At.AWAITING_APPROVAL, On.DEADLINE_PASSED, At.RESUMING, (), note_failure, "not approved in time"),
    Transition(
        At.NOTIFYING, On.STEP_DONE, At.NOTIFYING, (told_later_than_announced,), note_announced_anew,
        "told later than announced: the pause moves", budget=1, stay=True,
    ),
    Transition(
        At.NOTIFYING, On.COMPLETED, At.PRESERVING, (no_freeze_now,), note_baseline, "everybody was told, and it is time"
    ),
    Transition(At.NOTIFYING, On.COMPLETED, At.RESUMING, (), note_frozen, "too late"),
    Transition(
        At.PRESERVING, On.COMPLETED, At.SHUTTING_DOWN, (snapshot_verified,), note_no_return,
        "the system snapshot is verified: point of no return",
    ),
    Transition(At.PRESERVING, On.COMPLETED, At.RESUMING, (), note_snapshot_missing, "no verified system snapshot"),
    # Until the components are stopped, turning back costs nothing.
    Transition(BEFORE_NO_RETURN, "restart.cancelled", At.RESUMING, (), note_failure, "cancelled"),
    Transition(BEFORE_NO_RETURN, "operator.abort", At.RESUMING, (), note_failure, "aborted"),
    Transition((At.NOTIFYING, At.PRESERVING), On.STEP_FAILED, At.RESUMING, (), note_failure, "preparing failed"),
    Transition((At.NOTIFYING, At.PRESERVING), On.DEADLINE_PASSED, At.RESUMING, (), note_failure, "out of time"),
    Transition(
        At.RESUMING, On.COMPLETED, At.OPERATIONAL, (all_resumed, verified), note_resumed, "resumed and verified"
    ),
    Transition(
        At.RESUMING, On.COMPLETED, At.DEGRADED, (all_resumed,), note_given_up, "resumed, but not all checks passed"
    ),
    Transition(At.RESUMING, On.COMPLETED, At.DEGRADED, (), note_given_up, "a component did not resume"),
    Transition(At.RESUMING, On.DEADLINE_PASSED, At.DEGRADED, (), note_given_up, "resuming took too long"),
    # After the point of no return: only forward, or to a person.
    Transition(At.SHUTTING_DOWN, On.COMPLETED, At.INITIALIZING, reason="everything is stopped"),
    Transition(At.INITIALIZING, On.COMPLETED, At.VERIFYING, reason="everything is started, paused"),
    Transition(At.VERIFYING, On.COMPLETED, At.RESTORING, (verified,), note_verified, "verified"),
    Transition(
        At.VERIFYING, On.COMPLETED, At.RESTORING, (only_failed_before,), note_failed_before,
        "only what failed before the restart already fails",
    ),
    # A waiver is a person's word to go on without the proof: components resume, but operational it is not.
    Transition(At.VERIFYING, On.COMPLETED, At.RESTORING, reason="going on by a waiver"),
    Transition(At.RESTORING, On.COMPLETED, At.OPERATIONAL, (was_verified,), note_up, "up again"),
    Transition(
        At.RESTORING, On.COMPLETED, At.DEGRADED, (failed_before,), note_up,
        "up again, with what failed before the restart already",
    ),
    Transition(At.RESTORING, On.COMPLETED, At.DEGRADED, (), note_up_by_waiver, "up again by a waiver"),
    # Found running and never touched: it goes on running, only not known to be well.
    Transition(
        At.VERIFYING, On.STEP_FAILED, At.DEGRADED, (as_it_was_found,), note_failure, "runs as it was found, unverified"
    ),
    Transition(
        At.VERIFYING, On.DEADLINE_PASSED, At.DEGRADED, (as_it_was_found,), note_failure,
        "runs as it was found, unverified",
    ),
    Transition(AFTER_NO_RETURN, On.STEP_FAILED, At.HALTED, (), note_failure, "a person is needed"),
    Transition(AFTER_NO_RETURN, On.DEADLINE_PASSED, At.HALTED, (), note_failure, "out of time; a person is needed"),
    Transition(AFTER_NO_RETURN, "operator.hands-off", At.HALTED, (), note_failure, "a person takes over"),
    # At rest, by a person. Each retry is somebody's decision: no budget bounds people.
    Transition(At.HALTED, "operator.retry", At.INITIALIZING, (), None, "started once more"),
    Transition(At.HALTED, "operator.abort", At.DEGRADED, (), note_given_up, "left as it stands"),
    Transition((At.HALTED, At.DEGRADED), "operator.adopt", At.UNOBSERVED, (), note_adopted, "look at what is there"),
    *(
        Transition(rest, "system.registered", rest, (configuration_changed,), reason="stands on the new configuration",
                   stay=True)
        for rest in (At.OPERATIONAL, At.DEGRADED, At.HALTED)
    ),
)  # fmt: skip


def address(event: Event) -> InstanceId | None:
    if isinstance(event.data, RestartRequested | RestartCancelled | SystemRegistered):
        return InstanceId(f"{NAME}/{event.system}")
    return carried(NAME, event)


def explain(trigger: str, facts: Facts) -> Reason | None:
    """Refusals in words that say what is in the way and what to do about it."""
    state, system = facts.snapshot.state, facts.snapshot.system
    restart = record(facts.snapshot.data, "restart")
    name = f"restart {restart['id']}" if "id" in restart else ""
    match trigger:
        case "restart.requested" if state == At.HALTED:
            return Reason(f"{system} is halted{f' in {name}' if name else ''}: retry, adopt or abort it first")
        case "restart.requested" if name:
            return Reason(f"{name} is already in progress ({state}), requested by {restart.get('requested_by')}")
        case "restart.requested":
            return Reason(f"{system} is {state}: it can be restarted once it is operational or degraded")
        case "restart.cancelled" | "operator.abort" if state in AFTER_NO_RETURN:
            what = f"{name} is past the point of no return" if name else f"{system} is being started for the first time"
            return Reason(f"{what} ({state}): it only goes forward now; hands-off stops it where it stands")
        case "operator.hands-off" if state in (At.NOTIFYING, At.PRESERVING):
            return Reason(f"nothing of {system} was stopped yet ({state}): abort instead, which resumes it")
        case "restart.cancelled" if state == At.RESUMING:
            return Reason(f"{name or 'the restart'} is already being taken back")
        case "approval.given" | "approval.denied" if name:
            return Reason(f"{name} waits for no approval any more ({state}): it was answered, or too late")
        case "approval.given" | "approval.denied":
            return Reason(f"no restart of {system} waits for approval ({state}): it was ended, or never asked for")
        case "restart.cancelled":
            return Reason(f"no restart of {system} is in progress ({state})")
        case _:
            return None


LIFECYCLE = Machine(
    name=NAME,
    version=1,
    initial=At.UNOBSERVED,
    states=STATES,
    transitions=TRANSITIONS,
    address=address,
    absorbs=frozenset({"system.registered"}),
    explain=explain,
)
