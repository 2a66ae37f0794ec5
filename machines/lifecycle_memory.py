"""What the lifecycle remembers of a restart: the changes its transitions write. It decides no way."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

from machines.evidence import evidence, failed_steps, record, step_of, steps_of, text, who
from machines.lifecycle_proof import checks_of, good_configuration
from machines.model import Event, Facts, Reason, StepStatus
from schemas.base import Json
from schemas.components import LOCAL
from schemas.events import RestartRequested

ONE_RESTART = (
    "restart",
    "baseline",
    "system_snapshot",
    "digests",
    "flushed",
    "down_since",
    "paused_until",
    "failure",
    "verified",
    "failed_before",
    "absent",
    "not_started",
    "waivers",
    "lost",
    "resumed",
    "not_resumed",
    "may_be_paused",
)
"""What belongs to one restart (or first start) and goes with it. The engine writes `waivers`."""


def note_absent(facts: Facts) -> Mapping[str, Json]:
    return {"absent": list(absent(facts))}


def note_restart(facts: Facts) -> Mapping[str, Json]:
    event = facts.event
    wish = event.data
    assert isinstance(wish, RestartRequested)  # noqa: S101  # the table binds this change to that event alone
    restart: dict[str, Json] = {
        "id": restart_id(event),
        "reason": wish.reason,
        "requested_by": who(event),
        "requested_at": event.at.isoformat(),
        "due": pause_at(facts).isoformat(),
    }
    if wish.override is not None:
        restart["freeze_overridden"] = wish.override
    return {**_forget(facts), "restart": restart}


def pause_at(facts: Facts) -> datetime:
    """When the pause begins if all goes well (UTC): as wished or remembered, and never sooner than the notice."""
    remembered = record(facts.snapshot.data, "restart").get("due")
    match facts.event.data:
        case RestartRequested(due=wished):
            pass
        case _:
            wished = datetime.fromisoformat(remembered) if isinstance(remembered, str) else None
    earliest = facts.now + facts.system.restart.notice.lead
    return max(wished or earliest, earliest).astimezone(UTC)


def note_approved(facts: Facts) -> Mapping[str, Json]:
    """Who agreed, and the time of the pause anew: the answer may have come when the notice should have begun."""
    by = who(facts.event) or "nobody: silence allows it"
    about: dict[str, Json] = {
        "approved_by": by,
        "approved_at": facts.now.isoformat(),
        "due": pause_at(facts).isoformat(),
    }
    return {"restart": {**record(facts.snapshot.data, "restart"), **about}}


def announced_anew(facts: Facts) -> str | None:
    """The moment of the pause (ISO, UTC) that a required notice delivered just now asks for, if it is a later one."""
    notice = facts.system.restart.notice
    told = step_of(facts, "tell")
    delivered = text(told.result, "delivered_at") if told is not None and told.status is StepStatus.DONE else None
    due = record(facts.snapshot.data, "restart").get("due")
    if notice.delivery != "required" or delivered is None or not isinstance(due, str):
        return None
    earliest = datetime.fromisoformat(delivered) + notice.lead
    return earliest.astimezone(UTC).isoformat() if earliest > datetime.fromisoformat(due) else None


def note_baseline(facts: Facts) -> Mapping[str, Json]:
    return {"baseline": {step.planned.name.split(":", 1)[-1]: evidence(step) for step in steps_of(facts, "baseline")}}


def note_waiting(facts: Facts) -> Mapping[str, Json]:
    """The baseline, and until when critical operations are waited for."""
    by = (facts.now + facts.system.restart.limits.critical).astimezone(UTC).isoformat()
    return {**note_baseline(facts), "restart": {**record(facts.snapshot.data, "restart"), "quiet_by": by}}


def note_no_return(facts: Facts) -> Mapping[str, Json]:
    sealed = step_of(facts, "seal")
    digests = {s.planned.component or "": text(s.result, "digest") for s in steps_of(facts, "flush")}
    places: dict[str, Json] = {s.planned.component or "": text(s.result, "where") for s in steps_of(facts, "flush")}
    return {
        "system_snapshot": {key: text(sealed.result, key) for key in ("url", "sha256")} if sealed else None,
        "digests": {name: digest for name, digest in digests.items() if digest},
        "flushed": {name: where for name, where in places.items() if where and digests.get(name)},
        "down_since": facts.now.isoformat(),
    }


def note_failure(facts: Facts, reason: Reason | None = None) -> Mapping[str, Json]:
    """Why the way was left: the step that failed, the person who ended it, or the time that was over."""
    failure: dict[str, Json] = {
        "state": facts.snapshot.state,
        "at": facts.now.isoformat(),
        "by": f"{facts.event.name} {who(facts.event) or ''}".strip(),
        "reason": reason or getattr(facts.event.data, "reason", None),
        "steps": {**{s.planned.name: s.error for s in failed_steps(facts)}, **_out_of_time(facts)},
    }
    return {"failure": failure, "verified": None, **_resumed(facts)}


def _resumed(facts: Facts) -> dict[str, Json]:
    """The components that held something, were told to resume and were not found dead since: what they hold moves on,
    and equals what was flushed no more."""
    dead = {s.planned.component for s in steps_of(facts, "confirm_running") if s.status is StepStatus.FAILED}
    untold = (StepStatus.PLANNED, StepStatus.READY, StepStatus.FAILED, StepStatus.WAIVED)
    told = [s.planned.component for s in steps_of(facts, "resume") if s.status not in untold]
    held = record(facts.snapshot.data, "digests")
    names: list[Json] = [name for name in told if name in held and name not in dead]
    return {"resumed": names} if names else {}


def note_started(facts: Facts) -> Mapping[str, Json]:
    """What an earlier try passed over is there now."""
    return {"not_started": None} if "not_started" in facts.snapshot.data else {}


def note_not_started(facts: Facts) -> Mapping[str, Json]:
    """What the system goes on without, and why: it stays to be seen, and such a system is not operational."""
    return {"not_started": dict(not_started(facts))}


def _out_of_time(facts: Facts) -> dict[str, Json]:
    """What was under way when the time of the state was over: nothing failed, and yet somebody has to know what."""
    if facts.event.name != "timer.fired":
        return {}
    doing = {
        StepStatus.READY: "nobody took it up in time: does a `relight serve` serve {place}?",
        StepStatus.RUNNING: "it was still being performed at {place} when the time was over",
        StepStatus.WAITING: "its answer did not come in time",
    }
    components = facts.system.components
    again = "it was tried again and again, at {place}, until the time was over"
    return {
        step.planned.name: (again if step.status is StepStatus.READY and step.error else doing[step.status]).format(
            place=components[step.planned.component].place if step.planned.component in components else LOCAL
        )
        + (f" (before: {step.error})" if step.error else "")
        for step in facts.steps
        if step.status in doing
    }


def note_verified(facts: Facts) -> Mapping[str, Json]:
    checks: dict[str, Json] = {step.planned.name: evidence(step) for step in checks_of(facts)}
    verified: dict[str, Json] = {"verified": {"at": facts.now.isoformat(), "checks": checks}}
    return {**verified, **good_configuration(facts), **note_going_on(facts)}


def note_going_on(facts: Facts) -> Mapping[str, Json]:
    """Everybody is resumed next, whoever left them paused."""
    return {"may_be_paused": None} if "may_be_paused" in facts.snapshot.data else {}


def note_given_up(facts: Facts) -> Mapping[str, Json]:
    """The restart is over without having happened; what is known of it stays as `last_abort`."""
    data = facts.snapshot.data
    if "restart" not in data:
        return _forget(facts)
    about = {
        **record(data, "restart"),
        "failure": data.get("failure"),
        "ended_at": facts.now.isoformat(),
        **_report(facts),
    }
    return {**_forget(facts), "last_abort": {**about, "down_since": data.get("down_since")}}


def note_resumed(facts: Facts) -> Mapping[str, Json]:
    """Given up, and verified as it runs."""
    return {**note_given_up(facts), **good_configuration(facts)}


def note_unresumed(facts: Facts) -> Mapping[str, Json]:
    """Given up, and who could not be told to go on: that stays to be seen."""
    return {**note_given_up(facts), **_not_resumed(facts)}


def note_let_go(facts: Facts) -> Mapping[str, Json]:
    """Everybody was told to go on; who could not be told stays to be seen."""
    gone = {key: None for key in ("may_be_paused", "not_resumed") if key in facts.snapshot.data}
    return {**gone, **_not_resumed(facts)}


def _not_resumed(facts: Facts) -> dict[str, Json]:
    left = not_resumed(facts)
    return {"not_resumed": dict(left)} if left else {}


def note_adopted(facts: Facts) -> Mapping[str, Json]:
    """A person takes what is there for what should be there: its configuration files are the good ones from now on."""
    data = facts.snapshot.data
    changes = {**note_given_up(facts), **({"good": None} if "good" in data else {})}
    # A rest after a restart that went as it should, or was given up, has resumed everybody.
    at_rest = facts.snapshot.state == "degraded" and "not_resumed" not in data
    return changes if at_rest else {**changes, "may_be_paused": True}


def note_up(facts: Facts) -> Mapping[str, Json]:
    """The restart is over; what is known of it stays as `last_restart`. A first start leaves the last restart alone.
    What was not started or not resumed stays to be seen for as long as the system is degraded by it."""
    data = facts.snapshot.data
    over = {key: value for key, value in _forget(facts).items() if key != "not_started"} | _not_resumed(facts)
    if "restart" not in data:
        return over
    proof = ("system_snapshot", "verified", "failed_before")
    about = {**record(data, "restart"), **{key: data[key] for key in proof if key in data}}
    down = data.get("down_since")
    seconds = (facts.now - datetime.fromisoformat(down)).total_seconds() if isinstance(down, str) else None
    times: dict[str, Json] = {"down_since": down, "up_at": facts.now.isoformat(), "downtime_seconds": seconds}
    return {**over, "last_restart": {**about, **times, **_report(facts)}}


def _report(facts: Facts) -> dict[str, Json]:
    """Where the page of this run was written, if it was."""
    written = step_of(facts, "report")
    url = text(written.result, "url") if written is not None else None
    return {"report": url} if url else {}


def note_up_by_waiver(facts: Facts) -> Mapping[str, Json]:
    """What was waived, by whom and until when stays to be seen for as long as the system is degraded by it."""
    changes = dict(note_up(facts))
    changes.pop("waivers", None)
    return changes


def restart_id(event: Event) -> str:
    """`20250302T014500-9f3c1a`: when it was asked for, and by which event; the same event always has the same id."""
    return f"{event.at:%Y%m%dT%H%M%S}-{hashlib.sha256((event.source + event.id).encode()).hexdigest()[:6]}"


def _forget(facts: Facts) -> dict[str, Json]:
    return {key: None for key in ONE_RESTART if key in facts.snapshot.data}


def absent(facts: Facts) -> tuple[str, ...]:
    """The components that the first look did not find running, or only a process that was told to end."""
    return tuple(
        step.planned.component or step.planned.name
        for step in steps_of(facts, "observe")
        if step.status is not StepStatus.DONE
        or step.result.get("running") is not True
        or step.result.get("ending") is True
    )


def not_started(facts: Facts) -> Mapping[str, Json]:
    """By component, why it was passed over in the start: the old process still runs, or somebody said so."""
    passed_over = {}
    for step in steps_of(facts, "start"):
        name = step.planned.component or step.planned.name
        if step.result.get("old") is True:
            passed_over[name] = text(step.result, "detail") or "its old process still runs"
        elif step.status not in (StepStatus.DONE, StepStatus.PROCEEDED):  # it runs, and may be silent
            passed_over[name] = f"{step.planned.name} was {step.status}" + (f": {step.error}" if step.error else "")
    return passed_over


def not_resumed(facts: Facts) -> Mapping[str, str]:
    """By component, why nobody can say that it works again: it said nothing, or somebody waived the question."""
    left = (step for step in steps_of(facts, "resume") if step.status is not StepStatus.DONE)
    return {step.planned.component or step.planned.name: step.error or f"it was {step.status}" for step in left}
