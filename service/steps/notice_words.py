"""What people are told in a message: which system, what is the matter, since when, who asked, what they can do. Pure.

The words are the same whatever channel carries them; plain text, the moment in the system's zone.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from schemas.base import Json, format_duration
from schemas.system import System
from service.steps.naming import record

LONGEST = 500
"""Characters of one reason in a message; the whole text is in the history."""


class Occasion(StrEnum):
    """What a message is about; the tables name it."""

    ASKED = "asked"
    PLANNED = "planned"
    GIVEN_UP = "given_up"
    UP_AGAIN = "up_again"
    CALLED = "called"
    WAIVER_ENDED = "waiver_ended"


def words(
    occasion: Occasion, system: System, instance: str, state: str, data: Mapping[str, Json], now: datetime
) -> tuple[str, str]:
    """(title, body). `data` is what the instance remembers, `state` where it stands."""
    match occasion:
        case Occasion.ASKED:
            title, lines = f"{system.system}: a restart waits for approval", _asked(system, instance, data)
        case Occasion.PLANNED:
            title = f"{system.system} restarts: its pause begins {_moment(_pause(system, data, now), system)}"
            lines = _planned(system, instance, data, now)
        case Occasion.GIVEN_UP:
            title, lines = f"{system.system}: the restart is called off", _given_up(system, data)
        case Occasion.UP_AGAIN:
            title, lines = f"{system.system} is up again", _up_again(system, data, now)
        case Occasion.CALLED:
            title, lines = f"{system.system} is {state}: a person is needed", _called(system, instance, state, data)
        case Occasion.WAIVER_ENDED:
            title = f"{system.system} is {state}, and a waiver has ended: a person is needed"
            lines = _waiver_ended(system, instance, state, data)
    return title, "\n".join(lines)


def _asked(system: System, instance: str, data: Mapping[str, Json]) -> Iterator[str]:
    restart = record(data, "restart")
    asked = record(restart, "approval")
    by, plan, rule = asked.get("by"), _text(asked, "plan"), system.allow.approve
    yield from _about(system, data)
    yield f"Its pause would begin {_moment(_when(restart, 'due'), system)}."
    yield f"To approve it, one of: {', '.join(map(str, by)) if isinstance(by, list) else 'nobody'}."
    requested = _when(restart, "requested_at")
    if rule is not None and requested is not None:
        silence = "the restart goes on without approval" if rule.on_silence == "allow" else "the restart is given up"
        yield f"If nobody answers: {silence} {_moment(requested + rule.within, system)}."
    yield f'Approve it: relight approve {instance} --plan {plan} --reason "WHY"   (not: --deny)'
    yield f"Plan: {plan}"


def _planned(system: System, instance: str, data: Mapping[str, Json], now: datetime) -> Iterator[str]:
    restart = record(data, "restart")
    yield from _about(system, data)
    yield f"The pause begins {_moment(_pause(system, data, now), system)}."
    yield f"It should be up again within {format_duration(system.restart.limits.downtime)} of that."
    if approver := _text(restart, "approved_by"):
        yield f"Approved by: {approver}"
    if override := _text(restart, "freeze_overridden"):
        yield f"A freeze is overridden for it: {override}"
    yield f'To cancel it, until the shutdown: relight act {instance} abort --reason "WHY"'
    yield (
        f"  or over AMQP, by {_list(system.allow.restart)}: "
        f'relight publish restart.cancelled {system.system} --data \'{{"reason": "WHY"}}\''
    )


def _given_up(system: System, data: Mapping[str, Json]) -> Iterator[str]:
    yield from _about(system, data)
    yield "It does not happen: nothing was stopped, and whatever was paused goes on."
    yield from _failure(record(data, "failure"))


def _up_again(system: System, data: Mapping[str, Json], now: datetime) -> Iterator[str]:
    yield from _about(system, data)
    down = _when(data, "down_since")
    if down is not None:
        limit = format_duration(system.restart.limits.downtime)
        yield f"It was down for {format_duration(_whole(now - down))} (promised: at most {limit})."
    checks = record(record(data, "verified"), "checks")
    yield f"{len(checks)} checks passed." if checks else "It was NOT verified: a check was waived."


def _called(system: System, instance: str, state: str, data: Mapping[str, Json]) -> Iterator[str]:
    last = record(data, "last_abort")
    yield from _about(system, data if "restart" in data else {"restart": dict(last)})
    if state == "halted.database_lost":
        yield "Relight's own database lost what Relight did last: what stands here may be older than the system."
        yield "Relight does nothing more with it until somebody has looked and acted."
    elif state == "halted":
        yield "It is DOWN, or was left half way. Relight does nothing more until somebody acts."
    else:
        yield "It runs as far as anybody knows, but it was not shown to be well."
    yield from _failure(record(data, "failure") or record(last, "failure"))
    yield f"Look: relight status {system.system}; it lists what can be done."
    halted = "adopt or abort" if data.get("resumed") else "retry, adopt or abort"
    ways = {"halted": halted, "halted.database_lost": "adopt or abort"}.get(state, "adopt")
    yield f'Then: relight act {instance} … --reason "WHY", with {ways}.'


def _waiver_ended(system: System, instance: str, state: str, data: Mapping[str, Json]) -> Iterator[str]:
    """All that have ended: who is called about one may not have heard of another."""
    yield f"System: {system.system}"
    for step, waiver in record(data, "waivers").items():
        if isinstance(waiver, dict) and "ended_at" in waiver:
            end = _moment(_when(waiver, "until"), system)
            yield f"The waiver of {step} by {waiver.get('by')} has ended {end}: {_text(waiver, 'reason')}"
    yield f"It goes on being {state}; nobody has shown since that what was waived is well."
    yield f"Look: relight status {system.system}; it lists what can be done."
    yield f'Mended, have it looked at anew: relight act {instance} adopt --reason "WHY"'


def _about(system: System, data: Mapping[str, Json]) -> Iterator[str]:
    restart = record(data, "restart")
    yield f"System: {system.system}"
    if "id" in restart:
        by = restart.get("requested_by") or "Relight"
        yield f"Restart {restart['id']}, asked for by {by}: {_text(restart, 'reason')}"


def _failure(failure: Mapping[str, Json]) -> Iterator[str]:
    if not failure:
        return
    yield f"What happened: {_text(failure, 'reason') or 'it went wrong'} (in {failure.get('state')})"
    for step, error in record(failure, "steps").items():
        yield f"  {step}: {_short(str(error or 'no reason was given'))}"


def _pause(system: System, data: Mapping[str, Json], now: datetime) -> datetime | None:
    """The announced moment; with a required notice the lead time counts from now, when people hear of it."""
    due = _when(record(data, "restart"), "due")
    if due is None or system.restart.notice.delivery != "required":
        return due
    return max(due, now + system.restart.notice.lead)


def _moment(moment: datetime | None, system: System) -> str:
    if moment is None:
        return "at a time not known yet"
    return f"{moment.astimezone(ZoneInfo(system.zone)):at %H:%M:%S on %a %Y-%m-%d} ({system.zone})"


def _when(place: Mapping[str, Json], key: str) -> datetime | None:
    value = place.get(key)
    return datetime.fromisoformat(value) if isinstance(value, str) else None


def _text(place: Mapping[str, Json], key: str) -> str:
    value = place.get(key)
    return _short(value) if isinstance(value, str) else ""


def _list(names: list[str] | None) -> str:
    return " or ".join(names) if names else "nobody (allow.restart is not set)"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _whole(span: timedelta) -> timedelta:
    return timedelta(seconds=round(span.total_seconds()))
