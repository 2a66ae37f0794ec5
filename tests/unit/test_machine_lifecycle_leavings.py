"""What a restart that halted leaves behind: who died, who works on, who is paused, and what a person may do then."""

from machines.acts import ways_out
from machines.lifecycle import LIFECYCLE
from machines.lifecycle_states import At
from machines.model import Refusal, StepStatus
from schemas.events import Act
from tests.unit.machine_desk import Desk, metrics_system

FAILED = StepStatus.FAILED


def restarting(state: str) -> Desk:
    desk = Desk(LIFECYCLE, "lifecycle/metrics")
    desk.register()
    desk.run_to(At.OPERATIONAL)
    desk.request()
    desk.run_to(state)
    return desk


def offered(desk: Desk) -> set[Act]:
    return {way.act for way in ways_out(LIFECYCLE, desk.state, {}, desk.data) if way.step is None}


def test_component_that_died_after_its_own_last_step_is_found_before_the_system_is_called_up() -> None:
    desk = restarting(At.RESTORING)
    for name in ("resume:store", "resume:calculator", "confirm_running:store", "confirm_running:calculator"):
        desk.end(name)
    desk.end("confirm_running:reporter", FAILED, "reporter was started and has ended since")
    assert desk.state == At.HALTED
    assert "reporter was started and has ended since" in desk.reason


def test_retry_is_neither_taken_nor_offered_once_somebody_works_on_past_what_it_flushed() -> None:
    desk = restarting(At.RESTORING)
    for name in ("resume:store", "resume:calculator", "confirm_running:store", "confirm_running:calculator"):
        desk.end(name)
    desk.end("confirm_running:reporter", FAILED, "gone")
    refused = desk.act(Act.RETRY)
    assert isinstance(refused, Refusal)
    assert all("calculator was resumed and works on" in why and "adopt" in why for why in refused.reasons)
    assert offered(desk) == {Act.ABORT, Act.ADOPT}
    assert not [way for way in ways_out(LIFECYCLE, desk.state, {}, desk.data) if way.act is Act.WAIVE]
    desk.act(Act.ADOPT)
    assert desk.state == At.UNOBSERVED


def test_retry_starts_whoever_died_with_what_it_flushed_when_nobody_else_holds_anything() -> None:
    died, untold = restarting(At.RESTORING), restarting(At.RESTORING)
    for name in ("resume:store", "resume:calculator", "confirm_running:store"):
        died.end(name)
    died.end("confirm_running:calculator", FAILED, "gone")
    untold.end("resume:store")
    untold.end("resume:calculator", FAILED, "it does not run")
    for desk in (died, untold):
        assert Act.RETRY in offered(desk)
        desk.act(Act.RETRY)
        assert desk.state == At.INITIALIZING
        desk.run_to(At.OPERATIONAL)


def test_whoever_aborts_or_adopts_a_halted_start_leaves_nobody_paused() -> None:
    aborted, adopted = restarting(At.VERIFYING), restarting(At.VERIFYING)
    for desk in (aborted, adopted):
        desk.end("compare")
        desk.end("check:0", FAILED, "expected 0, found 1")
        assert desk.state == At.HALTED
    aborted.act(Act.ABORT)
    adopted.act(Act.ADOPT)
    adopted.run_to(At.VERIFYING)
    adopted.end("compare")
    adopted.end("check:0", FAILED, "expected 0, found 1")
    for desk in (aborted, adopted):
        assert desk.state == At.LEAVING
        assert list(desk.steps) == ["resume:store", "resume:calculator"]
        desk.end_all()
        assert desk.state == At.DEGRADED
        assert "not_resumed" not in desk.data
        assert "may_be_paused" not in desk.data


def test_whoever_cannot_be_resumed_is_remembered_by_name_until_a_person_adopts_and_is_then_told_again() -> None:
    desk = restarting(At.VERIFYING)
    desk.pass_deadline()
    desk.act(Act.ABORT)
    desk.end("resume:store")
    desk.end("resume:calculator", FAILED, "calculator did not answer in time")
    assert desk.state == At.DEGRADED
    assert desk.data["not_resumed"] == {"calculator": "calculator did not answer in time"}
    desk.act(Act.ADOPT)
    desk.end("observe:store")
    desk.end("observe:calculator", FAILED, "somebody else runs it")
    assert desk.state == At.LEAVING


def test_system_that_was_never_touched_is_not_told_anything_when_its_first_look_fails() -> None:
    desk = Desk(LIFECYCLE, "lifecycle/metrics")
    desk.register()
    desk.end("observe:store", FAILED, "somebody else runs it")
    assert desk.state == At.DEGRADED


def test_critical_operation_that_does_not_end_in_time_gives_the_restart_up_and_one_that_ends_lets_it_go_on() -> None:
    critical = {"critical": [{"sql": "trading", "query": "select true"}], "limits": {"critical": "2m"}}
    for ends in (True, False):
        desk = Desk(LIFECYCLE, "lifecycle/metrics", metrics_system(restart=critical))
        desk.register()
        desk.run_to(At.OPERATIONAL)
        desk.request()
        desk.run_to(At.AWAITING_QUIET)
        assert desk.snapshot.deadline_at is not None
        assert (desk.snapshot.deadline_at - desk.now).total_seconds() == 120
        if ends:
            desk.end("interlock")
        else:
            desk.pass_deadline()
        assert desk.state == (At.PRESERVING if ends else At.RESUMING)
