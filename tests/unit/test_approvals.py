"""Stories of a restart that somebody has to agree to, and of one that a freeze keeps away, at the engine's desk."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from machines.lifecycle import LIFECYCLE
from machines.model import Event, StepStatus
from machines.plan import plan_hash
from schemas.base import Closed
from schemas.envelope import CloudEvent
from schemas.events import (
    ApprovalDenied,
    ApprovalGiven,
    RestartCancelled,
    RestartRequested,
    Right,
    SystemRegistered,
    TimerFired,
)
from service.engine.decide import Outcome, decide
from service.ports import Token
from tests.unit.test_decide import LIFECYCLE as INSTANCE
from tests.unit.test_decide import NOW, Desk, metrics_system

AWAITING = "preparing_for_restart.awaiting_approval"
NOTIFYING = "preparing_for_restart.notifying"
RESUMING = "preparing_for_restart.resuming"


class Office(Desk):
    """The desk, with people who are asked: whoever acts is named, and local where it is said."""

    def __init__(
        self, on_silence: str = "deny", by: tuple[str, ...] = ("ana", "ben", "lea"), **changes: object
    ) -> None:
        rule = {"by": list(by), "within": "15m", "on_silence": on_silence}
        super().__init__(**{"allow": {"approve": rule, "act": ["lea"]}, **changes})
        self.to_operational()

    def ask(self, user: str = "ana", **wishes: object) -> Outcome:
        return self.say("restart.requested", RestartRequested(reason="nightly", **wishes), user)

    def answer(self, user: str = "ben", *, given: bool = True, plan: str | None = None, local: bool = False) -> Outcome:
        kind = ApprovalGiven if given else ApprovalDenied
        data = kind(instance=INSTANCE, plan=plan or self.plan, reason="looked at it")
        return self.say("approval.given" if given else "approval.denied", data, user, local=local)

    def fire(self, kind: str) -> Outcome:
        """A due time has come: nobody's doing."""
        return self.say("timer.fired", TimerFired(instance=INSTANCE, entry=self.live.snapshot.entry, kind=kind), None)

    def say(self, name: str, data: Closed, user: str | None, *, local: bool = False) -> Outcome:
        self.count += 1
        event = Event(f"e{self.count}", "test", name, "metrics", data, self.work.now, user=user, local=local)
        return decide(self.work, INSTANCE, event)

    @property
    def plan(self) -> str:
        return str(self.live.snapshot.data["restart"]["approval"]["plan"])

    @property
    def why(self) -> str:
        """The reasons of the last refusal, or the reason of the last transition."""
        record = json.loads(self.work.batch(0, Token(1), ()).log[-1].record)
        return "; ".join(record.get("reasons", [record.get("reason", "")]))

    def said(self, kind: str) -> list[dict]:
        bodies = (CloudEvent.model_validate_json(message.body) for message in self.work.batch(0, Token(1), ()).outbox)
        return [body.data for body in bodies if body.type == f"relight.{kind}"]


def test_approved_restart_goes_on_and_its_notice_begins_then() -> None:
    desk = Office()
    assert desk.ask() is Outcome.APPLIED
    assert desk.state == AWAITING
    asked = desk.live.snapshot
    assert asked.deadline_at == NOW + timedelta(minutes=15)
    desk.later(600)
    assert desk.answer("ben") is Outcome.APPLIED
    assert desk.state == NOTIFYING
    assert desk.live.snapshot.data["restart"]["approved_by"] == "ben"
    assert desk.live.snapshot.dwell_until == desk.work.now + timedelta(seconds=10), "nobody is told too late"


def test_system_without_approvers_is_not_asked_for_approval() -> None:
    desk = Office(allow={"act": ["lea"]})
    desk.ask()
    assert desk.state == NOTIFYING


def test_wait_says_who_is_asked_until_when_about_which_plan_and_what_silence_does() -> None:
    desk = Office()
    desk.ask()
    (wait,) = [said for said in desk.said("wait") if said["state"] == AWAITING]
    assert "ben or lea" in wait["whom"]
    assert "ana" not in wait["whom"], "who asks is not asked"
    assert desk.plan[:12] in wait["whom"]
    assert datetime.fromisoformat(wait["until"]) == NOW + timedelta(minutes=15)
    assert wait["then"] == "the restart is given up"
    assert any(act.startswith(f"relight approve {INSTANCE} --plan {desk.plan}") for act in wait["acts"])
    assert any(" --deny " in act for act in wait["acts"])


@pytest.mark.parametrize("way", ["denied", "cancelled", "silence"])
def test_restart_that_is_not_approved_touches_nothing_and_ends_operational(way: str) -> None:
    desk = Office()
    desk.ask()
    match way:
        case "denied":
            assert desk.answer("ben", given=False) is Outcome.APPLIED
        case "cancelled":
            desk.say("restart.cancelled", RestartCancelled(reason="not tonight"), "ana")
        case _:
            desk.later(900)
            desk.fire("deadline")
    assert desk.state == RESUMING
    desk.finish_state()
    assert desk.state == "operational"
    assert not any(step.state.startswith(("shutting", "starting")) for step in desk.live.steps.values())
    assert "approval" in desk.live.snapshot.data["last_abort"]


def test_silence_that_allows_goes_on_and_says_that_nobody_answered() -> None:
    desk = Office(on_silence="allow")
    desk.ask()
    assert "goes on without approval" in desk.said("wait")[-1]["then"]
    desk.later(900)
    desk.fire("deadline")
    assert desk.state == NOTIFYING
    assert "nobody" in desk.live.snapshot.data["restart"]["approved_by"]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("given", [True, False])
def test_requester_never_answers_their_own_question_neither_here_nor_over_amqp(given: bool, local: bool) -> None:
    desk = Office()
    desk.ask("ana")
    assert desk.answer("ana", given=given, local=local) is Outcome.REFUSED
    assert "ana asked for it" in desk.why
    assert desk.state == AWAITING


def test_local_user_approves_only_when_named() -> None:
    desk = Office()
    desk.ask()
    assert desk.answer("root", local=True) is Outcome.REFUSED
    assert "root is not among those who approve it; it is for ben or lea" in desk.why
    assert desk.answer("lea", local=True) is Outcome.APPLIED
    assert desk.live.snapshot.data["restart"]["approved_by"] == "lea (local)"


def test_approval_is_for_exactly_this_plan() -> None:
    desk = Office()
    desk.ask()
    first = desk.plan
    assert desk.answer(plan="0" * 64) is Outcome.REFUSED
    assert first in desk.why
    desk.answer(given=False)
    desk.finish_state()
    desk.later(60)
    desk.ask()
    assert desk.plan != first, "the same steps, asked for once more, are another plan"
    assert desk.answer(plan=first) is Outcome.REFUSED
    assert desk.state == AWAITING


def test_plan_changes_with_every_step_and_every_wish() -> None:
    system, other = metrics_system(), metrics_system(verify=[{"roundtrip": "calculator"}])
    same = {plan_hash(LIFECYCLE, system, {"id": "1"}) for _ in range(2)}
    assert len(same) == 1
    assert plan_hash(LIFECYCLE, system, {"id": "2"}) not in same
    assert plan_hash(LIFECYCLE, other, {"id": "1"}) not in same


def test_late_approval_is_refused_even_before_the_clock_has_said_so() -> None:
    desk = Office()
    desk.ask()
    desk.later(901)
    assert desk.answer() is Outcome.REFUSED
    assert "too late" in desk.why
    desk.fire("deadline")
    assert desk.answer() is Outcome.REFUSED
    assert "waits for no approval any more" in desk.why


def test_second_approval_and_approval_of_nothing_are_refused() -> None:
    desk = Office()
    assert desk.answer(plan="0" * 64) is Outcome.REFUSED
    assert "never asked for" in desk.why
    desk.ask()
    plan = desk.plan
    desk.answer("ben")
    assert desk.answer("lea", plan=plan) is Outcome.REFUSED
    assert "it was answered" in desk.why


def test_restart_that_nobody_else_could_approve_is_refused_at_once() -> None:
    desk = Office(by=("ana",))
    assert desk.ask("ana") is Outcome.REFUSED
    assert desk.why == "nobody could approve it: allow.approve names ana, and who asks never approves"
    assert desk.ask("ben") is Outcome.APPLIED


def test_question_that_reached_nobody_is_still_asked() -> None:
    desk = Office()
    desk.ask()
    desk.report("ask", StepStatus.FAILED, error="mail is down")
    assert desk.state == AWAITING
    assert desk.answer() is Outcome.APPLIED


# ---- freezes

SUNDAY_NIGHT = {"freeze": [{"when": "SUN 01:00-03:00", "blocks": ["restart"]}]}
"""NOW is Sunday, 2026-03-01 01:45 UTC."""


@pytest.mark.parametrize("approve", [True, False])
def test_restart_in_a_freeze_is_refused_with_the_line_and_its_end_and_nothing_else(approve: bool) -> None:
    desk = Office(**SUNDAY_NIGHT, **({} if approve else {"allow": {"act": ["lea"]}}))
    assert desk.ask() is Outcome.REFUSED
    assert "'SUN 01:00-03:00'" in desk.why
    assert "until Sun 2026-03-01 03:00 UTC" in desk.why
    assert "approv" not in desk.why
    assert desk.ask(due=datetime(2026, 3, 1, 3, 0, tzinfo=UTC)) is Outcome.APPLIED


def test_what_counts_is_the_pause_and_not_the_moment_of_asking() -> None:
    desk = Office(freeze=[{"when": "SUN 01:00-01:45", "blocks": ["restart"]}], allow={})
    desk.later(-5)  # within the freeze; the pause comes when the lead time of ten seconds is over
    assert desk.ask() is Outcome.APPLIED


def test_freeze_is_overridden_by_name_and_it_is_logged() -> None:
    desk = Office(**SUNDAY_NIGHT, allow={"act": ["lea"]})
    assert desk.ask("ana", override="disk is full") is Outcome.REFUSED
    assert "ana may not act" in desk.why
    assert desk.ask("lea", override="disk is full") is Outcome.APPLIED
    assert desk.live.snapshot.data["restart"]["freeze_overridden"] == "disk is full"
    desk.finish_state()
    desk.later(11)
    desk.fire("dwell")
    assert desk.state == "preparing_for_restart.preserving"


def test_local_command_line_may_override_where_nobody_is_named() -> None:
    desk = Office(**SUNDAY_NIGHT, allow={})
    wish = RestartRequested(reason="nightly", override="disk is full")
    assert desk.say("restart.requested", wish, "root", local=True) is Outcome.APPLIED


def test_freeze_that_begins_while_the_notice_lasts_gives_the_restart_up() -> None:
    desk = Office(freeze=[{"when": "SUN 01:50-03:00", "blocks": ["restart"]}], allow={})
    assert desk.ask() is Outcome.APPLIED
    desk.later(360)  # a backup took longer than the notice
    desk.finish_state()
    desk.fire("dwell")
    assert desk.state == RESUMING
    assert "'SUN 01:50-03:00'" in desk.live.snapshot.data["failure"]["reason"]


def test_approval_that_moves_the_pause_into_a_freeze_is_refused() -> None:
    desk = Office(freeze=[{"when": "SUN 01:50-03:00", "blocks": ["restart"]}])
    desk.ask()
    desk.later(360)
    assert desk.answer() is Outcome.REFUSED
    assert "'SUN 01:50-03:00'" in desk.why


# ---- a person is called


def test_degraded_system_calls_people_once_and_a_new_configuration_does_not_call_them_again() -> None:
    desk = Office(allow={}, channels={"critical": ["env:PAGER"]})
    desk.ask()
    desk.report("tell", StepStatus.FAILED, error="mail is down")
    assert desk.state == RESUMING
    desk.finish_state({"check:0": {"passed": False}})
    assert desk.state == "degraded"
    assert desk.ready() == ["call"]
    entry = desk.live.snapshot.entry
    desk.say("system.registered", SystemRegistered(config_hash="another"), "relight")
    assert (desk.live.snapshot.entry, desk.ready()) == (entry, ["call"]), "the call goes on, and is not made twice"
    desk.report("call", StepStatus.FAILED, error="the pager is down too")
    assert desk.state == "degraded"
    assert desk.ask() is Outcome.APPLIED


def test_approver_needs_no_other_right() -> None:
    system = metrics_system(allow={"approve": {"by": ["ben"]}})
    assert system.permits(Right.APPROVE, "ben", local=False) is None
    assert "allow.approve names ben" in str(system.permits(Right.APPROVE, "eve", local=False))
    assert system.named(Right.APPROVE) == ("ben",)
