"""Stories of waivers whose time is over while the system rests by them: people are called, and nothing moves."""

from datetime import timedelta

from machines.acts import waived_ahead
from machines.model import StepStatus
from schemas.base import Closed
from schemas.events import Act, OperatorActed
from service.engine.decide import Outcome
from service.ports import Token
from service.steps.notice_words import Occasion, words
from tests.unit.test_decide import LIFECYCLE, NOW, Desk, halted_in_verifying, waits, waiver

OVER = "the waiver of check:0 by ana has ended (known, see 4711): it is to be looked at again"


def act(what: Act) -> Closed:
    return OperatorActed(instance=LIFECYCLE, act=what, reason="go on")


def due(desk: Desk) -> dict[str, object]:
    return {timer.kind: timer.due_at for timer in desk.work.batch(0, Token(1), ()).timers if "waiver" in timer.kind}


def degraded_by_a_waiver() -> Desk:
    desk = halted_in_verifying()
    desk.tell("operator.acted", waiver("check:0", NOW + timedelta(hours=24)))
    desk.tell("operator.acted", act(Act.RETRY))
    for _ in ("starting_up.initializing", "starting_up.verifying", "starting_up.restoring"):
        desk.finish_state()
    assert desk.state == "degraded"
    desk.report("call", StepStatus.DONE)
    return desk


def test_end_of_a_waiver_calls_people_once_and_leaves_the_system_where_it_is() -> None:
    desk = degraded_by_a_waiver()
    assert due(desk) == {"waiver:check:0": NOW + timedelta(hours=24)}
    entry, seq = desk.live.snapshot.entry, desk.live.snapshot.seq
    desk.later(24 * 3600)
    assert desk.fire("waiver:check:0") is Outcome.APPLIED
    assert (desk.state, desk.live.snapshot.entry, desk.live.snapshot.seq) == ("degraded", entry, seq + 1)
    assert desk.ready() == ["call:1"]
    planned = desk.live.steps["call:1"].planned
    assert (planned.action, planned.optional) == ("notice.tell", True)
    assert {key: planned.arguments[key] for key in ("severity", "occasion", "waiver")} == {
        "severity": "critical", "occasion": "waiver_ended", "waiver": "check:0",
    }  # fmt: skip
    wait = waits(desk)[-1]
    assert OVER in str(wait["whom"])
    assert 'relight act lifecycle/metrics adopt --reason "WHY"' in str(wait["acts"])
    assert wait["then"] == "it stays degraded"
    assert desk.fire("waiver:check:0") is Outcome.ABSORBED, "told once"
    desk.report("call:1", StepStatus.FAILED, error="the pager is down")
    assert desk.state == "degraded"


def test_waiver_that_ended_on_the_way_is_told_as_soon_as_the_system_rests_by_it() -> None:
    desk = halted_in_verifying()
    desk.tell("operator.acted", waiver("check:0", NOW + timedelta(minutes=1)))
    desk.tell("operator.acted", act(Act.RETRY))
    desk.finish_state()
    desk.later(61)
    desk.finish_state()
    desk.finish_state()
    assert desk.state == "degraded"
    assert due(desk)["waiver:check:0"] <= desk.work.now  # type: ignore[operator]
    assert desk.fire("waiver:check:0") is Outcome.APPLIED


def test_waiver_that_ends_before_the_retry_may_be_given_anew() -> None:
    desk = halted_in_verifying()
    machine = desk.live.chart.machine
    desk.tell("operator.acted", waiver("check:0", NOW + timedelta(minutes=1)))
    assert waived_ahead(machine, "halted", desk.live.snapshot.data) == ()
    desk.later(61)
    assert desk.fire("waiver:check:0") is Outcome.APPLIED
    assert waived_ahead(machine, "halted", desk.live.snapshot.data) == ("check:0",)
    assert desk.tell("operator.acted", waiver("check:0", NOW + timedelta(hours=2))) is Outcome.APPLIED
    assert due(desk) == {"waiver:check:0": NOW + timedelta(hours=2)}
    desk.later(7200)
    assert desk.fire("waiver:check:0") is Outcome.APPLIED
    assert [name for name in desk.live.steps if name.startswith("call:")] == ["call:1", "call:2"]


def test_waiver_of_a_system_that_was_adopted_meanwhile_ends_unheard() -> None:
    desk = degraded_by_a_waiver()
    desk.tell("operator.acted", act(Act.ADOPT))
    assert due(desk) == {}
    desk.later(24 * 3600)
    assert desk.fire("waiver:check:0") is Outcome.ABSORBED


def test_message_names_the_waiver_whose_word_it_was_and_the_way_out() -> None:
    desk = degraded_by_a_waiver()
    desk.later(24 * 3600)
    desk.fire("waiver:check:0")
    data = desk.live.snapshot.data
    title, body = words(Occasion.WAIVER_ENDED, desk.live.system, LIFECYCLE, "degraded", data, desk.work.now)
    assert title == "metrics is degraded, and a waiver has ended: a person is needed"
    assert "The waiver of check:0 by ana has ended at 01:45:00 on Mon 2026-03-02 (UTC): known, see 4711" in body
    assert 'relight act lifecycle/metrics adopt --reason "WHY"' in body
