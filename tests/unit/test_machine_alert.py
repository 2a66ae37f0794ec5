"""The alert of one metric, told as stories: direct moves, `for`, hysteresis, late measurements, missing thresholds."""

from datetime import timedelta, timezone

import pytest

from machines.alert import ALERT, At, address
from machines.model import Absorbed, Move
from schemas.events import MetricObserved
from tests.unit.machine_desk import NOON, Desk, metrics_system


def alert(metric: str) -> Desk:
    return Desk(ALERT, f"alert/metrics/{metric}")


def course(desk: Desk, *values: float) -> list[str]:
    """Where each measurement, a minute apart, leaves the alert."""
    states = []
    for value in values:
        desk.later(minutes=1)
        desk.measure(value)
        states.append(desk.state)
    return states


def test_value_without_duration_moves_at_once_and_falls_only_past_the_hysteresis() -> None:
    desk = alert("cpu")
    values = (70, 70.1, 66, 90.1, 85.1, 85, 65.1, 65, 95, 64)
    assert course(desk, *values) == [
        "normal",
        "warning",
        "warning",
        "critical",
        "critical",
        "warning",
        "warning",
        "normal",
        "critical",
        "normal",
    ]


def test_metric_that_warns_below_is_the_mirror_of_one_above() -> None:
    assert course(alert("disk"), 25, 24.9, 26.9, 9.9, 11.9, 12, 27) == [
        "normal",
        "warning",
        "warning",
        "critical",
        "critical",
        "warning",
        "normal",
    ]


def test_each_move_records_value_level_since_and_when_it_was_measured() -> None:
    desk = alert("cpu")
    desk.measure(80, at=NOON - timedelta(seconds=30))
    assert desk.data == {
        "metric": "cpu",
        "value": 80.0,
        "level": "warning",
        "since": "2025-03-02T11:59:30+00:00",
        "measured_at": "2025-03-02T11:59:30+00:00",
    }


def test_measurement_that_moves_nothing_is_absorbed_and_leaves_the_snapshot_alone() -> None:
    desk = alert("cpu")
    desk.measure(80)
    before = desk.snapshot
    for value in (81, 75, 66):
        assert desk.measure(value) == Absorbed()
    assert desk.snapshot == before


def test_breach_counts_only_after_it_lasted() -> None:
    desk = alert("memory")
    assert course(desk, 75, 80, 72) == [At.NORMAL_RISING] * 3
    assert desk.snapshot.entry == 1
    assert desk.snapshot.dwell_until == NOON + timedelta(minutes=6)
    desk.end_all()
    assert desk.state == At.WARNING
    assert desk.reason == "warning has lasted: not critical; not critical any more"
    assert "breached_at" not in desk.data


def test_breach_that_did_not_last_is_forgotten() -> None:
    desk = alert("memory")
    assert course(desk, 75, 69) == [At.NORMAL_RISING, At.NORMAL]
    desk.later(minutes=1)
    desk.measure(75)
    assert desk.snapshot.dwell_until == NOON + timedelta(minutes=8)


def test_becoming_critical_on_the_rise_does_not_start_the_wait_anew() -> None:
    desk = alert("memory")
    course(desk, 75, 95)
    assert desk.snapshot.entry == 2
    assert desk.snapshot.dwell_until == NOON + timedelta(minutes=6)
    assert desk.data["critical_at"] == (NOON + timedelta(minutes=2)).isoformat()


def test_critical_from_the_first_moment_is_critical_when_it_lasted() -> None:
    desk = alert("memory")
    course(desk, 95)
    desk.end_all()
    assert desk.state == At.CRITICAL
    assert not {"critical_at", "breached_at"} & set(desk.data)


def test_critical_that_has_not_lasted_is_a_warning_that_waits_for_the_rest_of_its_time() -> None:
    desk = alert("memory")
    course(desk, 75, 95)
    desk.end_all()
    assert desk.state == At.WARNING_RISING
    assert desk.machine.state(desk.state).status == "Warning"
    assert desk.snapshot.dwell_until == NOON + timedelta(minutes=7)
    desk.end_all()
    assert desk.state == At.CRITICAL


def test_critical_that_came_back_to_warning_in_time_is_only_a_warning() -> None:
    desk = alert("memory")
    course(desk, 95, 80)
    assert "critical_at" not in desk.data
    desk.end_all()
    assert desk.state == At.WARNING


def test_critical_that_does_not_last_falls_back_to_warning_or_normal() -> None:
    for value, state in ((89, At.WARNING), (66, At.WARNING), (65, At.NORMAL)):
        desk = alert("memory")
        course(desk, 75)
        desk.end_all()
        assert course(desk, 95, value) == [At.WARNING_RISING, state]
        assert desk.data["level"] == state.split(".")[0]


def test_falling_needs_no_duration() -> None:
    desk = alert("memory")
    course(desk, 95)
    desk.end_all()
    assert course(desk, 86, 80, 60) == [At.CRITICAL, At.WARNING, At.NORMAL]


def test_wait_counts_from_the_measurement_and_not_from_its_arrival() -> None:
    desk = alert("memory")
    desk.measure(75, at=NOON - timedelta(minutes=4))
    assert desk.snapshot.dwell_until == NOON + timedelta(minutes=1)


def test_late_measurement_moves_nothing() -> None:
    desk = alert("cpu")
    desk.measure(80)
    desk.later(minutes=1)
    assert desk.measure(10, at=NOON - timedelta(seconds=1)) == Absorbed()
    assert desk.state == At.WARNING
    assert isinstance(desk.measure(10, at=NOON), Move)


def test_clock_that_runs_ahead_does_not_make_later_measurements_late() -> None:
    desk = alert("cpu")
    desk.measure(80, at=NOON + timedelta(days=300))
    assert desk.data["measured_at"] == NOON.isoformat()
    desk.later(minutes=1)
    desk.measure(10)
    assert desk.state == At.NORMAL


def test_times_are_kept_in_utc_whatever_zone_the_measurement_names() -> None:
    desk = alert("cpu")
    desk.measure(80, at=NOON.astimezone(timezone(timedelta(hours=5))))
    assert desk.data["measured_at"] == "2025-03-02T12:00:00+00:00"


def test_metric_without_thresholds_is_always_normal() -> None:
    desk = alert("temperature")
    assert desk.measure(10_000) == Absorbed()
    assert desk.state == At.NORMAL


@pytest.mark.parametrize("state", [At.NORMAL_RISING, At.WARNING, At.WARNING_RISING, At.CRITICAL])
def test_alert_whose_thresholds_were_taken_away_comes_to_rest_at_normal(state: str) -> None:
    desk = Desk(ALERT, "alert/metrics/cpu", metrics_system(alerts=[]), state=state)
    desk.measure(99)
    assert desk.state == At.NORMAL


def test_each_metric_of_each_system_has_an_instance_of_its_own() -> None:
    desk = alert("cpu")
    event = desk.facts("metric.observed", MetricObserved(metric="memory", value=1)).event
    assert address(event) == "alert/metrics/memory"
