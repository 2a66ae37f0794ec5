"""The life of one system: operational, down for a restart, and up again.

Whatever decides where this machine goes next stands in this file. Nothing here does I/O or reads a clock: facts come
in, the table answers. Until the point of no return (the entry of `shutting_down`) failure, cancel and silence lead back
through `preparing_for_restart.resuming`; after it only forward, or to `halted`, where a person is called.
"""

from collections.abc import Mapping

from machines.address import carried
from machines.evidence import record, step_of, steps_of, text
from machines.lifecycle_authority import (
    approval,
    approves_this_plan,
    no_approval_needed,
    no_freeze_now,
    not_frozen,
    nothing_critical_running,
    silence_allows,
    somebody_may_approve,
)
from machines.lifecycle_leavings import may_be_paused, nobody_works_on, stopping_was_left_off, withholds
from machines.lifecycle_loss import LOST, note_lost, rows_lost, rows_lost_or_begun
from machines.lifecycle_memory import (
    absent,
    announced_anew,
    not_resumed,
    not_started,
    note_absent,
    note_adopted,
    note_approved,
    note_baseline,
    note_failure,
    note_given_up,
    note_going_on,
    note_let_go,
    note_no_return,
    note_not_started,
    note_restart,
    note_resumed,
    note_started,
    note_unresumed,
    note_up,
    note_up_by_waiver,
    note_verified,
    note_waiting,
)
from machines.lifecycle_pause import note_held, pause_holds
from machines.lifecycle_proof import checks_of, failed_before, note_failed_before, only_failed_before, passed
from machines.lifecycle_states import AFTER_NO_RETURN, BEFORE_NO_RETURN, STATES, At, knows_critical
from machines.model import (
    Event,
    Facts,
    InstanceId,
    Machine,
    On,
    Reason,
    StepStatus,
    Transition,
)
from machines.plan import plan_hash
from schemas.base import Json
from schemas.events import DatabaseLost, OperationRequested, RestartCancelled, RestartRequested, SystemRegistered

NAME = "lifecycle"


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


def all_started(facts: Facts) -> Reason | None:
    missing = not_started(facts)
    return Reason(f"not started: {', '.join(missing)}") if missing else None


def nothing_missing(facts: Facts) -> Reason | None:
    missing = record(facts.snapshot.data, "not_started")
    return Reason(f"not started: {', '.join(missing)}") if missing else None


def nobody_left_paused(facts: Facts) -> Reason | None:
    """They were started paused; whoever did not answer may still be, also where its file says to proceed without it."""
    left = not_resumed(facts)
    return Reason(f"may be paused: {', '.join(left)}") if left else None


def nothing_waived(facts: Facts) -> Reason | None:
    """A waiver is a person's word instead of a proof, whichever step of the restart it stands for."""
    waived = record(facts.snapshot.data, "waivers")
    return Reason(f"waived: {', '.join(waived)}") if waived else None


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


def may_be_in_progress(facts: Facts) -> Reason | None:
    """Only a system whose file says how to tell is asked whether anything critical is in progress."""
    return None if knows_critical(facts.system) else Reason("restart.critical names nothing to wait for")


def note_unpreserved(facts: Facts) -> Mapping[str, Json]:
    return note_failure(facts, snapshot_verified(facts) or pause_holds(facts))


def note_known_failures(facts: Facts) -> Mapping[str, Json]:
    return {**note_failed_before(facts), **note_going_on(facts)}


def note_committed(facts: Facts) -> Mapping[str, Json]:
    return {**note_no_return(facts), **note_held(facts)}


def told_later_than_announced(facts: Facts) -> Reason | None:
    """With a required notice the lead time counts from the first delivery, not from when it was tried."""
    return None if announced_anew(facts) else Reason("the announced time stands")


def note_announced_anew(facts: Facts) -> Mapping[str, Json]:
    return {"restart": {**record(facts.snapshot.data, "restart"), "due": announced_anew(facts)}}


TRANSITIONS = (
    # The first look.
    Transition(
        At.UNOBSERVED, "system.registered", At.UNOBSERVED, (not_yet_observed,), reason="observe every component"
    ),
    Transition(At.UNOBSERVED, On.COMPLETED, At.VERIFYING, (all_running,), reason="everything was found running"),
    Transition(At.UNOBSERVED, On.COMPLETED, At.INITIALIZING, (), note_absent, "start what was found absent"),
    *(
        Transition(At.UNOBSERVED, trigger, At.LEAVING, (may_be_paused,), note_failure, "what may be paused is resumed")
        for trigger in (On.STEP_FAILED, On.DEADLINE_PASSED, "operator.abort")
    ),
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
        At.NOTIFYING, On.COMPLETED, At.AWAITING_QUIET, (no_freeze_now, may_be_in_progress), note_waiting,
        "it is time, once nothing critical is in progress",
    ),
    Transition(
        At.NOTIFYING, On.COMPLETED, At.PRESERVING, (no_freeze_now,), note_baseline, "everybody was told, and it is time"
    ),
    Transition(
        At.AWAITING_QUIET, On.COMPLETED, At.PRESERVING, (no_freeze_now,), None, "nothing critical is in progress"
    ),
    Transition((At.NOTIFYING, At.AWAITING_QUIET), On.COMPLETED, At.RESUMING, (), note_frozen, "too late"),
    Transition(
        At.PRESERVING, On.COMPLETED, At.SHUTTING_DOWN, (snapshot_verified, pause_holds), note_committed,
        "the system snapshot is verified: point of no return",
    ),
    Transition(
        At.PRESERVING, On.COMPLETED, At.RESUMING, (), note_unpreserved,
        "no verified system snapshot, or a pause that lapsed",
    ),
    # Until the components are stopped, turning back costs nothing.
    Transition(BEFORE_NO_RETURN, "restart.cancelled", At.RESUMING, (), note_failure, "cancelled"),
    Transition(BEFORE_NO_RETURN, "operator.abort", At.RESUMING, (), note_failure, "aborted"),
    Transition(
        (At.NOTIFYING, At.AWAITING_QUIET, At.PRESERVING), On.STEP_FAILED, At.RESUMING, (), note_failure,
        "preparing failed",
    ),
    Transition(
        (At.NOTIFYING, At.AWAITING_QUIET, At.PRESERVING), On.DEADLINE_PASSED, At.RESUMING, (), note_failure,
        "out of time",
    ),
    Transition(
        At.RESUMING, On.COMPLETED, At.OPERATIONAL, (all_resumed, verified), note_resumed, "resumed and verified"
    ),
    Transition(
        At.RESUMING, On.COMPLETED, At.DEGRADED, (all_resumed,), note_given_up, "resumed, but not all checks passed"
    ),
    Transition(At.RESUMING, On.COMPLETED, At.DEGRADED, (), note_unresumed, "a component did not resume"),
    Transition(At.RESUMING, On.DEADLINE_PASSED, At.DEGRADED, (), note_unresumed, "resuming took too long"),
    # After the point of no return: only forward, or to a person.
    Transition(At.SHUTTING_DOWN, On.COMPLETED, At.INITIALIZING, reason="everything is stopped"),
    Transition(
        At.INITIALIZING, On.COMPLETED, At.VERIFYING, (all_started,), note_started, "everything is started, paused"
    ),
    Transition(At.INITIALIZING, On.COMPLETED, At.VERIFYING, (), note_not_started, "going on, but not all is started"),
    Transition(At.VERIFYING, On.COMPLETED, At.RESTORING, (verified,), note_verified, "verified"),
    Transition(
        At.VERIFYING, On.COMPLETED, At.RESTORING, (only_failed_before,), note_known_failures,
        "only what failed before the restart already fails",
    ),
    # A waiver is a person's word to go on without the proof: components resume, but operational it is not.
    Transition(At.VERIFYING, On.COMPLETED, At.RESTORING, (), note_going_on, "going on by a waiver"),
    Transition(
        At.RESTORING, On.COMPLETED, At.OPERATIONAL, (was_verified, nothing_missing, nobody_left_paused, nothing_waived),
        note_up, "up again",
    ),
    Transition(
        At.RESTORING, On.COMPLETED, At.DEGRADED, (was_verified, nothing_waived), note_up_by_waiver,
        "up again, but not all of it",
    ),
    Transition(
        At.RESTORING, On.COMPLETED, At.DEGRADED, (failed_before,), note_up,
        "up again, with what failed before the restart already",
    ),
    Transition(At.RESTORING, On.COMPLETED, At.DEGRADED, (), note_up_by_waiver, "up again by a waiver"),
    # Found running and never touched: it goes on running, only not known to be well.
    *(
        Transition(
            At.VERIFYING, trigger, At.LEAVING, (as_it_was_found, may_be_paused), note_failure,
            "runs as it was found, unverified, and what may be paused is resumed",
        )
        for trigger in (On.STEP_FAILED, On.DEADLINE_PASSED)
    ),
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
    # What Relight knows is older than what it did: nothing goes on until a person has looked, and nothing is retried.
    Transition(At.UNOBSERVED, LOST, At.LOST, (rows_lost_or_begun,), note_lost, "the database has lost what was said"),
    Transition(
        (*BEFORE_NO_RETURN, At.RESUMING, *AFTER_NO_RETURN, At.LEAVING), LOST, At.LOST, (), note_lost,
        "the database has lost what was said",
    ),
    Transition(
        (At.OPERATIONAL, At.DEGRADED, At.HALTED, At.LOST), LOST, At.LOST, (rows_lost,), note_lost,
        "the database has lost what was said",
    ),
    # At rest, by a person. Each retry is somebody's decision: no budget bounds people.
    Transition(
        At.HALTED, "operator.retry", At.SHUTTING_DOWN, (stopping_was_left_off,), None, "what still runs is stopped"
    ),
    Transition(At.HALTED, "operator.retry", At.INITIALIZING, (nobody_works_on,), None, "started once more"),
    Transition(
        (At.HALTED, At.LOST), "operator.abort", At.LEAVING, (), note_given_up,
        "left as it stands, once what may be paused is resumed",
    ),
    Transition(At.LEAVING, On.COMPLETED, At.DEGRADED, (), note_let_go, "left as it stands"),
    Transition(At.LEAVING, On.DEADLINE_PASSED, At.DEGRADED, (), note_let_go, "resuming took too long"),
    Transition(
        (At.HALTED, At.LOST, At.DEGRADED), "operator.adopt", At.UNOBSERVED, (), note_adopted, "look at what is there"
    ),
    *(
        Transition(rest, "system.registered", rest, (configuration_changed,), reason="stands on the new configuration",
                   stay=True)
        for rest in (At.OPERATIONAL, At.DEGRADED, At.HALTED, At.LOST)
    ),
)  # fmt: skip


_OF_THE_SYSTEM = (RestartRequested, RestartCancelled, OperationRequested, SystemRegistered, DatabaseLost)


def address(event: Event) -> InstanceId | None:
    if type(event.data) in _OF_THE_SYSTEM:
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
        case "restart.requested" | "operator.retry" if state == At.LOST:
            return Reason(f"Relight's database lost what it did with {system}: adopt what is there, or abort, first")
        case "restart.requested" if name:
            return Reason(f"{name} is already in progress ({state}), requested by {restart.get('requested_by')}")
        case "restart.requested":
            return Reason(f"{system} is {state}: it can be restarted once it is operational or degraded")
        case "restart.cancelled" | "operator.abort" if state in AFTER_NO_RETURN:
            what = f"{name} is past the point of no return" if name else f"{system} is being started for the first time"
            return Reason(f"{what} ({state}): it only goes forward now; hands-off stops it where it stands")
        case "operator.hands-off" if state in (At.NOTIFYING, At.AWAITING_QUIET, At.PRESERVING):
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
    absorbs=frozenset({"system.registered", LOST}),
    explain=explain,
    withholds=withholds,
)
