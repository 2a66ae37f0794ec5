"""Whether a restart may begin at all: who must agree to it, and the freezes. Guards and words; it decides no way."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from machines.evidence import record, text
from machines.lifecycle_memory import pause_at
from machines.model import Asks, Facts, Reason
from schemas.base import Json
from schemas.events import ApprovalDenied, ApprovalGiven, RestartRequested, Right
from schemas.system import System


def nothing_critical_running(facts: Facts) -> Reason | None:
    """Standing machines (lifecycle, alerts) are no work in progress; runs are: a restart never cuts through one."""
    runs = [f"{run} ({state})" for run, state in facts.live_runs.items() if run.count("/") > 1 and run[:6] != "alert/"]
    return Reason(f"work in progress: {', '.join(runs)}; wait for it or abort it first") if runs else None


def no_approval_needed(facts: Facts) -> Reason | None:
    if facts.system.allow.approve is None:
        return None
    return _in_the_way(facts) or Reason("a restart has to be approved (allow.approve)")


def somebody_may_approve(facts: Facts) -> Reason | None:
    """Nobody approves what they asked for: with the requester alone in the list it could only run out of time."""
    rule = facts.system.allow.approve
    if rule is None:
        return _in_the_way(facts) or Reason("a restart needs no approval")
    if _others(facts):
        return None
    return _nobody_else(rule.by)


def _in_the_way(facts: Facts) -> Reason | None:
    """What keeps the restart from beginning whether or not it needs approval: a person reads the reasons of both ways,
    and those of the way that is not meant would only confuse."""
    rule = facts.system.allow.approve
    nobody = _nobody_else(rule.by) if rule is not None and not _others(facts) else None
    return nobody or nothing_critical_running(facts) or not_frozen(facts)


def _nobody_else(names: Sequence[str]) -> Reason:
    return Reason(f"nobody could approve it: allow.approve names {', '.join(names)}, and who asks never approves")


def approves_this_plan(facts: Facts) -> Reason | None:
    """The answer is in time, by one of those who were asked, and about the very plan that they were asked about."""
    asked, event = record(record(facts.snapshot.data, "restart"), "approval"), facts.event
    if not isinstance(event.data, ApprovalGiven | ApprovalDenied):
        return Reason(f"{event.name} is no answer to whether this may be done")
    if facts.snapshot.deadline_at is not None and facts.now > facts.snapshot.deadline_at:
        return Reason(f"too late: the answer was due by {facts.snapshot.deadline_at.isoformat()}")
    if event.user is not None and event.user == asked.get("requester"):
        return Reason(f"{event.user} asked for it and so does not approve it; it is for {_names(asked)}")
    if event.user not in _list(asked):
        return Reason(f"{event.user or 'nobody by name'} is not among those who approve it; it is for {_names(asked)}")
    if event.data.plan != asked.get("plan"):
        return Reason(f"that is the plan {event.data.plan[:12]}…, but the one to be approved is {asked.get('plan')}")
    return None


def silence_allows(facts: Facts) -> Reason | None:
    asked = record(record(facts.snapshot.data, "restart"), "approval")
    return None if asked.get("on_silence") == "allow" else Reason("silence is no approval (allow.approve.on_silence)")


def approval(facts: Facts, plan: str) -> Mapping[str, Json]:
    """What is remembered of the question under the restart's `approval`: the plan's hash, who may answer, who asked."""
    rule = facts.system.allow.approve
    asked: dict[str, Json] = {
        "plan": plan,
        "by": list(_others(facts)),
        "requester": facts.event.user,
        "on_silence": rule.on_silence if rule is not None else "deny",
    }
    return {"approval": asked}


def asked_for_approval(data: Mapping[str, Json]) -> Asks:
    """For people: who is asked about which plan, and what their silence does."""
    asked = record(record(data, "restart"), "approval")
    silence = (
        "the restart goes on without approval" if asked.get("on_silence") == "allow" else "the restart is given up"
    )
    plan = text(asked, "plan") or ""
    return Asks(f"the approval of {_names(asked)} for plan {plan[:12]}…", silence, plan)


def not_frozen(facts: Facts) -> Reason | None:
    """The pause that is asked for or approved may not lie in a freeze, unless somebody who may act overrides it."""
    wish = facts.event.data
    if isinstance(wish, RestartRequested) and wish.override is not None:
        # Refused even where no freeze lies in the way: it would count for one that the pause is moved into.
        forbidden = facts.system.permits(Right.ACT, facts.event.user, local=facts.event.local)
        return Reason(f"a freeze is overridden by those who may act: {forbidden}") if forbidden else None
    return _freeze_at(facts, pause_at(facts))


def no_freeze_now(facts: Facts) -> Reason | None:
    """The pause may come later than announced; what counts is when it comes."""
    return _freeze_at(facts, facts.now)


def _freeze_at(facts: Facts, pause: datetime) -> Reason | None:
    system = facts.system
    line = system.frozen("restart", pause)
    if line is None or "freeze_overridden" in record(facts.snapshot.data, "restart"):
        return None
    end = system.frozen_until("restart", pause)
    until = f"until {_local(end, system)}" if end is not None else "without end"
    why = f"the pause at {_local(pause, system)} lies in the freeze {line!r}, which lasts {until}"
    return Reason(f"{why}: ask for a later one, or override the freeze by name (for those who may act)")


def _local(moment: datetime, system: System) -> str:
    """`Mon 2026-03-02 16:00 America/New_York`, in the system's zone."""
    return f"{moment.astimezone(ZoneInfo(system.zone)):%a %Y-%m-%d %H:%M} {system.zone}"


def _others(facts: Facts) -> tuple[str, ...]:
    """Those who may approve what this event asks for: all of the list but the requester."""
    rule = facts.system.allow.approve
    return tuple(name for name in rule.by if name != facts.event.user) if rule is not None else ()


def _list(asked: Mapping[str, Json]) -> tuple[str, ...]:
    by = asked.get("by")
    return tuple(name for name in by if isinstance(name, str)) if isinstance(by, list) else ()


def _names(asked: Mapping[str, Json]) -> str:
    return " or ".join(_list(asked)) or "nobody"
