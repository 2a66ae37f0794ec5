"""A random walk of the alert beside a second, hand-written one that works on plain numbers: both agree throughout."""

from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from machines.alert import ALERT
from tests.unit.machine_desk import NOON, Desk

VALUES = st.sampled_from([0.0, 64.9, 65.0, 65.1, 69.9, 70.0, 70.1, 84.9, 85.0, 85.1, 89.9, 90.0, 90.1, 99.0])
"""Around every threshold (warning 70, critical 90) and every way back (5 lower)."""


class _AlertWalk(RuleBasedStateMachine):
    """`minutes` counts from noon; the hand-written side keeps a level and when which rise began."""

    metric = ""
    lasting = 0

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(ALERT, f"alert/metrics/{self.metric}")
        self.minutes = 0
        self.level = "normal"
        self.rising: int | None = None
        self.critical: int | None = None
        self.last: int | None = None

    @property
    def expected(self) -> str:
        return self.level if self.rising is None else f"{self.level}.rising"

    @rule(minutes=st.integers(1, 3))
    def wait(self, minutes: int) -> None:
        for _ in range(minutes):
            self.minutes += 1
            self.desk.later(minutes=1)
            if self.rising is not None and self.minutes >= self.rising + self.lasting:
                self._lasted()
                self.desk.raise_("completed")

    def _lasted(self) -> None:
        if self.level == "warning" or (self.critical is not None and self.minutes - self.critical >= self.lasting):
            self.level, self.rising, self.critical = "critical", None, None
        elif self.critical is not None:
            self.level, self.rising = "warning", self.critical
        else:
            self.level, self.rising = "warning", None

    @rule(value=VALUES, ago=st.sampled_from([0, 0, 0, 1, 2]))
    def measure(self, value: float, ago: int) -> None:
        at = self.minutes - ago
        if self.last is None or at >= self.last:
            before = (self.level, self.rising, self.critical)
            self._measured(value, at)
            if (self.level, self.rising, self.critical) != before:
                self.last = at
        self.desk.measure(value, at=NOON + timedelta(minutes=at))
        if self.rising is not None and self.minutes >= self.rising + self.lasting:
            self._lasted()
            self.desk.raise_("completed")

    def _measured(self, value: float, at: int) -> None:
        if self.level == "normal" and self.rising is not None:
            self._measured_on_the_rise(value, at)
        elif self.level == "normal" and value > 70:
            if not self.lasting:
                self.level = "critical" if value > 90 else "warning"
            else:
                self.rising, self.critical = at, at if value > 90 else None
        elif self.level != "normal" and value <= 65:
            self.level, self.rising, self.critical = "normal", None, None
        elif self.level == "critical" and value <= 85:
            self.level = "warning"
        elif self.level == "warning" and self.rising is not None and value <= 90:
            self.rising = self.critical = None
        elif self.level == "warning" and self.rising is None and value > 90:
            if self.lasting:
                self.rising = self.critical = at
            else:
                self.level = "critical"

    def _measured_on_the_rise(self, value: float, at: int) -> None:
        if value <= 70:
            self.rising = self.critical = None
        elif value <= 90:
            self.critical = None
        elif self.critical is None:
            self.critical = at

    @invariant()
    def both_say_the_same(self) -> None:
        assert self.desk.state == self.expected

    @precondition(lambda self: self.rising is not None)
    @invariant()
    def the_wait_ends_when_the_breach_has_lasted(self) -> None:
        assert self.rising is not None
        assert self.desk.snapshot.dwell_until == NOON + timedelta(minutes=self.rising + self.lasting)


class DirectAlertWalk(_AlertWalk):
    metric = "cpu"
    lasting = 0


class LastingAlertWalk(_AlertWalk):
    metric = "memory"
    lasting = 5


_SETTINGS = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
DirectAlertWalk.TestCase.settings = _SETTINGS
LastingAlertWalk.TestCase.settings = _SETTINGS
TestDirectAlertWalk = DirectAlertWalk.TestCase
TestLastingAlertWalk = LastingAlertWalk.TestCase
