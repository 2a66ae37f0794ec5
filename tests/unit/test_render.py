"""How a restart reads on a terminal, from recorded and from written notifications."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.notifications import RefusalData, StepData, TransitionData, WaitData
from service.cli.render import Ending, Line, Notification, Story, Tone, one_line, read

RECORDED = Path(__file__).parent / "recorded" / "restart.jsonl"
T0 = datetime(2026, 3, 1, 2, 0, 0, tzinfo=UTC)
ABOUT = {"system": "metrics", "machine": "lifecycle", "instance": "lifecycle/metrics", "epoch": 1}
STATUS = {"operational": "Operational", "shutting_down": "Shutting Down", "halted": "Halted", "degraded": "Degraded"}


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def moved(
    seconds: float, to: str, reason: str = "", user: str | None = None, dwell: float | None = None
) -> TransitionData:
    status = (
        STATUS.get(to)
        or {"preparing_for_restart": "Preparing for Restart", "starting_up": "Starting Up"}[to.split(".", 1)[0]]
    )
    snapshot = {"state": to, "entry": 7, "entered_at": at(seconds)}
    snapshot |= {"dwell_until": at(dwell)} if dwell is not None else {}
    cause = {"type": "relight.restart.requested", "id": "e1", "source": "s", "user": user}
    about = {"seq": 1, "from": "x", "machine_version": 1, "config_hash": "c", "snapshot": snapshot}
    return TransitionData.model_validate(
        {**ABOUT, **about, "to": to, "status": status, "reason": reason, "event": cause, "at": at(seconds)}
    )


def step(after: float, name: str, outcome: str = "done", **more: Any) -> StepData:
    about = {"state": "any", "entry": 7, "attempt": 1, "step": name, "outcome": outcome, "at": at(after)}
    return StepData.model_validate({**ABOUT, **about, **more})


def wait(seconds: float, whom: str, until: float, then: str, name: str | None = None) -> WaitData:
    about = {"state": "any", "entry": 7, "step": name, "whom": whom, "until": at(until), "then": then}
    return WaitData.model_validate({**ABOUT, **about, "at": at(seconds)})


def refused(seconds: float, event_id: str, *reasons: str) -> RefusalData:
    cause = {"type": "relight.restart.requested", "id": event_id, "source": "s", "user": "eve"}
    return RefusalData.model_validate(
        {**ABOUT, "seq": 2, "state": "operational", "reasons": list(reasons), "event": cause, "at": at(seconds)}
    )


def told(story: Story, *said: Notification) -> list[str]:
    return [line.text for one in said for line in story.take(one)]


def restart_until_down(story: Story) -> list[str]:
    return told(
        story,
        moved(0, "preparing_for_restart.notifying", "restart requested", "ana", dwell=900),
        moved(900, "preparing_for_restart.preserving", "it is time"),
        moved(905, "shutting_down", "the system snapshot is verified: point of no return"),
    )


def test_recorded_restart_reads_from_request_to_operational() -> None:
    story = Story(UTC, limit=timedelta(minutes=1))
    said = [read(line) for line in RECORDED.read_bytes().splitlines()]
    assert None not in said
    assert [line.text for one in said if one is not None for line in story.take(one)] == [
        "20:19:48 PREPARING      restart requested: asked for by hand   pause at 20:19:53; cancel until shutdown   "
        "by root (local)",
        "20:19:48   tell         ✓",
        "20:19:48   baseline     equal trades, last_trade, win_rate, pnl, sharpe ✓ | round trip calculator ✓ | "
        "sql trading ✓ 0.1s",
        "20:19:53   pause        reporter ✓ pid 714 | calculator ✓ paused for at most 300 s",
        "20:19:53   flush        calculator ✓ 193 bytes digest 40e9ff8e…",
        "20:19:53   snapshot     ✓ 2725c41a…",
        "20:19:53   read back    ✓ 2725c41a…",
        "         ── point of no return ──",
        "20:19:53 SHUTTING DOWN  the system snapshot is verified",
        "20:19:53   stop         reporter ✓ pid 714 | calculator ✓ 0.1s pid 613",
        "20:19:53   confirm      ✓",
        "20:19:53 STARTING UP    everything is stopped",
        "20:19:54   start        trading-server ✓ pid 461 | calculator ✓ paused digest 40e9ff8e… pid 1072 | "
        "reporter ✓ 0.3s pid 1078",
        "20:19:54   compare      ✓ 2725c41a…",
        "20:19:54   verify       round trip calculator ✓ | equal trades, last_trade, win_rate, pnl, sharpe ✓ | "
        "sql trading ✓ 0.1s",
        "20:19:54   resume       calculator ✓ resumed | reporter ✓ pid 1078",
        "20:19:54   complete     ✓",
        "20:19:54 OPERATIONAL    downtime 1.2s of 1m   "
        "file:///srv/metrics/var/state/snapshots/20261121T201948-390b2e.json",
    ]
    assert story.ending is not None
    assert story.ending.restarted
    assert not story.ending.reasons


def test_silent_participant_that_may_be_silent_is_shown_beside_the_others() -> None:
    lines = told(
        Story(UTC),
        step(0, "pause:calculator", seconds=0.2),
        step(30, "pause:reporter", "proceeded", seconds=30.0),
        step(31, "flush:calculator", result={"digest": "9f3c" * 16}),
    )
    assert lines == [
        "02:00:00   pause        calculator ✓ 0.2s",
        "02:00:31   pause        reporter silent 30s → proceed",
    ]


def test_wait_is_shown_once_it_has_lasted_and_says_what_happens_then() -> None:
    story = Story(UTC)
    assert told(story, wait(0, "calculator", 300, "abort and resume", "pause:calculator")) == []
    assert story.tick(at(1.9)) == ()
    (line,) = story.tick(at(2))
    assert line == Line(
        "02:00:02   pause        waits for calculator;  if nobody acts: abort and resume at 02:05:00", Tone.WAIT
    )
    assert story.tick(at(60)) == ()


def test_wait_that_ends_soon_leaves_no_line() -> None:
    story = Story(UTC)
    told(story, wait(0, "calculator", 30, "abort", "pause:calculator"), step(1, "pause:calculator", seconds=1.0))
    assert [line.text for line in story.tick(at(40))] == ["02:00:01   pause        calculator ✓ 1s"]


def test_announced_pause_is_not_told_a_second_time_as_a_wait() -> None:
    story = Story(UTC)
    told(story, moved(0, "preparing_for_restart.notifying", "asked", "ana", dwell=900))
    told(story, wait(0, "the due time", 900, "goes on"))
    assert story.tick(at(600)) == ()


def test_steps_that_take_long_do_not_hide_those_that_have_ended() -> None:
    story = Story(UTC)
    told(story, step(0, "stop:reporter", "started"), step(1, "stop:reporter", seconds=1.0))
    told(story, step(1, "stop:calculator", "started"))
    assert story.pending == "stop         reporter ✓ 1s | calculator …"
    assert [line.text for line in story.tick(at(3))] == ["02:00:01   stop         reporter ✓ 1s"]
    assert story.pending == "stop         calculator …"
    assert told(story, step(90, "stop:calculator", seconds=89.0), moved(91, "halted", "x"))[0] == (
        "02:01:31   stop         calculator ✓ 1m29s"
    )


def test_retry_is_told_at_once_with_its_cause() -> None:
    story = Story(UTC)
    assert told(story, step(5, "check:1", "retrying", error="mcp research:\n timeout", attempt=2)) == [
        "02:00:05   verify       1 ✗ mcp research: timeout (attempt 2), again"
    ]
    done = step(9, "check:1", attempt=3, result={"title": "mcp research", "passed": True})
    assert told(story, done, moved(9, "operational"))[0] == "02:00:09   verify       mcp research ✓ after 3 attempts"


def test_check_that_was_performed_and_did_not_pass_is_no_tick() -> None:
    story = Story(UTC)
    told(story, step(1, "baseline:0", result={"title": "sql trading", "passed": False, "detail": "17 minutes old"}))
    (line,) = story.tick(at(4))
    assert line == Line("02:00:01   baseline     sql trading ✗ 17 minutes old", Tone.BAD)


def test_reused_backup_says_of_when_it_is_and_needs_one_line_only() -> None:
    result = {"reused": True, "made_at": at(-6300).isoformat(), "url": "file:///b/r0.dump", "sha256": "ab" * 32}
    lines = told(
        Story(UTC),
        step(1, "backup:trading", result=result),
        step(2, "verify_backup:trading", result={"reused": True, "verified": True}),
        step(3, "restore_test:trading", result={"reused": True, "restored": True}),
        moved(4, "shutting_down"),
    )
    assert lines[0] == "02:00:02   backup       trading reused 00:15, restored in test ✓"
    assert not [line for line in lines[1:] if "read back" in line or "restore test" in line]


def test_new_backup_says_what_was_dumped_read_back_and_restored() -> None:
    made = {"reused": False, "tables": 3, "rows": 120, "url": "file:///b/r1.dump"}
    lines = told(
        Story(UTC),
        step(1, "backup:trading", result=made, seconds=1.5),
        step(2, "verify_backup:trading", result={"reused": False, "verified": True, "sha256": "ab" * 32}),
        step(3, "restore_test:trading", result={"reused": False, "tables": 1, "rows": 1}, seconds=2.0),
        moved(4, "preparing_for_restart.resuming", "aborted"),
        moved(5, "operational", "resumed and verified"),
    )
    assert lines[:3] == [
        "02:00:02   backup       trading ✓ 1.5s 3 tables, 120 rows",
        "02:00:03   read back    trading ✓ abababab…",
        "02:00:04   restore test trading ✓ 2s 1 table, 1 row",
    ]
    assert "r1.dump" not in lines[-1]  # the document of a restart is its snapshot or report, not its backup


def test_unknown_outcome_says_that_nobody_knows() -> None:
    (line,) = told(Story(UTC), step(1, "stop:calculator", "unknown", error="Relight was killed while it stopped it"))
    assert line.endswith(
        "stop         calculator ✗ unknown whether it happened: Relight was killed while it stopped it"
    )


def test_cancelled_restart_ends_operational_and_not_restarted() -> None:
    story = Story(UTC)
    told(story, moved(0, "preparing_for_restart.notifying", "restart requested", "ana", dwell=900))
    assert told(story, moved(60, "preparing_for_restart.resuming", "the restart was cancelled", "ben")) == [
        "02:01:00 RESUMING       the restart was cancelled   by ben (verified)"
    ]
    assert told(story, moved(70, "operational", "resumed and verified")) == [
        "02:01:10 OPERATIONAL    resumed and verified"
    ]
    assert story.ending == Ending("operational", restarted=False, reasons=("resumed and verified",))


def test_downtime_counts_from_the_pause_and_is_held_against_the_limit() -> None:
    story = Story(UTC, limit=timedelta(minutes=10))
    assert restart_until_down(story)[-2:] == [
        "         ── point of no return ──",
        "02:15:05 SHUTTING DOWN  the system snapshot is verified",
    ]
    (line,) = story.take(moved(900 + 601, "operational", "up again"))
    assert line == Line("02:25:01 OPERATIONAL    downtime 10m01s of 10m", Tone.BAD)
    assert story.ending is not None
    assert story.ending.restarted


def test_halted_restart_names_its_reason() -> None:
    story = Story(UTC)
    restart_until_down(story)
    line, *ways = story.take(moved(960, "halted", "a person is needed: start:calculator failed"))
    assert line.text == "02:16:00 HALTED         a person is needed: start:calculator failed   downtime 1m"
    assert line.tone is Tone.BAD
    assert [way.text.split("  ")[0] for way in (Line(one.text.strip()) for one in ways)] == [
        'relight act lifecycle/metrics retry --reason "WHY"',
        'relight act lifecycle/metrics abort --reason "WHY"',
        'relight act lifecycle/metrics adopt --reason "WHY"',
    ]
    assert story.ending is not None
    assert not story.ending.restarted


def test_own_refusal_ends_the_story_and_a_strangers_does_not() -> None:
    story = Story(UTC, request="mine")
    assert told(story, refused(1, "other", "eve may not restart metrics")) == [
        "02:00:01 REFUSED        eve may not restart metrics"
    ]
    assert story.ending is None
    told(story, refused(2, "mine", "work in progress", "too soon"))
    assert story.ending == Ending("operational", restarted=False, reasons=("work in progress", "too soon"))


def test_what_is_no_notification_is_passed_over() -> None:
    assert read(b"\xff") is None
    assert read(b'{"specversion": "1.0"}') is None
    unknown = b'{"specversion":"1.0","id":"1","source":"relight","type":"relight.weather","subject":"m","data":{}}'
    assert read(unknown) is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            moved(0, "shutting_down", "the snapshot is verified", "ana"),
            "02:00:00 lifecycle/metrics        x → shutting_down   the snapshot is verified   by ana (verified)   #1",
        ),
        (
            refused(0, "e", "no right"),
            "02:00:00 lifecycle/metrics        refused restart.requested by eve (verified): no right",
        ),
        (
            step(0, "flush:calculator", seconds=2.0, result={"digest": "9f3c41ab" * 8}),
            "02:00:00 lifecycle/metrics        flush:calculator done 2s digest 9f3c41ab…",
        ),
        (
            wait(0, "calculator", 30, "abort"),
            "02:00:00 lifecycle/metrics        waits for calculator; if nobody acts: abort at 02:00:30",
        ),
    ],
)
def test_each_notification_by_itself_is_one_line(said: Notification, expected: str) -> None:
    assert one_line(said, UTC).text == expected
