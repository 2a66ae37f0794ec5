"""The alert of one system and metric: normal, warning, critical, each perhaps on the rise.

Whatever decides where this machine goes next stands in this file. A value rises into a level when it lies beyond the
threshold, for as long as the alert's `for` says; it falls out of one when it has come back by the hysteresis. The times
that count are those of the measurements; one that is older than what was last recorded moves nothing.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from machines.address import carried
from machines.model import Event, Facts, InstanceId, Machine, On, Reason, State, Transition
from schemas.base import Json
from schemas.events import MetricObserved
from schemas.rules import Alert, Direction
from schemas.system import System

NAME = "alert"
MEASURED = "metric.observed"


class At(StrEnum):
    NORMAL = "normal"
    NORMAL_RISING = "normal.rising"
    WARNING = "warning"
    WARNING_RISING = "warning.rising"
    CRITICAL = "critical"


_BEYOND_WARNING = ("warning", "critical")


# What a measurement says.


def _observed(facts: Facts) -> MetricObserved | None:
    data = facts.event.data
    return data if isinstance(data, MetricObserved) else None


def _measured(facts: Facts) -> datetime:
    """When it was measured; a clock that runs ahead counts as now, or later measurements would all seem late."""
    seen = _observed(facts)
    moment = min(seen.at, facts.event.at) if seen is not None and seen.at is not None else facts.event.at
    return moment.astimezone(UTC)


def _thresholds(facts: Facts) -> Alert | None:
    return facts.system.alert(facts.snapshot.instance.rsplit("/", 1)[-1])


def _beyond(alert: Alert, value: float, threshold: float, slack: float = 0.0) -> bool:
    return value > threshold - slack if alert.direction is Direction.ABOVE else value < threshold + slack


def _level(facts: Facts) -> str:
    """The level that the measured value has by itself, hysteresis aside."""
    alert, seen = _thresholds(facts), _observed(facts)
    if alert is None or seen is None:
        return "normal"
    if _beyond(alert, seen.value, alert.critical):
        return "critical"
    return "warning" if _beyond(alert, seen.value, alert.warning) else "normal"


def _held(facts: Facts, level: str) -> bool:
    """Whether the value still holds `level`: it has not come back from its threshold by the hysteresis."""
    alert, seen = _thresholds(facts), _observed(facts)
    if alert is None or seen is None:
        return False
    return _beyond(alert, seen.value, alert.critical if level == "critical" else alert.warning, alert.hysteresis)


def _span(system: System, metric: str) -> timedelta:
    alert = system.alert(metric)
    return alert.for_ if alert is not None else timedelta(0)


# Guards: why not. What a measurement that moves nothing would answer is absorbed, so these stay short.


def in_order(facts: Facts) -> Reason | None:
    last = _moment(facts.snapshot.data, "measured_at")
    return None if last is None or _measured(facts) >= last else Reason("measured before what was last recorded")


def at_once(facts: Facts) -> Reason | None:
    alert = _thresholds(facts)
    return Reason("a breach has to last") if alert is not None and alert.for_ else None


def beyond_warning(facts: Facts) -> Reason | None:
    return None if _level(facts) in _BEYOND_WARNING else Reason("not beyond the warning threshold")


def beyond_critical(facts: Facts) -> Reason | None:
    return None if _level(facts) == "critical" else Reason("not beyond the critical threshold")


def not_beyond_warning(facts: Facts) -> Reason | None:
    return None if _level(facts) == "normal" else Reason("beyond the warning threshold")


def not_beyond_critical(facts: Facts) -> Reason | None:
    return None if _level(facts) != "critical" else Reason("beyond the critical threshold")


def back_from_warning(facts: Facts) -> Reason | None:
    return Reason("still at warning, hysteresis counted") if _held(facts, "warning") else None


def back_from_critical(facts: Facts) -> Reason | None:
    return Reason("still at critical, hysteresis counted") if _held(facts, "critical") else None


def level_changed(facts: Facts) -> Reason | None:
    return None if _level(facts) != facts.snapshot.data.get("level") else Reason("the level is the same")


def critical_lasted(facts: Facts) -> Reason | None:
    since = _moment(facts.snapshot.data, "critical_at")
    if since is None:
        return Reason("not critical")
    span = _span(facts.system, str(facts.snapshot.data.get("metric")))
    return None if facts.now - since >= span else Reason(f"critical since {since:%H:%M:%S} only")


def still_critical(facts: Facts) -> Reason | None:
    return None if "critical_at" in facts.snapshot.data else Reason("not critical any more")


# Changes: what is remembered.


def note(facts: Facts) -> Mapping[str, Json]:
    """The measurement that moved the alert. `since`: the first measurement at this level."""
    return {**_noted(facts, _level(facts)), "breached_at": None, "critical_at": None}


def note_held(facts: Facts) -> Mapping[str, Json]:
    """Fallen from critical: a warning, also where only the hysteresis still holds it."""
    return {**_noted(facts, "warning"), "breached_at": None, "critical_at": None}


def note_fallen(facts: Facts) -> Mapping[str, Json]:
    """Back by the hysteresis: normal."""
    return {**_noted(facts, "normal"), "breached_at": None, "critical_at": None}


def note_rise(facts: Facts) -> Mapping[str, Json]:
    """The first measurement beyond: from here on `for` is counted, and from the first critical one for critical."""
    level, measured = _level(facts), _measured(facts).isoformat()
    critical_at = measured if level == "critical" else None
    return {**_noted(facts, level), "breached_at": measured, "critical_at": critical_at}


def note_level(facts: Facts) -> Mapping[str, Json]:
    """Another level on the rise; `breached_at` stays, so the wait that is under way goes on."""
    level = _level(facts)
    return {**_noted(facts, level), "critical_at": _measured(facts).isoformat() if level == "critical" else None}


def note_lasted(facts: Facts) -> Mapping[str, Json]:
    return {"breached_at": None, "critical_at": None}


def note_wait_for_critical(facts: Facts) -> Mapping[str, Json]:
    """Warning has lasted; critical is waited for from its own first measurement on."""
    return {"breached_at": facts.snapshot.data.get("critical_at")}


def _noted(facts: Facts, level: str) -> dict[str, Json]:
    seen, measured = _observed(facts), _measured(facts).isoformat()
    known = facts.snapshot.data
    return {
        "metric": seen.metric if seen is not None else known.get("metric"),
        "value": seen.value if seen is not None else known.get("value"),
        "level": level,
        "since": known.get("since", measured) if known.get("level") == level else measured,
        "measured_at": measured,
    }


def _moment(data: Mapping[str, Json], key: str) -> datetime | None:
    value = data.get(key)
    return datetime.fromisoformat(value) if isinstance(value, str) else None


def _lasted(system: System, data: Mapping[str, Json], now: datetime) -> datetime:
    return (_moment(data, "breached_at") or now) + _span(system, str(data.get("metric")))


STATES = (
    State(At.NORMAL, resting=True),
    State(At.NORMAL_RISING, dwell=_lasted, then="call it warning or critical"),
    State(At.WARNING, resting=True),
    State(At.WARNING_RISING, dwell=_lasted, then="call it critical"),
    State(At.CRITICAL, resting=True),
)

TRANSITIONS = (
    Transition(At.NORMAL, MEASURED, At.CRITICAL, (in_order, beyond_critical, at_once), note, "beyond critical"),
    Transition(At.NORMAL, MEASURED, At.WARNING, (in_order, beyond_warning, at_once), note, "beyond warning"),
    Transition(At.NORMAL, MEASURED, At.NORMAL_RISING, (in_order, beyond_warning), note_rise, "warning, so far"),
    Transition(At.NORMAL_RISING, MEASURED, At.NORMAL, (in_order, not_beyond_warning), note, "did not last"),
    Transition(At.NORMAL_RISING, MEASURED, At.NORMAL_RISING, (in_order, level_changed), note_level, "another level"),
    Transition(At.NORMAL_RISING, On.COMPLETED, At.CRITICAL, (critical_lasted,), note_lasted, "critical has lasted"),
    Transition(
        At.NORMAL_RISING, On.COMPLETED, At.WARNING_RISING, (still_critical,), note_wait_for_critical,
        "warning has lasted, critical not yet",
    ),
    Transition(At.NORMAL_RISING, On.COMPLETED, At.WARNING, (), note_lasted, "warning has lasted"),
    Transition(At.WARNING, MEASURED, At.NORMAL, (in_order, back_from_warning), note_fallen, "back to normal"),
    Transition(At.WARNING, MEASURED, At.CRITICAL, (in_order, beyond_critical, at_once), note, "beyond critical"),
    Transition(At.WARNING, MEASURED, At.WARNING_RISING, (in_order, beyond_critical), note_rise, "critical, so far"),
    Transition(At.WARNING_RISING, MEASURED, At.NORMAL, (in_order, back_from_warning), note_fallen, "back to normal"),
    Transition(At.WARNING_RISING, MEASURED, At.WARNING, (in_order, not_beyond_critical), note_held, "did not last"),
    Transition(At.WARNING_RISING, On.COMPLETED, At.CRITICAL, (), note_lasted, "critical has lasted"),
    Transition(At.CRITICAL, MEASURED, At.NORMAL, (in_order, back_from_warning), note_fallen, "back to normal"),
    Transition(At.CRITICAL, MEASURED, At.WARNING, (in_order, back_from_critical), note_held, "back to warning"),
)  # fmt: skip


def address(event: Event) -> InstanceId | None:
    if isinstance(event.data, MetricObserved):
        return InstanceId(f"{NAME}/{event.system}/{event.data.metric}")
    return carried(NAME, event)


ALERT = Machine(
    name=NAME,
    version=1,
    initial=At.NORMAL,
    states=STATES,
    transitions=TRANSITIONS,
    address=address,
    absorbs=frozenset({MEASURED}),
)
