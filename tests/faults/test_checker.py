"""The checker is checked: a clean run yields nothing, and each planted fault is found by its name."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.faults.checker import Fault, check
from tests.faults.clean import (
    ALERT,
    LIFECYCLE,
    MACHINES,
    PROBE,
    T0,
    URL,
    altered_record,
    clean_run,
    during,
    put,
    swap,
    without,
)
from tests.faults.evidence import Effect, Evidence, Operation, Published, Strike, Table, Verdict, Write


@pytest.fixture
def clean() -> Evidence:
    return clean_run()


def in_doubt(evidence: Evidence, event: str) -> list[Published]:
    """What was published, of which nobody ever knew whether the broker took this event."""
    return [replace(one, verdict=Verdict.UNKNOWN) if one.id == event else one for one in evidence.published]


def loses_seven(record: dict[str, Any]) -> None:
    """Nothing of this run was lost."""
    record["event"]["type"] = "relight.database.lost"
    span = {"first": T0.isoformat(), "last": T0.isoformat()}
    record["snapshot"]["data"]["lost"] = {"rows": 7, "entry": 0, "events": [], **span}


PLANTED: dict[str, tuple[Callable[[Evidence], Evidence], Fault]] = {
    "a confirmed event left no trace": (
        lambda e: replace(e, inbox=without(e.inbox, 3)), Fault.LOST_EVENT,
    ),
    "an event was taken in twice": (
        lambda e: replace(e, inbox=[*e.inbox, e.inbox[0]]), Fault.DOUBLED_INBOX_ROW,
    ),
    "an event has its outcome at a stranger": (
        lambda e: replace(e, inbox=put(e.inbox, 3, outcomes={"alert/shop/other": "absorbed"})), Fault.WRONG_OUTCOME,
    ),
    "an event has no outcome": (
        lambda e: replace(e, inbox=put(e.inbox, 3, outcomes={})), Fault.WRONG_OUTCOME,
    ),
    "a dead event has no dead letter": (
        lambda e: replace(e, dead=()), Fault.WRONG_OUTCOME,
    ),
    "an event was logged that nobody published": (
        lambda e: replace(e, published=e.published[1:]), Fault.STRANGE_EVENT,
    ),
    "a confirmed event had its effect twice": (
        lambda e: replace(e, log=[*e.log, replace(e.log[0], seq=4)]), Fault.DOUBLED_LOG_ROW,
    ),
    "an unknown event was taken in twice": (
        lambda e: replace(e, published=in_doubt(e, "r1"), inbox=[*e.inbox, next(r for r in e.inbox if r.id == "r1")]),
        Fault.DOUBLED_INBOX_ROW,
    ),
    "an unknown event had its effect twice": (
        lambda e: replace(
            e, published=in_doubt(e, "r1"), log=[*e.log, replace(next(r for r in e.log if r.event_id == "r1"), seq=7)]
        ),
        Fault.DOUBLED_LOG_ROW,
    ),
    "an applied event moved nothing": (
        lambda e: replace(e, inbox=put(e.inbox, 3, outcomes={ALERT: "applied"})), Fault.OUTCOME_WITHOUT_LOG_ROW,
    ),
    "an absorbed event moved something": (
        lambda e: replace(e, inbox=put(e.inbox, 0, outcomes={ALERT: "absorbed"})), Fault.LOG_ROW_WITHOUT_OUTCOME,
    ),
    "a log row is missing": (
        lambda e: replace(e, log=without(e.log, 1)), Fault.GAP_IN_SEQ,
    ),
    "a row begins where the one before did not end": (
        lambda e: replace(e, log=put(e.log, 1, state_from="warning")), Fault.BROKEN_EDGE,
    ),
    "a refusal moved its instance": (
        lambda e: replace(e, log=put(e.log, 2, state_to="critical")), Fault.BROKEN_EDGE,
    ),
    "a record was changed afterwards": (
        lambda e: replace(e, log=put(e.log, 0, record=e.log[0].record.replace("then", "now!"))), Fault.BROKEN_HASH,
    ),
    "a column was changed afterwards": (
        lambda e: replace(e, log=put(e.log, 1, event_id="m9")), Fault.ALTERED_COLUMN,
    ),
    "the snapshot is not what the log makes": (
        lambda e: replace(e, instances=put(e.instances, 0, data='{"level": "critical"}')), Fault.WRONG_FOLD,
    ),
    "the snapshot is of a state the log did not reach": (
        lambda e: replace(e, instances=put(e.instances, 0, state="critical")), Fault.WRONG_FOLD,
    ),
    "the snapshot counts another entry": (
        lambda e: replace(e, instances=put(e.instances, 1, entry=9)), Fault.WRONG_FOLD,
    ),
    "a recorded change is missing": (
        lambda e: altered_record(e, 1, lambda record: record["changes"].pop("since")), Fault.WRONG_FOLD,
    ),
    "a restored database says that it has lost more than is missing": (
        lambda e: altered_record(e, 1, loses_seven), Fault.MISCOUNTED_LOSS,
    ),
    "an instance has a log and no snapshot": (
        lambda e: replace(e, instances=without(e.instances, 0)), Fault.WRONG_FOLD,
    ),
    "a state is not in the table": (
        lambda e: replace(e, machines={**MACHINES, ("alert", 1): Table(frozenset({"normal"}), frozenset())}),
        Fault.UNKNOWN_STATE,
    ),
    "a move is not in the table": (
        lambda e: replace(
            e,
            machines={
                **MACHINES, ("alert", 1): replace(MACHINES["alert", 1], edges=frozenset({("normal", "critical")}))
            },
        ),
        Fault.UNKNOWN_EDGE,
    ),
    "a move is in the newest table and not in that of its version": (
        lambda e: replace(
            e,
            machines={
                ("alert", 2): MACHINES["alert", 1], **MACHINES,
                ("alert", 1): replace(MACHINES["alert", 1], edges=frozenset({("normal", "critical")})),
            },
        ),
        Fault.UNKNOWN_EDGE,
    ),
    "an instance begins elsewhere than its machine": (
        lambda e: replace(e, machines={**MACHINES, ("alert", 1): replace(MACHINES["alert", 1], initial="warning")}),
        Fault.UNKNOWN_EDGE,
    ),
    "an instance changed its file in the middle of a restart": (
        lambda e: altered_record(
            replace(e, log=put(e.log, 4, config_hash="c1")), 4, lambda record: record.update(config_hash="c1")
        ),
        Fault.MOVED_UNDER_WAY,
    ),
    "an older generation wrote after a newer one": (
        lambda e: replace(e, log=put(e.log, 1, epoch=0)), Fault.OLD_EPOCH,
    ),
    "a snapshot carries a token that no owner holds": (
        lambda e: replace(e, newest_token=19), Fault.OLD_TOKEN,
    ),
    "a worker of a past claim wrote a later step": (
        lambda e: replace(e, steps=put(e.steps, 5, token=9)), Fault.OLD_TOKEN,
    ),
    "an owner whose lease was taken over wrote a snapshot": (
        lambda e: replace(e, writes=[*(e.writes or ()), Write("snapshot", ALERT, 19, 20)]), Fault.OLD_TOKEN,
    ),
    "a worker recorded under a claim that was given anew": (
        lambda e: replace(e, writes=put(e.writes, 1, held=11)), Fault.OLD_TOKEN,
    ),
    "a participant obeyed an old token": (
        lambda e: replace(e, effects=put(e.effects, -1, token=9)), Fault.OLD_TOKEN,
    ),
    "a step was claimed that somebody was at": (
        lambda e: replace(e, writes=put(e.writes, 0, held=9)), Fault.STOLEN_CLAIM,
    ),
    "nothing was said of a dead letter": (
        lambda e: replace(e, notifications=[note for note in e.notifications if note.id != "refused:bad"]),
        Fault.UNTOLD_DEATH,
    ),
    "the subscriber never heard what stands in the status log": (
        lambda e: replace(e, heard=[note for note in e.heard or () if note.id != e.notifications[2].id]),
        Fault.UNHEARD_NOTIFICATION,
    ),
    "the subscriber heard what does not stand in the status log": (
        lambda e: replace(e, heard=[*(e.heard or ()), replace(e.notifications[0], id="1:alert/shop/load:9")]),
        Fault.INVENTED_NOTIFICATION,
    ),
    "the subscriber heard other words": (
        lambda e: replace(e, heard=put(e.heard, 1, data={**e.heard[1].data, "reason": "other"} if e.heard else {})),
        Fault.ALTERED_NOTIFICATION,
    ),
    "the subscriber heard them in another order": (
        lambda e: replace(e, heard=swap(e.heard, 1, 3)), Fault.SWAPPED_NOTIFICATIONS,
    ),
    "an operation that was taken in never left": (
        lambda e: replace(e, operations=e.operations[:2] if e.operations else ()), Fault.LOST_OPERATION,
    ),
    "an operation was refused and released": (
        lambda e: replace(
            e, inbox=[replace(r, outcomes={LIFECYCLE: "refused"}) if r.id == "o2" else r for r in e.inbox]
        ),
        Fault.INVENTED_OPERATION,
    ),
    "an operation was released that nobody asked for": (
        lambda e: replace(e, operations=[*(e.operations or ()), Operation(PROBE, "o9", "do o9")]),
        Fault.INVENTED_OPERATION,
    ),
    "an operation was released again with other words": (
        lambda e: replace(e, operations=put(e.operations, 2, body="do it")), Fault.ALTERED_OPERATION,
    ),
    "an operation was released again when others followed": (
        lambda e: replace(e, operations=put(e.operations, 2, id="o1", body="do o1")),
        Fault.DOUBLED_OPERATION,
    ),
    "operations left in another order than they came": (
        lambda e: replace(e, operations=[*(e.operations or ())[:1], *reversed((e.operations or ())[2:])]),
        Fault.SWAPPED_OPERATIONS,
    ),
    "a due time passed and nobody looked": (
        lambda e: replace(e, taken_at=T0 + timedelta(minutes=6)), Fault.OVERDUE,
    ),
    "a timer outlived its state": (
        lambda e: replace(e, timers=put(e.timers, 0, entry=5)), Fault.OVERDUE,
    ),
    "a state was not left when its time was over": (
        lambda e: replace(
            e,
            machines={**MACHINES, ("alert", 1): replace(MACHINES["alert", 1], resting=frozenset())},
            instances=put(e.instances, 0, deadline_at=T0),
        ),
        Fault.OVERDUE,
    ),
    "an instance stands where nothing will move it": (
        lambda e: replace(e, machines={**MACHINES, ("alert", 1): replace(MACHINES["alert", 1], resting=frozenset())}),
        Fault.STUCK,
    ),
    "an instance never answered after the last fault": (
        lambda e: replace(e, inbox=[row for row in e.inbox if row.id != f"asked-{ALERT}"]), Fault.UNANSWERED,
    ),
    "an instance answered too late after the last fault": (
        lambda e: during(e, probes=put(e.run.probes if e.run else (), 0, after=31.0)), Fault.UNANSWERED,
    ),
    "a crash point was never hit": (
        lambda e: during(e, places=frozenset({"intake.after_commit", "intake.after_ack"})), Fault.INVALID_RUN,
    ),
    "a fault that was meant did not happen": (
        lambda e: during(e, strikes=[*(e.run.strikes if e.run else ()), Strike("kill -9 of RabbitMQ", False)]),
        Fault.INVALID_RUN,
    ),
    "nothing was done to the run": (
        lambda e: during(e, strikes=(), places=frozenset()), Fault.INVALID_RUN,
    ),
    "hardly anything was confirmed while it suffered": (
        lambda e: during(e, minimum_rate=2.1), Fault.INVALID_RUN,
    ),
    "nothing was confirmed in one stretch of it": (
        lambda e: during(e, last_fault=105.0, window=3.0, minimum_rate=0.5), Fault.INVALID_RUN,
    ),
    "an instance was not asked anything": (
        lambda e: during(e, probes=e.run.probes[1:] if e.run else ()), Fault.INVALID_RUN,
    ),
    "a row was never told": (
        lambda e: replace(e, notifications=without(e.notifications, 0)), Fault.MISSING_NOTIFICATION,
    ),
    "something was told that never happened": (
        lambda e: replace(
            e,
            notifications=[
                *e.notifications,
                replace(e.notifications[0], id="1:alert/shop/load:9", data={**e.notifications[0].data, "seq": 9}),
            ],
        ),
        Fault.INVENTED_NOTIFICATION,
    ),
    "a row was told under a second id": (
        lambda e: replace(e, notifications=[*e.notifications, replace(e.notifications[0], id="another")]),
        Fault.INVENTED_NOTIFICATION,
    ),
    "two notifications were told in the wrong order": (
        lambda e: replace(e, notifications=swap(e.notifications, 0, 2)), Fault.SWAPPED_NOTIFICATIONS,
    ),
    "a notification tells of another state": (
        lambda e: replace(
            e, notifications=put(e.notifications, 0, data={**e.notifications[0].data, "to": "warning"})
        ),
        Fault.ALTERED_NOTIFICATION,
    ),
    "a notification went to the wrong place": (
        lambda e: replace(e, notifications=put(e.notifications, 0, routing_key="shop.alert.warning")),
        Fault.ALTERED_NOTIFICATION,
    ),
    "the same id was sent with other words": (
        lambda e: replace(
            e,
            notifications=[
                *e.notifications, replace(e.notifications[0], data={**e.notifications[0].data, "reason": "other"})
            ],
        ),
        Fault.ALTERED_NOTIFICATION,
    ),
    "a notification was never sent": (
        lambda e: replace(e, outbox=("1:alert/shop/load:3",)), Fault.UNSENT_NOTIFICATION,
    ),
    "a participant was paused twice": (
        lambda e: replace(e, effects=[e.effects[0], *e.effects]), Fault.DOUBLED_EFFECT,
    ),
    "a participant was told twice under one claim": (
        lambda e: replace(e, told=[*e.told, e.told[0]]), Fault.REPEATED_COMMAND,
    ),
    "a process was started beside itself": (
        lambda e: replace(e, effects=[*e.effects, Effect("worker", "start", pid=102)]), Fault.DOUBLED_EFFECT,
    ),
    "a process was started more often than planned": (
        lambda e: replace(
            e, effects=[*e.effects, Effect("worker", "stop", pid=101), Effect("worker", "start", pid=102)]
        ),
        Fault.DOUBLED_EFFECT,
    ),
    "a pause is recorded that never happened": (
        lambda e: replace(e, effects=without(e.effects, 0)), Fault.MISSING_EFFECT,
    ),
    "a pause by HTTP is recorded that never happened": (
        lambda e: replace(e, steps=put(e.steps, 0, result={"by": "http"}), effects=without(e.effects, 0)),
        Fault.MISSING_EFFECT,
    ),
    "a start is recorded that never happened": (
        lambda e: replace(e, effects=[one for one in e.effects if one.what != "start"]), Fault.MISSING_EFFECT,
    ),
    "a retry had a key of its own": (
        lambda e: replace(e, effects=[*e.effects, Effect("worker", "pause", f"{LIFECYCLE}:1:pause:worker:2")]),
        Fault.UNPLANNED_EFFECT,
    ),
    "a step was left running in a state that is over": (
        lambda e: replace(e, steps=put(e.steps, 3, status="running")), Fault.ABANDONED_STEP,
    ),
    "a check failed and the system is operational": (
        lambda e: replace(e, steps=put(e.steps, 5, result={"passed": False})), Fault.UNVERIFIED_OPERATIONAL,
    ),
    "nothing was checked and the system is operational": (
        lambda e: replace(e, steps=without(e.steps, 5)), Fault.UNVERIFIED_OPERATIONAL,
    ),
    "the system was shut down without a system snapshot": (
        lambda e: replace(e, steps=without(e.steps, 1)), Fault.UNVERIFIED_SHUTDOWN,
    ),
    "another system snapshot was verified than sealed": (
        lambda e: replace(e, steps=put(e.steps, 2, result={"verified": True, "sha256": "0" * 64})),
        Fault.UNVERIFIED_SHUTDOWN,
    ),
    "the system snapshot was never written, or is gone": (
        lambda e: replace(e, documents={}), Fault.UNVERIFIED_SHUTDOWN,
    ),
    "the system snapshot was changed after it was sealed": (
        lambda e: replace(e, documents={URL: "0" * 64}), Fault.UNVERIFIED_SHUTDOWN,
    ),
}  # fmt: skip


def test_clean_run_yields_nothing(clean: Evidence) -> None:
    assert check(clean) == []


@pytest.mark.parametrize("story", PLANTED)
def test_planted_fault_is_found_by_name(story: str, clean: Evidence) -> None:
    plant, fault = PLANTED[story]
    found = check(plant(clean))
    assert fault in {finding.fault for finding in found}, f"{story}: found {[str(one) for one in found]}"


def test_every_name_is_proven_by_a_planted_fault() -> None:
    assert {fault for _, fault in PLANTED.values()} == set(Fault)


def test_unknown_and_failed_events_may_be_absent(clean: Evidence) -> None:
    more = [Published(PROBE, "x", Verdict.FAILED, ALERT), Published(PROBE, "y", Verdict.UNKNOWN, ALERT)]
    assert check(replace(clean, published=[*clean.published, *more])) == []


def test_unknown_event_may_have_arrived_after_all(clean: Evidence) -> None:
    assert check(replace(clean, published=in_doubt(clean, "r1"))) == []
