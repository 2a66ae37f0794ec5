"""What `relight status` says of each wait: for whom, until when, what happens then, and which command ends it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from machines.acts import ways_out
from machines.model import InstanceId, PlannedStep, Snapshot, StepStatus
from machines.registry import MACHINES
from schemas.components import OnSilence
from service.cli.main import Act
from service.cli.waits import given_up, waits
from service.ports import InstanceView, StepKey, StepRow, TimerRow

NOW = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
LIFECYCLE = InstanceId("lifecycle/metrics")
PRESERVING = "preparing_for_restart.preserving"


def step(status: StepStatus, on_silence: OnSilence = OnSilence.ABORT, **more: Any) -> StepRow:
    name = "pause:calculator"
    planned = PlannedStep(
        name, "participant.pause", 0, timedelta(seconds=30), 3, component="calculator", on_silence=on_silence
    )
    return StepRow(StepKey(LIFECYCLE, 7, name), "metrics", "local", planned, status, PRESERVING, "c", attempt=1, **more)


def view(state: str, *steps: StepRow, timers: tuple[TimerRow, ...] = (), **more: Any) -> InstanceView:
    snapshot = Snapshot(LIFECYCLE, "metrics", "lifecycle", MACHINES["lifecycle"].version, "c", 1, 12, state, 7, NOW)
    return InstanceView(replace(snapshot, **more), steps, timers)


def said(shown: InstanceView) -> list[str]:
    return [wait.text for wait in waits(shown, NOW, UTC)]


def facts(shown: InstanceView) -> list[str]:
    return [fact for wait in waits(shown, NOW, UTC) for fact in wait.facts]


def commands(shown: InstanceView) -> list[str]:
    return [way.command(LIFECYCLE) for wait in waits(shown, NOW, UTC) for way in wait.ways]


DEADLINE = NOW + timedelta(minutes=5)
WAIVE = 'relight act lifecycle/metrics waive --step pause:calculator --until 24h --reason "WHY"'
ABORT = 'relight act lifecycle/metrics abort --reason "WHY"'


@pytest.mark.parametrize(
    ("on_silence", "then"),
    [
        (OnSilence.ABORT, "abort and resume"),
        (OnSilence.PROCEED, "proceeds without it"),
        (OnSilence.KILL, "kills it"),
    ],
)
def test_silent_participant_is_named_with_its_time_and_what_its_silence_means(on_silence: OnSilence, then: str) -> None:
    timer = TimerRow(LIFECYCLE, 7, "step:pause:calculator", NOW + timedelta(seconds=20))
    shown = view(PRESERVING, step(StepStatus.WAITING, on_silence), timers=(timer,), deadline_at=DEADLINE)
    assert said(shown) == [
        f"pause:calculator waits for calculator until 02:00:20; if it stays silent: {then}",
        "if nobody acts: abort and resume at 02:05:00",
    ]
    assert commands(shown) == [WAIVE, ABORT]


def test_step_that_nobody_can_tell_about_is_a_persons_until_the_deadline() -> None:
    shown = view(PRESERVING, step(StepStatus.UNKNOWN, error="nobody saw it"), deadline_at=DEADLINE)
    assert said(shown)[0] == (
        "pause:calculator waits for a person: nobody can tell whether it happened (nobody saw it). Look, then act; "
        "until 02:05:00, then: abort and resume"
    )
    assert commands(shown)[0] == 'relight act lifecycle/metrics retry --step pause:calculator --reason "WHY"'
    assert commands(shown)[1:] == [WAIVE, ABORT]


def test_lost_worker_and_unserved_place_are_told_from_work_in_progress() -> None:
    lost = step(StepStatus.RUNNING, worker="m1:a", lease_until=NOW - timedelta(minutes=3))
    assert (
        "waits for another worker: its worker m1:a was last heard of before 01:57:00" in said(view(PRESERVING, lost))[0]
    )
    unserved = replace(step(StepStatus.READY, ready_at=NOW - timedelta(minutes=1)), place="cluster-a")
    text = said(view(PRESERVING, unserved, deadline_at=DEADLINE))[0]
    assert text == (
        "pause:calculator waits for a worker since 1m. None serves cluster-a: start `RELIGHT_PLACES=cluster-a relight "
        "serve` there, on the same database and broker; until 02:05:00, then: abort and resume"
    )
    busy = step(StepStatus.RUNNING, worker="m1:a", lease_until=NOW + timedelta(seconds=5))
    assert said(view(PRESERVING, busy))[0] == "pause:calculator is being performed by m1:a (attempt 1 of 3)"
    again = replace(busy, error="it is not up yet")
    assert said(view(PRESERVING, again))[0].endswith("(attempt 1 of 3) again after: it is not up yet")


def test_degraded_system_names_what_its_start_left_out_and_what_was_waived() -> None:
    waiver = {"by": "ana", "reason": "it is paused", "until": "2026-03-02T02:00:00+00:00"}
    shown = view("degraded", data={
        "not_started": {"reporter": "the old process (pid 7) still runs"}, "waivers": {"pause:reporter": waiver},
    })  # fmt: skip
    assert said(shown) == ["waits for a person, for ever: degraded"]
    assert facts(shown) == [
        "reporter was left out of the start: the old process (pid 7) still runs",
        "ana waived pause:reporter (it is paused) until 2026-03-02 02:00:00, for another 1d0h",
    ]


def test_due_time_that_nobody_heeds_means_that_nobody_serves() -> None:
    timer = TimerRow(LIFECYCLE, 7, "deadline", NOW - timedelta(minutes=2))
    assert said(view(PRESERVING, timers=(timer,), deadline_at=timer.due_at))[0] == (
        "waits for a `relight serve`: something is due since 2m and nobody decides here"
    )


def test_halted_system_names_what_failed_and_every_way_out() -> None:
    failure = {
        "state": "shutting_down", "by": "step.reported", "at": "x", "reason": None,
        "steps": {"stop:calculator": "it still runs"},
    }  # fmt: skip
    shown = view("halted", data={"failure": failure})
    assert said(shown) == ["waits for a person, for ever: halted since shutting_down by step.reported"]
    assert facts(shown) == ["stop:calculator: it still runs"]
    assert commands(shown) == [
        'relight act lifecycle/metrics waive --step stop:calculator --until 24h --reason "WHY"',
        *(f'relight act lifecycle/metrics {act} --reason "WHY"' for act in ("retry", "abort", "adopt")),
    ]


def test_waiver_is_told_with_its_end_and_offered_no_second_time() -> None:
    failure = {"state": "starting_up.verifying", "by": "step.reported", "steps": {"check:3": "expected 0, found 1"}}
    waiver = {"by": "ana (local)", "reason": "known", "until": "2026-03-02T02:00:00+00:00"}
    shown = view("halted", data={"failure": failure, "waivers": {"check:3": waiver}})
    assert facts(shown) == [
        "check:3: expected 0, found 1",
        "ana (local) waived check:3 (known) until 2026-03-02 02:00:00, for another 1d0h",
    ]
    assert "waive" not in " ".join(commands(shown))
    late = view("degraded", data={"waivers": {"check:3": {**waiver, "until": "2026-03-01T01:00:00+00:00"}}})
    over = "the waiver of check:3 by ana (local) (known) has ended at 2026-03-01 01:00:00: look at it again"
    assert facts(late) == [over]


def test_restart_that_something_prevented_is_told_until_one_succeeds() -> None:
    failure = {"state": "preparing_for_restart.notifying", "by": "step.reported", "steps": {"tell": "nobody heard"}}
    data: dict[str, Any] = {"last_abort": {"failure": failure, "ended_at": "2026-03-01T01:00:00+00:00"}}
    told = given_up(view("operational", data=data).snapshot, UTC)
    assert told is not None
    assert told.text == (
        "the last restart was given up at 2026-03-01 01:00:00, in preparing_for_restart.notifying; nothing was "
        "stopped, it works as before"
    )
    assert told.facts == ("tell: nobody heard", 'mended, ask for it again: relight restart metrics --reason "WHY"')
    late = {"last_abort": {**data["last_abort"], "down_since": "2026-03-01T00:50:00+00:00"}}
    assert given_up(view("operational", data=late).snapshot, UTC) is None, "it was stopped, and a person adopted it"
    data["last_restart"] = {"up_at": "2026-03-01T01:30:00+00:00"}
    assert given_up(view("operational", data=data).snapshot, UTC) is None


def test_system_that_works_waits_for_nobody() -> None:
    assert said(view("operational")) == []


def test_past_the_point_of_no_return_the_way_out_is_hands_off() -> None:
    shown = view("shutting_down", deadline_at=DEADLINE)
    assert said(shown) == ["if nobody acts: halt and call a person at 02:05:00"]
    assert commands(shown) == ['relight act lifecycle/metrics hands-off --reason "WHY"']


@pytest.mark.parametrize("state", [state.name for state in MACHINES["lifecycle"].states])
def test_every_offered_act_is_one_that_the_table_takes_there(state: str) -> None:
    machine = MACHINES["lifecycle"]
    for way in ways_out(machine, state, {}):
        assert any(t.trigger == f"operator.{way.act}" and state in t.sources for t in machine.transitions)


def test_command_line_offers_exactly_the_acts_of_the_event() -> None:
    from schemas.events import Act as EventAct

    assert [act.value for act in Act] == [act.value for act in EventAct]
