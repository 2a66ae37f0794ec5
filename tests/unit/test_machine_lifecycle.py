"""The life of a system, told as stories: restarts that go well, are cancelled, fail, are waived, are asked for."""

from datetime import timedelta
from typing import Any

import pytest

from machines.lifecycle import AFTER_NO_RETURN, LIFECYCLE, At, address
from machines.model import Absorbed, InstanceId, Move, Refusal, StepFact, StepStatus
from machines.plan import plan_round, repeats
from schemas.base import Closed
from schemas.events import Act, AnswerOutcome, OperatorActed, ParticipantAnswered, StepReported, TimerFired
from tests.unit.machine_desk import NOON, Desk, metrics_system

BEFORE_NO_RETURN = (At.NOTIFYING, At.PRESERVING)


def new() -> Desk:
    desk = Desk(LIFECYCLE, "lifecycle/metrics")
    desk.register()
    return desk


def up() -> Desk:
    desk = new()
    desk.run_to("operational")
    desk.visited.clear()
    return desk


def restarting(state: str) -> Desk:
    desk = up()
    desk.request()
    desk.run_to(state)
    return desk


def refused(verdict: object) -> str:
    assert isinstance(verdict, Refusal), verdict
    return "; ".join(verdict.reasons)


def test_restart_goes_through_every_state_and_ends_operational() -> None:
    desk = up()
    desk.request("new kernel")
    desk.run_to("operational")
    assert desk.visited == [
        "preparing_for_restart.notifying",
        "preparing_for_restart.preserving",
        "shutting_down",
        "starting_up.initializing",
        "starting_up.verifying",
        "starting_up.restoring",
        "operational",
    ]
    last = desk.data["last_restart"]
    assert last["reason"] == "new kernel"
    assert last["requested_by"] == "ana"
    assert last["system_snapshot"] == {"url": "file:///state/1.json", "sha256": "a" * 64}
    assert last["down_since"] <= last["up_at"]
    assert set(desk.data) == {"last_restart"}


def test_restart_is_known_by_when_and_by_which_event_it_was_asked_for() -> None:
    first, second = up(), up()
    first.request()
    second.request()
    assert first.data["restart"]["id"] == second.data["restart"]["id"]
    assert first.data["restart"]["id"].startswith("20250302T120000-")
    assert len(first.data["restart"]["id"]) == len("20250302T120000-9f3c1a")


def test_notice_is_kept_even_when_the_wish_is_for_sooner_and_a_later_time_is_waited_for() -> None:
    sooner = up()
    sooner.request(due=NOON + timedelta(minutes=1))
    assert sooner.snapshot.dwell_until == NOON + timedelta(minutes=15)
    later = up()
    later.request(due=NOON + timedelta(hours=3))
    assert later.snapshot.dwell_until == NOON + timedelta(hours=3)
    assert later.snapshot.deadline_at == NOON + timedelta(hours=3, minutes=10)
    assert later.data["restart"]["due"] == "2025-03-02T15:00:00+00:00"


def test_no_preserving_before_the_announced_time() -> None:
    desk = up()
    desk.request()
    for name in ("tell", "baseline:0", "baseline:1"):
        desk.end(name)
    assert desk.state == At.NOTIFYING
    desk.later(minutes=15)
    desk.end_all()
    desk._progress()
    assert desk.state == At.PRESERVING


def test_broken_baseline_is_recorded_and_prevents_nothing() -> None:
    desk = up()
    desk.request()
    desk.end("tell")
    desk.end("baseline:0", StepStatus.FAILED, error="connection refused")
    desk.end_all()
    assert desk.state == At.PRESERVING
    assert desk.data["baseline"]["0"] == {"status": "failed", "error": "connection refused"}
    assert desk.data["baseline"]["1"]["passed"] is True


@pytest.mark.parametrize("state", BEFORE_NO_RETURN)
def test_cancelled_restart_returns_to_operational(state: str) -> None:
    desk = restarting(state)
    desk.cancel()
    assert desk.state == At.RESUMING
    assert desk.reason == "cancelled: traffic peak"
    desk.run_to("operational")
    assert "restart" not in desk.data
    assert desk.data["last_abort"]["failure"]["reason"] == "traffic peak"
    assert "last_restart" not in desk.data


@pytest.mark.parametrize("state", BEFORE_NO_RETURN)
def test_abort_and_silence_before_the_point_of_no_return_lead_back(state: str) -> None:
    aborted = restarting(state)
    aborted.act(Act.ABORT)
    assert aborted.state == At.RESUMING
    silent = restarting(state)
    silent.pass_deadline()
    assert silent.state == At.RESUMING


def test_failed_preparation_leads_back_and_says_which_step() -> None:
    desk = restarting(At.PRESERVING)
    desk.end("pause:reporter", StepStatus.FAILED, error="no answer within 30s")
    assert desk.state == At.RESUMING
    assert desk.reason == "preparing failed: pause:reporter failed: no answer within 30s"
    assert desk.data["failure"]["steps"] == {"pause:reporter": "no answer within 30s"}


def test_cancelled_restart_of_a_system_that_does_not_check_out_is_degraded() -> None:
    desk = restarting(At.PRESERVING)
    desk.cancel()
    desk.end("resume:calculator")
    desk.end("check:0", StepStatus.FAILED, error="empty")
    desk.end("check:1")
    desk.end("tell")
    desk.end("report")
    assert desk.state == At.DEGRADED
    assert desk.reason == "resumed, but not all checks passed: not verified: check:0"


@pytest.mark.parametrize("way", ["failed", "late"])
def test_component_that_does_not_resume_leaves_the_system_degraded(way: str) -> None:
    desk = restarting(At.PRESERVING)
    desk.cancel()
    if way == "late":
        desk.pass_deadline()
    else:
        desk.end("resume:calculator", StepStatus.FAILED, error="gone")
        assert desk.state == At.RESUMING, "whoever comes after it must be told to resume too"
        desk.end("check:0")
        desk.end("check:1")
        desk.end("tell")
        desk.end("report")
        assert desk.reason == "a component did not resume: resume:calculator failed: gone"
    assert desk.state == At.DEGRADED


@pytest.mark.parametrize(
    ("seal", "read_back", "why"),
    [
        ({"url": "file:///s", "sha256": "a" * 64}, {"verified": True, "sha256": "b" * 64}, "but sealed"),
        ({"url": "file:///s", "sha256": "a" * 64}, {"verified": False, "sha256": "a" * 64}, "was not verified"),
        ({"sha256": "a" * 64}, {"verified": True, "sha256": "a" * 64}, "no system snapshot was sealed"),
    ],
)
def test_nothing_shuts_down_without_the_very_snapshot_that_was_sealed(
    seal: dict[str, object], read_back: dict[str, object], why: str
) -> None:
    desk = restarting(At.PRESERVING)
    for name in ("identify", "pause:reporter", "pause:calculator", "drain:trading", "flush:calculator"):
        desk.end(name)
    desk.end("seal", **seal)
    desk.end("verify_snapshot", **read_back)
    assert desk.state == At.RESUMING
    assert why in desk.reason
    assert why in desk.data["failure"]["reason"]


@pytest.mark.parametrize("step", ["seal", "verify_snapshot"])
def test_waiving_the_snapshot_does_not_open_the_way_down(step: str) -> None:
    desk = restarting(At.PRESERVING)
    for name in list(desk.steps):
        desk.end(name, StepStatus.WAIVED if name == step else StepStatus.DONE)
    assert desk.state == At.RESUMING


def test_silent_participant_that_may_be_passed_over_does_not_stop_the_restart() -> None:
    desk = restarting(At.PRESERVING)
    desk.end("pause:reporter", StepStatus.PROCEEDED)
    desk.run_to(At.SHUTTING_DOWN)
    assert desk.data["digests"] == {"calculator": "f" * 64}
    assert desk.data["down_since"] == desk.now.isoformat()


def test_preserving_may_take_longer_than_a_pause_that_is_renewed() -> None:
    restart = {"pause_lease": "4m", "limits": {"drain": "30m"}}
    desk = Desk(LIFECYCLE, "lifecycle/metrics", metrics_system(restart=restart), state=At.OPERATIONAL)
    desk.request()
    desk.run_to(At.PRESERVING)
    assert desk.snapshot.deadline_at is not None
    assert desk.snapshot.deadline_at > desk.now + timedelta(minutes=60)
    state = LIFECYCLE.state(At.PRESERVING)
    assert [(step.name, every) for step, every in repeats(state, desk.system)] == [("renew", timedelta(seconds=80))]


@pytest.mark.parametrize(
    ("renewed", "target"),
    [(None, At.RESUMING), (timedelta(minutes=9), At.RESUMING), (timedelta(minutes=12), At.SHUTTING_DOWN)],
)
def test_nothing_shuts_down_while_a_pause_may_have_lapsed(renewed: timedelta | None, target: str) -> None:
    desk = Desk(LIFECYCLE, "lifecycle/metrics", state=At.OPERATIONAL)
    desk.request()
    desk.run_to(At.PRESERVING)
    began = desk.now
    if renewed is not None:
        (step, _), *_ = repeats(LIFECYCLE.state(At.PRESERVING), desk.system)
        for planned in plan_round(step, desk.system, 1):
            result = {"holds_until": (began + renewed).isoformat()}
            desk.steps[planned.name] = StepFact(planned, StepStatus.DONE, 1, result)
    desk.later(minutes=10)
    desk.end_all()
    assert desk.state == target
    if target == At.RESUMING:
        assert "a pause was not renewed in time" in desk.data["failure"]["reason"]
    else:
        assert desk.data["paused_until"]["calculator"] == (began + timedelta(minutes=12)).isoformat()


@pytest.mark.parametrize("state", AFTER_NO_RETURN)
def test_after_the_point_of_no_return_there_is_no_way_back(state: str) -> None:
    desk = restarting(state)
    name = desk.data["restart"]["id"]
    for verdict in (desk.cancel(), desk.act(Act.ABORT)):
        said = refused(verdict)
        assert "past the point of no return" in said
        assert name in said
    assert desk.state == state


@pytest.mark.parametrize("state", AFTER_NO_RETURN)
def test_after_the_point_of_no_return_silence_failure_and_hands_off_halt_and_retry_goes_on(state: str) -> None:
    for leave in ("late", "failed", "hands-off"):
        desk = restarting(state)
        match leave:
            case "late":
                desk.pass_deadline()
            case "failed":
                desk.end(next(iter(desk.steps)), StepStatus.FAILED, error="broken")
            case _:
                desk.act(Act.HANDS_OFF)
        assert desk.state == At.HALTED
        assert desk.data["failure"]["state"] == state
        assert "verified" not in desk.data
        desk.act(Act.RETRY)
        desk.run_to("operational")
        assert desk.data["last_restart"]["system_snapshot"]["sha256"] == "a" * 64


@pytest.mark.parametrize("state", AFTER_NO_RETURN)
def test_retry_goes_on_stopping_where_it_halted_in_the_stopping_and_starting_where_it_halted_later(state: str) -> None:
    desk = restarting(state)
    desk.pass_deadline()
    for _ in range(2):
        desk.act(Act.RETRY)
        assert desk.state == (At.SHUTTING_DOWN if state == At.SHUTTING_DOWN else At.INITIALIZING)
        desk.pass_deadline()
    desk.act(Act.RETRY)
    desk.run_to(At.VERIFYING)
    desk.pass_deadline()
    desk.act(Act.RETRY)
    assert desk.state == At.INITIALIZING, "what was started anew would be stopped again"


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"status": StepStatus.WAIVED, "error": "its host is lost"}, "start:reporter was waived: its host is lost"),
        ({"old": True, "detail": "pid 7 still runs"}, "pid 7 still runs"),
    ],
)
def test_system_of_which_not_all_was_started_is_degraded_and_names_it_until_the_next_start(
    how: dict[str, Any], why: str
) -> None:
    desk = restarting(At.INITIALIZING)
    for name in ("start:store", "start:calculator"):
        desk.end(name)
    desk.end("start:reporter", **how)
    desk.run_to(At.OPERATIONAL, At.DEGRADED)
    assert desk.state == At.DEGRADED
    assert desk.data["not_started"] == {"reporter": why}
    assert "last_restart" in desk.data
    desk.act(Act.ADOPT)
    desk.run_to(At.OPERATIONAL)
    assert "not_started" not in desk.data


def test_what_a_retry_started_after_all_is_not_missing_any_more() -> None:
    desk = restarting(At.INITIALIZING)
    for name in ("start:store", "start:calculator"):
        desk.end(name)
    desk.end("start:reporter", StepStatus.WAIVED)
    desk.pass_deadline()
    desk.act(Act.RETRY)
    desk.run_to(At.OPERATIONAL, At.DEGRADED)
    assert desk.state == At.OPERATIONAL


def test_component_that_was_told_to_end_does_not_count_as_running_at_the_first_look() -> None:
    desk = Desk(LIFECYCLE, "lifecycle/metrics")
    desk.register()
    for name in ("observe:store", "observe:calculator"):
        desk.end(name)
    desk.end("observe:reporter", running=True, ending=True)
    assert desk.state == At.INITIALIZING
    assert desk.data["absent"] == ["reporter"]


def test_waived_check_resumes_the_components_but_ends_degraded() -> None:
    desk = restarting(At.VERIFYING)
    desk.end("compare")
    desk.end("check:0", StepStatus.WAIVED)
    desk.end("check:1")
    assert desk.state == At.RESTORING
    assert "resume:calculator" in desk.steps
    desk.end_all()
    assert desk.state == At.DEGRADED
    assert "last_restart" in desk.data


def test_component_that_never_says_it_works_again_is_remembered_and_the_system_is_degraded_by_it() -> None:
    desk = restarting(At.RESTORING)
    desk.end("resume:store")
    desk.end("resume:calculator", StepStatus.PROCEEDED)
    desk.end_all()
    assert desk.state == At.DEGRADED
    assert desk.reason == "up again, but not all of it: may be paused: calculator"
    assert desk.data["not_resumed"] == {"calculator": "it was proceeded"}
    assert "last_restart" in desk.data
    desk.request()
    desk.run_to(At.OPERATIONAL, At.DEGRADED)
    assert desk.state == At.OPERATIONAL
    assert "not_resumed" not in desk.data


@pytest.mark.parametrize("result", [{"passed": False}, {"passed": "yes"}, {"value": 1}])
def test_check_that_did_not_say_passed_is_no_verification(result: dict[str, object]) -> None:
    desk = restarting(At.VERIFYING)
    desk.end("compare")
    desk.end("check:0", **result)
    desk.end("check:1")
    desk.run_to(At.OPERATIONAL, At.DEGRADED)
    assert desk.state == At.DEGRADED


def test_comparison_that_was_waived_is_no_verification() -> None:
    desk = restarting(At.VERIFYING)
    desk.end("compare", StepStatus.WAIVED)
    desk.run_to(At.OPERATIONAL, At.DEGRADED)
    assert desk.state == At.DEGRADED


def test_system_found_running_is_verified_before_it_is_called_operational() -> None:
    desk = new()
    assert list(desk.steps) == ["observe:store", "observe:calculator", "observe:reporter"]
    desk.run_to("operational")
    assert desk.visited == [At.UNOBSERVED, At.VERIFYING, At.RESTORING, At.OPERATIONAL]
    assert desk.data == {}


def test_system_found_down_is_started_and_verified() -> None:
    desk = new()
    desk.end("observe:store")
    desk.end("observe:calculator", running=False)
    desk.end("observe:reporter")
    assert desk.state == At.INITIALIZING
    assert desk.data["absent"] == ["calculator"]
    assert desk.steps["start:calculator"].planned.arguments == {"paused": True}
    desk.run_to("operational")


def test_system_found_running_that_fails_its_checks_goes_on_running_as_degraded() -> None:
    failed, late = new(), new()
    for desk in (failed, late):
        desk.run_to(At.VERIFYING)
    failed.end("compare")
    failed.end("check:1", StepStatus.FAILED, error="timeout")
    late.pass_deadline()
    assert failed.state == late.state == At.DEGRADED


def test_system_started_paused_that_fails_its_checks_waits_for_a_person() -> None:
    desk = new()
    desk.end("observe:store", running=False)
    desk.run_to(At.VERIFYING)
    desk.pass_deadline()
    assert desk.state == At.HALTED


@pytest.mark.parametrize("way", ["failed", "late", "abort"])
def test_system_that_cannot_be_observed_is_degraded(way: str) -> None:
    desk = new()
    match way:
        case "failed":
            desk.end("observe:store", StepStatus.FAILED, error="no such host")
        case "late":
            desk.pass_deadline()
        case _:
            desk.act(Act.ABORT)
    assert desk.state == At.DEGRADED


def test_new_system_refuses_a_restart_until_it_was_observed() -> None:
    assert "once it is operational or degraded" in refused(Desk(LIFECYCLE, "lifecycle/metrics").request())


@pytest.mark.parametrize("state", [*BEFORE_NO_RETURN, At.RESUMING, *AFTER_NO_RETURN])
def test_second_restart_is_refused_naming_the_one_in_progress(state: str) -> None:
    desk = restarting(At.PRESERVING if state == At.RESUMING else state)
    if state == At.RESUMING:
        desk.cancel()
    said = refused(desk.request())
    assert desk.data["restart"]["id"] in said
    assert state in said
    assert desk.state == state


def test_halted_system_refuses_a_restart_and_says_what_to_do() -> None:
    desk = restarting(At.SHUTTING_DOWN)
    desk.pass_deadline()
    assert "retry, adopt or abort" in refused(desk.request())


def test_degraded_system_may_be_restarted_and_forgets_its_failure() -> None:
    desk = new()
    desk.pass_deadline()
    assert "failure" in desk.data
    desk.request()
    assert desk.state == At.NOTIFYING
    assert "failure" not in desk.data


def test_restart_never_cuts_through_work_in_progress_but_alerts_are_no_work() -> None:
    desk = up()
    desk.live_runs = {InstanceId("alert/metrics/memory"): "normal.rising"}
    assert isinstance(desk.request(), Move)
    desk = up()
    desk.live_runs = {InstanceId("database_failure/metrics/01JQ"): "restoring"}
    assert "database_failure/metrics/01JQ (restoring)" in refused(desk.request())


def test_cancelling_nothing_and_cancelling_twice_are_answered() -> None:
    assert "no restart of metrics is in progress" in refused(up().cancel())
    desk = restarting(At.PRESERVING)
    desk.cancel()
    assert "already being taken back" in refused(desk.cancel())


@pytest.mark.parametrize("state", [At.OPERATIONAL, At.DEGRADED, At.HALTED])
def test_configuration_changes_at_rest_by_a_logged_transition_and_only_when_it_changed(state: str) -> None:
    desk = Desk(LIFECYCLE, "lifecycle/metrics", state=state)
    assert desk.register() == Absorbed()
    assert isinstance(desk.register("newer"), Move)
    assert desk.state == state
    assert desk.register("newer") == Absorbed()


@pytest.mark.parametrize("state", [At.UNOBSERVED, *BEFORE_NO_RETURN, *AFTER_NO_RETURN])
def test_restarted_relight_registering_its_systems_disturbs_no_run(state: str) -> None:
    desk = new() if state == At.UNOBSERVED else restarting(state)
    before = desk.snapshot
    assert desk.register() == Absorbed()
    assert desk.register("newer") == Absorbed()
    assert desk.snapshot == before


def test_person_may_leave_a_halted_system_as_it_stands_or_have_it_looked_at_anew() -> None:
    left, adopted = restarting(At.VERIFYING), restarting(At.VERIFYING)
    for desk in (left, adopted):
        desk.pass_deadline()
    left.act(Act.ABORT)
    assert left.state == At.LEAVING
    left.end_all()
    assert left.state == At.DEGRADED
    assert left.data["last_abort"]["failure"]["state"] == At.VERIFYING
    adopted.act(Act.ADOPT)
    assert adopted.state == At.UNOBSERVED
    assert "system_snapshot" not in adopted.data
    adopted.run_to("operational")


def event_of(name: str, data: Closed, system: str = "metrics") -> InstanceId | None:
    desk = Desk(LIFECYCLE, "lifecycle/metrics")
    event = desk.facts(name, data).event
    return address(type(event)(event.id, event.source, name, system, data, event.at))


def answer(command: str) -> ParticipantAnswered:
    return ParticipantAnswered(component="calculator", commandid=command, token=1, outcome=AnswerOutcome.DONE)


def test_events_reach_the_instance_they_carry_and_no_other_system() -> None:
    acted = OperatorActed(instance="lifecycle/metrics", act=Act.RETRY, reason="x")
    fired = TimerFired(instance="lifecycle/metrics", entry=1, kind="dwell")
    reported = StepReported(instance="alert/metrics/cpu", entry=1, state="x", step="stop", attempt=1, outcome="done")
    assert event_of("operator.acted", acted) == "lifecycle/metrics"
    assert event_of("timer.fired", fired) == "lifecycle/metrics"
    assert event_of("step.reported", reported) is None
    assert event_of("participant.answered", answer("lifecycle/metrics:4:pause:calculator")) == "lifecycle/metrics"
    assert event_of("participant.answered", answer("garbage")) is None
    # Whoever may act on `trading` must not reach `metrics` by naming its instance.
    assert event_of("operator.acted", acted, system="trading") is None
