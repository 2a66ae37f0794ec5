"""What a verification leads to when something was broken before the restart, and which configuration is good."""

from typing import Any

from machines.lifecycle import LIFECYCLE, At
from machines.model import StepStatus
from schemas.events import Act
from tests.unit.machine_desk import Desk, metrics_system

KNOWN = {"passed": False, "failed_before": True, "title": "sql trading", "finding": "failed before…", "before": "old"}


def verifying(**changes: Any) -> Desk:
    desk = Desk(LIFECYCLE, "lifecycle/metrics", metrics_system(**changes), state=At.OPERATIONAL)
    desk.request()
    desk.run_to(At.VERIFYING)
    desk.end("compare")
    return desk


def test_what_failed_before_does_not_loop_the_start_and_ends_degraded_with_the_evidence() -> None:
    desk = verifying()
    desk.end("check:0", **KNOWN)
    desk.end("check:1", passed=True)
    assert desk.state == At.RESTORING
    assert desk.reason.startswith("only what failed before the restart already fails")
    assert desk.data["failed_before"] == {
        "check:0": {"title": "sql trading", "finding": "failed before…", "before": "old", "at": None}
    }
    desk.run_to(At.DEGRADED)
    assert desk.reason.startswith("up again, with what failed before the restart already")
    assert desk.data["last_restart"]["failed_before"]["check:0"]["before"] == "old"
    assert "failed_before" not in desk.data


def test_news_beside_it_still_halts() -> None:
    desk = verifying()
    desk.end("check:0", **KNOWN)
    desk.end("check:1", StepStatus.FAILED, error="new")
    assert desk.state == At.HALTED


def test_waiver_beside_it_is_told_as_a_waiver() -> None:
    desk = verifying()
    desk.end("check:0", **KNOWN)
    desk.end("check:1", StepStatus.WAIVED)
    assert desk.reason.startswith("going on by a waiver")


def test_operational_needs_the_soak_too() -> None:
    desk = verifying(restart={"soak": "20s"})
    for name in ("check:0", "check:1", "soak:0"):
        desk.end(name, passed=True)
    assert desk.state == At.VERIFYING
    desk.end("soak:1", StepStatus.WAIVED)
    assert desk.reason.startswith("going on by a waiver")


def test_verifying_has_time_for_a_soak_that_begins_once_more() -> None:
    desk = verifying(restart={"soak": "20m", "limits": {"verify": "3m"}})
    assert desk.snapshot.deadline_at is not None
    assert (desk.snapshot.deadline_at - desk.snapshot.entered_at).total_seconds() >= (20 * 2 + 3) * 60


CONFIG = [{"config": "metrics.toml"}, {"config": "fixed.toml", "sha256": "a" * 64}]


def test_configuration_of_a_verified_system_is_the_good_one_from_then_on() -> None:
    desk = verifying(verify=CONFIG)
    desk.end("check:0", passed=True, value="1" * 64)
    desk.end("check:1", passed=True, value="a" * 64)
    assert desk.data["good"] == {"metrics.toml": "1" * 64}
    desk.run_to(At.OPERATIONAL)
    desk.request()
    assert desk.data["good"] == {"metrics.toml": "1" * 64}


def test_configuration_of_a_system_that_was_not_verified_is_not_the_good_one() -> None:
    desk = verifying(verify=CONFIG)
    desk.end("check:0", passed=True, value="1" * 64)
    desk.end("check:1", StepStatus.WAIVED)
    assert "good" not in desk.data


def test_adopting_what_is_there_forgets_which_configuration_was_good() -> None:
    desk = verifying(verify=CONFIG)
    desk.end("check:0", passed=True, value="1" * 64)
    desk.end("check:1", passed=True, value="a" * 64)
    desk.run_to(At.OPERATIONAL)
    desk.request()
    desk.run_to(At.VERIFYING)
    desk.end("compare")
    desk.end("check:0", StepStatus.FAILED, error="config metrics.toml: its SHA-256 is 222…")
    assert (desk.state, desk.data["good"]) == (At.HALTED, {"metrics.toml": "1" * 64})
    desk.act(Act.ADOPT)
    assert (desk.state, "good" in desk.data) == (At.UNOBSERVED, False)
