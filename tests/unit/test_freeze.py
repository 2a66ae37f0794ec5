"""When a freeze counts: days, zones, midnight, and the two nights a year that have another length."""

from datetime import UTC, datetime

import pytest

from schemas.rules import Freeze
from schemas.system import System
from tests.unit.machine_desk import metrics_system


def freeze(when: str) -> Freeze:
    return Freeze.model_validate({"when": when, "blocks": ["restart"]})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def frozen(*lines: str, zone: str = "UTC") -> System:
    return metrics_system(zone=zone, freeze=[{"when": line, "blocks": ["restart"]} for line in lines])


EXCHANGE = "MON-FRI 09:30-16:00 America/New_York"


@pytest.mark.parametrize(
    ("when", "moment", "covered"),
    [
        # New York is five hours behind in January, four in July: the same wall clock, another moment.
        (EXCHANGE, "2026-01-12T14:29", False),
        (EXCHANGE, "2026-01-12T14:30", True),
        (EXCHANGE, "2026-01-12T20:59", True),
        (EXCHANGE, "2026-01-12T21:00", False),
        (EXCHANGE, "2026-07-13T13:30", True),
        (EXCHANGE, "2026-07-13T20:00", False),
        (EXCHANGE, "2026-01-10T15:00", False),  # a Saturday
        # Over midnight: the night belongs to the day on which it began.
        ("FRI 22:00-06:00", "2026-01-09T23:00", True),
        ("FRI 22:00-06:00", "2026-01-10T05:59", True),
        ("FRI 22:00-06:00", "2026-01-10T06:00", False),
        ("FRI 22:00-06:00", "2026-01-09T05:00", False),
        ("SUN-TUE 00:00-24:00", "2026-01-12T23:59", True),
        ("SUN-TUE 00:00-24:00", "2026-01-14T00:00", False),
        ("SAT-MON 00:00-24:00", "2026-01-11T12:00", True),
        # Berlin, 29 March 2026: 02:00 to 03:00 does not exist; 25 October: it comes twice.
        ("SUN 02:00-03:00 Europe/Berlin", "2026-03-29T00:59", False),
        ("SUN 02:00-03:00 Europe/Berlin", "2026-03-29T01:00", False),
        ("SUN 02:00-03:00 Europe/Berlin", "2026-10-25T00:30", True),
        ("SUN 02:00-03:00 Europe/Berlin", "2026-10-25T01:30", True),
        ("SUN 02:00-03:00 Europe/Berlin", "2026-10-25T02:00", False),
    ],
)
def test_freeze_goes_by_the_wall_clock_of_its_zone(when: str, moment: str, covered: bool) -> None:
    assert freeze(when).covers(at(moment), "UTC") is covered


def test_line_without_a_zone_means_the_systems_own() -> None:
    assert frozen("MON 09:00-10:00", zone="Asia/Tokyo").frozen("restart", at("2026-01-12T00:30")) == "MON 09:00-10:00"
    assert frozen("MON 09:00-10:00", zone="Europe/Berlin").frozen("restart", at("2026-01-12T00:30")) is None


@pytest.mark.parametrize(
    ("lines", "moment", "end"),
    [
        ([EXCHANGE], "2026-01-12T15:00", "2026-01-12T21:00"),
        ([EXCHANGE], "2026-07-13T15:00", "2026-07-13T20:00"),
        (["FRI 22:00-06:00"], "2026-01-09T23:00", "2026-01-10T06:00"),
        (["FRI 22:00-06:00"], "2026-01-10T01:00", "2026-01-10T06:00"),
        # One day after the other, and one line after the other: it ends when the last of them does.
        (["MON-WED 00:00-24:00"], "2026-01-12T10:00", "2026-01-15T00:00"),
        (
            ["MON 09:00-12:00", "MON 11:00-13:00 Europe/Berlin", "MON 12:00-12:30"],
            "2026-01-12T09:30",
            "2026-01-12T12:30",
        ),
        # The hour that comes twice is frozen twice.
        (["SUN 02:00-03:00 Europe/Berlin"], "2026-10-25T00:10", "2026-10-25T02:00"),
        (["SUN 01:00-02:30 Europe/Berlin"], "2026-10-25T00:10", "2026-10-25T00:30"),
        (["SUN 01:00-02:30 Europe/Berlin"], "2026-10-25T01:10", "2026-10-25T01:30"),
        # Nothing to wait for, and nothing that ends.
        ([EXCHANGE], "2026-01-10T15:00", None),
        (["MON-SUN 00:00-24:00"], "2026-01-12T15:00", None),
    ],
)
def test_end_of_a_freeze_is_when_a_restart_may_begin_again(lines: list[str], moment: str, end: str | None) -> None:
    system = frozen(*lines)
    found = system.frozen_until("restart", at(moment))
    assert found == (at(end) if end else None)
    assert found is None or system.frozen("restart", found) is None


def test_freeze_blocks_only_what_it_names() -> None:
    system = metrics_system(freeze=[{"when": "MON 09:00-10:00", "blocks": ["tasks"]}])
    assert system.frozen("tasks", at("2026-01-12T09:30")) is not None
    assert system.frozen("restart", at("2026-01-12T09:30")) is None
    assert system.frozen_until("restart", at("2026-01-12T09:30")) is None
