"""A desk at which a test plays the engine for one instance: events in, steps settled by hand, verdicts kept."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from machines.chart import Chart
from machines.model import (
    SETTLED,
    Event,
    Facts,
    InstanceId,
    Machine,
    Move,
    On,
    Snapshot,
    StepFact,
    StepStatus,
    Verdict,
)
from machines.plan import plan, waits
from schemas.base import Closed
from schemas.events import (
    Act,
    ApprovalDenied,
    ApprovalGiven,
    DatabaseLost,
    MetricObserved,
    OperatorActed,
    RestartCancelled,
    RestartRequested,
    SystemRegistered,
)
from schemas.system import System

NOON = datetime(2025, 3, 2, 12, 0, tzinfo=UTC)

GOOD: Mapping[str, dict[str, Any]] = {
    "component.observe": {"running": True},
    "check.run": {"passed": True},
    "snapshot.seal": {"url": "file:///state/1.json", "sha256": "a" * 64},
    "snapshot.verify": {"verified": True, "sha256": "a" * 64},
    "participant.flush": {"digest": "f" * 64},
}
"""What each action returns when all is well."""


def metrics_system(**changes: Any) -> System:
    """Two components of which `reporter` needs `calculator`, a kept `store`, two checks, an alert of each kind."""
    file: dict[str, Any] = {
        "system": "metrics",
        "storage": {"state": "file:///var/lib/metrics"},
        "databases": {"trading": {"url": "env:TRADING"}},
        "components": {
            "reporter": {"process": ["r"], "needs": ["calculator"], "participant": {"pause": {"signal": "USR1"}}},
            "calculator": {"process": ["c"], "needs": ["store", "trading"], "participant": "amqp"},
            "store": {"process": ["s"], "keep": True, "participant": "amqp"},
        },
        "verify": [{"sql": "trading", "query": "select true"}, {"roundtrip": "calculator"}],
        "alerts": [
            {"metric": "cpu", "warning": 70, "critical": 90, "hysteresis": 5},
            {"metric": "disk", "warning": 25, "critical": 10, "direction": "below", "hysteresis": 2},
            {"metric": "memory", "warning": 70, "critical": 90, "hysteresis": 5, "for": "5m"},
        ],
    }
    return System.model_validate({**file, **changes})


class Desk:
    """Raise a trigger, `end` a step, `pass_deadline`; `state`, `data` and `reason` show where it stands."""

    def __init__(self, machine: Machine, instance: str, system: System | None = None, state: str | None = None) -> None:
        self.machine, self.chart = machine, Chart(machine)
        self.system = system or metrics_system()
        self.now = NOON
        self.snapshot = Snapshot(
            instance=InstanceId(instance),
            system=self.system.system,
            machine=machine.name,
            machine_version=machine.version,
            config_hash="standing",
            epoch=1,
            seq=0,
            state=state or machine.initial,
            entry=0,
            entered_at=self.now,
        )
        self.steps: dict[str, StepFact] = {}
        self.live_runs: dict[InstanceId, str] = {}
        self.reason = ""
        self.visited: list[str] = []
        self._events = 0

    @property
    def state(self) -> str:
        return self.snapshot.state

    @property
    def data(self) -> Mapping[str, Any]:
        return self.snapshot.data

    def facts(self, name: str, data: Closed, user: str | None = "ana") -> Facts:
        self._events += 1
        event = Event(f"e{self._events}", "test", name, self.system.system, data, self.now, user=user)
        return Facts(self.now, event, self.snapshot, self.system, tuple(self.steps.values()), dict(self.live_runs))

    def raise_(self, trigger: str, data: Closed | None = None, user: str = "ana") -> Verdict:
        facts = self.facts("operator.acted" if trigger.startswith("operator.") else trigger, data or Closed(), user)
        verdict = self.chart.decide(trigger, facts)
        if isinstance(verdict, Move):
            self._enter(verdict)
        return verdict

    def request(self, reason: str = "new kernel", due: datetime | None = None) -> Verdict:
        return self.raise_("restart.requested", RestartRequested(reason=reason, due=due))

    def answer(self, *, given: bool = True, by: str = "ben", plan: str | None = None) -> Verdict:
        """To the question for approval: of the plan that is asked about, or of another one."""
        asked = plan or self.data["restart"]["approval"]["plan"]
        kind = ApprovalGiven if given else ApprovalDenied
        about = kind(instance=self.snapshot.instance, plan=asked, reason="looked at it")
        return self.raise_("approval.given" if given else "approval.denied", about, user=by)

    def cancel(self) -> Verdict:
        return self.raise_("restart.cancelled", RestartCancelled(reason="traffic peak"))

    def register(self, config_hash: str = "standing") -> Verdict:
        verdict = self.raise_("system.registered", SystemRegistered(config_hash=config_hash))
        if isinstance(verdict, Move):
            self.snapshot = replace(self.snapshot, config_hash=config_hash)
        return verdict

    def lose(self, rows: int) -> Verdict:
        return self.raise_("database.lost", DatabaseLost(epoch=2, rows=rows, reason="restored from a backup"))

    def act(self, act: Act) -> Verdict:
        instance = self.snapshot.instance
        return self.raise_(f"operator.{act}", OperatorActed(instance=instance, act=act, reason="by hand"))

    def measure(self, value: float, at: datetime | None = None) -> Verdict:
        metric = self.snapshot.instance.rsplit("/", 1)[-1]
        return self.raise_("metric.observed", MetricObserved(metric=metric, value=value, at=at))

    def end(self, name: str, status: StepStatus = StepStatus.DONE, error: str | None = None, **result: Any) -> None:
        """The step ends so; what the engine raises because of it is raised."""
        step = self.steps[name]
        evidence = result or (GOOD.get(step.planned.action, {}) if status is StepStatus.DONE else {})
        self.steps[name] = replace(step, status=status, error=error, result=evidence, attempt=1)
        self._progress()

    def end_all(self) -> None:
        """Every step of this state that has not ended ends well, in order; the dwell passes."""
        entry = self.snapshot.entry
        self.now = max(self.now, self.snapshot.dwell_until or self.now)
        if not self.steps:
            self._progress()
        for name in list(self.steps):
            if self.snapshot.entry == entry and self.steps[name].status is StepStatus.PLANNED:
                self.end(name)

    def run_to(self, *states: str) -> None:
        """All goes well until one of `states`."""
        for _ in range(20):
            if self.state in states:
                return
            self.end_all()
        raise AssertionError(f"never came to {states}, but stands at {self.state}")

    def pass_deadline(self) -> Verdict:
        assert self.snapshot.deadline_at is not None
        self.now = self.snapshot.deadline_at
        return self.raise_(On.DEADLINE_PASSED)

    def later(self, **span: float) -> None:
        self.now += timedelta(**span)

    def _progress(self) -> None:
        steps = self.steps.values()
        if any(s.status is StepStatus.FAILED and not s.planned.optional for s in steps):
            self.raise_(On.STEP_FAILED)
        elif all(s.status in SETTLED or (s.planned.optional and s.status is StepStatus.FAILED) for s in steps):
            dwell, state = self.snapshot.dwell_until, self.machine.state(self.state)
            if (dwell is None or dwell <= self.now) and not state.resting and state.asks is None:
                self.raise_(On.COMPLETED)

    def _enter(self, move: Move) -> None:
        data = {key: value for key, value in {**self.data, **move.changes}.items() if value is not None}
        self.reason = move.reason
        if move.stay:
            self.snapshot = replace(self.snapshot, seq=self.snapshot.seq + 1, data=data)
            return
        state = self.machine.state(move.target)
        dwell, deadline = waits(state, self.system, data, self.now)
        self.snapshot = replace(
            self.snapshot,
            state=move.target,
            seq=self.snapshot.seq + 1,
            entry=self.snapshot.entry + 1,
            entered_at=self.now,
            dwell_until=dwell,
            deadline_at=deadline,
            data=data,
        )
        planned = plan(self.machine, move.target, self.system, data)
        self.steps = {step.name: StepFact(step, StepStatus.PLANNED) for step in planned}
        self.visited.append(move.target)
