"""What Relight raises inside belongs to the causation chain of the event that began it."""

from dataclasses import replace
from datetime import UTC, datetime

from machines.model import Event, InstanceId, Snapshot
from schemas.events import RestartRequested, TimerFired
from service.engine.chains import inherited, kept

NOW = datetime(2026, 1, 1, tzinfo=UTC)
INSTANCE = InstanceId("lifecycle/metrics")
AT_REST = Snapshot(INSTANCE, "metrics", "lifecycle", 1, "c", 1, 1, "operational", 1, NOW)
ASKED = Event("e", "alertmanager", "restart.requested", "metrics", RestartRequested(reason="it is critical"), NOW)
DUE = Event("t", "relight/timers", "timer.fired", "metrics", TimerFired(instance=INSTANCE, entry=2, kind="dwell"), NOW)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_due_time_continues_the_chain_of_the_event_that_began_it() -> None:
    caused = replace(ASKED, depth=3, correlation="probe m1", traceparent=TRACE)
    under_way = replace(AT_REST, data=kept(caused, AT_REST))
    found = inherited(DUE, under_way)
    assert (found.depth, found.correlation, found.traceparent) == (3, "probe m1", TRACE)
    assert found.id == DUE.id
    assert kept(found, under_way) == {}, "it stays the chain of the event from outside"


def test_event_from_outside_begins_a_chain_of_its_own() -> None:
    under_way = replace(AT_REST, data=kept(replace(ASKED, depth=9, correlation="old"), AT_REST))
    mine = replace(ASKED, depth=1, correlation="new")
    assert inherited(mine, under_way) == mine
    assert kept(mine, under_way) == {"chain": {"depth": 1, "correlation": "new"}}
    assert kept(ASKED, under_way) == {"chain": None}, "a person's restart is caused by nothing before it"


def test_where_nobody_began_a_chain_nothing_is_kept_of_one() -> None:
    assert kept(ASKED, AT_REST) == {}
    assert inherited(DUE, AT_REST) == DUE
