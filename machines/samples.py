"""The small abstract set of facts that machines are explored over: systems, events, evidence. Nothing decides here."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from machines.model import InstanceId, Machine, On
from schemas.base import Closed, Json
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

START = datetime(2025, 3, 2, 2, 0, tzinfo=UTC)
SPAN = timedelta(minutes=5)
"""The `for` of the abstract alerts, and the length of one moment."""

STANDING = "standing"
"""The hash of the configuration that every explored instance stands on; after a migration the new one is called so."""

THIS_PLAN = "0" * 64
"""Stands in a sample for the hash of the plan that the explored instance asks about."""

Evidence = Mapping[str, Json]

_SEALED = {"url": "file:///state/1.json", "sha256": "a" * 64}
EVIDENCE: Mapping[str, tuple[Evidence, Evidence | None]] = {
    "component.observe": ({"running": True}, {"running": False}),
    "check.run": ({"passed": True}, {"passed": False, "failed_before": True}),
    "check.soak": ({"passed": True}, None),
    "check.critical": ({"passed": True}, None),
    "notice.tell": ({"delivered_at": (START + timedelta(hours=1)).isoformat()}, None),
    "participant.flush": ({"digest": "d" * 64, "where": "file:///state/flushed"}, None),
    "snapshot.seal": (_SEALED, {}),
    "snapshot.verify": ({"verified": True, "sha256": "a" * 64}, {"verified": True, "sha256": "b" * 64}),
}
"""By action: what it returns when all is well, and (where a guard could care) when it is not."""

SETTLED_ALIKE = frozenset({"component.confirm_running"})
"""Actions of whose steps no guard and no change reads more than whether they failed: waived, one makes the same course
as done."""


def _system(name: str, components: dict[str, Json], verify: list[Json], **more: Json) -> System:
    file: dict[str, Json] = {
        "system": name,
        "storage": {"state": "file:///state"},
        "databases": {"db": {"url": "env:DB"}},
        "components": components,
        "verify": verify,
        "alerts": [
            {"metric": "direct", "warning": 70, "critical": 90, "hysteresis": 5},
            {"metric": "lasting", "warning": 70, "critical": 90, "hysteresis": 5, "for": "5m"},
        ],
        **more,
    }
    return System.model_validate(file)


_CHECK: Json = {"sql": "db", "query": "select true"}
SYSTEMS = (
    _system(
        "one",
        {
            "worker": {"process": ["worker"], "participant": {"resume": {"signal": "USR2"}}},
            "store": {"process": ["store"], "keep": True},
        },
        [_CHECK],
        restart={"notice": {"delivery": "required"}},
        channels={"warning": ["env:MAIL"]},
    ),
    _system(
        "two",
        {
            "first": {"process": ["first"], "participant": "amqp"},
            "second": {"process": ["second"], "needs": ["first"], "participant": "amqp"},
        },
        [_CHECK],
        restart={"soak": "10s"},
    ),
    *(
        _system(
            f"{silence}ing",
            {"worker": {"process": ["worker"]}},
            [_CHECK, _CHECK],
            allow={"approve": {"by": ["ana", "ben"], "on_silence": silence}},
            # It covers the moment that is explored, but not the pause that is announced for later.
            freeze=[{"when": "SUN 01:00-02:10", "blocks": ["restart"]}],
            channels={"warning": ["env:MAIL"]},
            gate={} if silence == "deny" else None,
        )
        for silence in ("deny", "allow")
    ),
    _system("waiting", {"worker": {"process": ["worker"]}}, [_CHECK], restart={"critical": [_CHECK]}),
)
"""As few as tell apart everything that guards look at: with and without participants, one and several of each."""


def instances(machine: Machine, system: System) -> Iterator[InstanceId]:
    """The instances of `machine` for `system`: one, or one for each alert when it listens to measurements."""
    if any(transition.trigger == "metric.observed" for transition in machine.transitions):
        yield from (InstanceId(f"{machine.name}/{system.system}/{alert.metric}") for alert in system.alerts)
    else:
        yield InstanceId(f"{machine.name}/{system.system}")


def samples(machine: Machine, instance: InstanceId) -> tuple[tuple[str, Closed], ...]:
    """(trigger, data) of everything that may come from outside; unknown triggers come with empty data."""
    metric = instance.rsplit("/", 1)[-1]
    known: dict[str, tuple[Closed, ...]] = {
        "restart.requested": (RestartRequested(reason="wanted"),),
        "restart.cancelled": (RestartCancelled(reason="not wanted"),),
        "approval.given": (ApprovalGiven(instance=instance, plan=THIS_PLAN, reason="agreed"),),
        "approval.denied": (ApprovalDenied(instance=instance, plan=THIS_PLAN, reason="not tonight"),),
        "system.registered": (SystemRegistered(config_hash=STANDING), SystemRegistered(config_hash="new")),
        "database.lost": tuple(DatabaseLost(epoch=2, rows=rows, reason="restored") for rows in (0, 3)),
        # Each level, each hysteresis, and a measurement that comes too late.
        "metric.observed": (
            *(MetricObserved(metric=metric, value=value) for value in (50.0, 68.0, 80.0, 88.0, 95.0)),
            MetricObserved(metric=metric, value=95.0, at=START - SPAN),
        ),
        **{
            f"operator.{act}": (OperatorActed(instance=instance, act=act, reason="by hand"),)
            for act in Act
        },
    }  # fmt: skip
    triggers = dict.fromkeys(transition.trigger for transition in machine.transitions)
    for quiet in ("system.registered",):
        triggers.setdefault(quiet)
    return tuple(
        (str(trigger), data)
        for trigger in triggers
        if trigger not in tuple(On)
        for data in known.get(trigger, (Closed(),))
    )
