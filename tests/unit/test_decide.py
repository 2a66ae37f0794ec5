"""Stories of one batch: what events do to a lifecycle in the working set, without any server."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from machines.model import SETTLED, Event, InstanceId, StepStatus
from machines.registry import MACHINES
from schemas.base import Closed
from schemas.envelope import CloudEvent
from schemas.events import (
    Act,
    AnswerOutcome,
    OperatorActed,
    ParticipantAnswered,
    RestartCancelled,
    RestartRequested,
    StepReported,
    SystemRegistered,
    TimerFired,
)
from schemas.notifications import NOTIFICATIONS
from schemas.system import System
from service.engine import notices
from service.engine.decide import Outcome, decide
from service.engine.definitions import Definitions
from service.engine.records import fold
from service.engine.work import Live, Work
from service.ports import SILENT, Loaded, Prepared, StepKey, Token

NOW = datetime(2026, 3, 1, 1, 45, tzinfo=UTC)
LIFECYCLE = InstanceId("lifecycle/metrics")


def metrics_system(**changes: object) -> System:
    """A system with one AMQP participant and one that proceeds when it is silent."""
    return System.model_validate(
        {
            "system": "metrics",
            "storage": {"state": "file:///var/lib/metrics"},
            "components": {
                "calculator": {"process": ["calculator"], "participant": "amqp"},
                "reporter": {
                    "process": ["reporter"],
                    "needs": ["calculator"],
                    "participant": {"pause": {"signal": "USR1"}, "resume": {"signal": "USR2"}},
                    "on_silence": "proceed",
                },
            },
            "verify": [{"roundtrip": "calculator"}, {"equal": ["pnl"]}],
            "restart": {"notice": {"lead": "10s"}},
            **changes,
        }
    )


class Desk:
    """Feeds events into one working set and finishes steps as a runner would."""

    def __init__(self, **changes: object) -> None:
        self.definitions = Definitions(MACHINES, {"metrics": metrics_system(**changes)})
        self.work = Work(Prepared({}, {}), self.definitions, epoch=1, now=NOW)
        self.count = 0

    @property
    def live(self) -> Live:
        return self.work.live(LIFECYCLE, "metrics")

    @property
    def state(self) -> str:
        return self.live.snapshot.state

    def tell(self, name: str, data: Closed, user: str = "ana") -> Outcome:
        self.count += 1
        event = Event(f"e{self.count}", "test", name, "metrics", data, self.work.now, user=user)
        return decide(self.work, LIFECYCLE, event)

    def later(self, seconds: float) -> None:
        self.work.now += timedelta(seconds=seconds)

    def fire(self, kind: str) -> Outcome:
        entry = self.live.snapshot.entry
        return self.tell("timer.fired", TimerFired(instance=LIFECYCLE, entry=entry, kind=kind))

    def report(self, step: str, status: StepStatus, result: dict | None = None, error: str | None = None) -> Outcome:
        """What the runner does: the row first, then the signal."""
        row = self.live.steps[step]
        changed = replace(row, status=status, result=result or {}, error=error, attempt=1)
        self.live.steps[step] = changed
        if row.key in self.work._new_steps:
            self.work._new_steps[row.key] = changed
        data = StepReported(
            instance=LIFECYCLE,
            entry=row.key.entry,
            state=row.state,
            step=step,
            attempt=1,
            outcome=status.value if status is not StepStatus.READY else "retrying",
            result=result or {},
            error=error,
        )
        return self.tell("step.reported", data)

    def ready(self) -> list[str]:
        return [row.key.name for row in self.live.steps.values() if row.status is StepStatus.READY]

    def finish_state(self, results: dict[str, dict] | None = None) -> None:
        """Every step of the entry succeeds, in order."""
        entry = self.live.snapshot.entry
        while self.live.snapshot.entry == entry and (names := self.ready()):
            for name in names:
                if self.live.snapshot.entry == entry:
                    result = {"passed": True, "running": True, **(results or {}).get(name, {})}
                    self.report(name, StepStatus.DONE, result)

    def to_operational(self) -> None:
        self.tell("system.registered", SystemRegistered(config_hash=self.definitions.current_hash("metrics")))
        self.finish_state()
        while self.state != "operational":
            before = self.state
            self.finish_state()
            assert self.state != before, f"stuck in {before} with {self.ready()}"

    def to_preserving(self) -> None:
        self.to_operational()
        assert self.tell("restart.requested", RestartRequested(reason="nightly")) is Outcome.APPLIED
        assert self.state == "preparing_for_restart.notifying"
        self.finish_state()
        self.later(11)
        self.fire("dwell")
        assert self.state == "preparing_for_restart.preserving"


SEALED = {
    "seal": {"url": "file:///s.json", "sha256": "ab" * 32},
    "verify_snapshot": {"verified": True, "sha256": "ab" * 32, "url": "file:///s.json"},
    "flush:calculator": {"digest": "cd" * 32, "where": "file:///c.json"},
}


def test_a_whole_restart_ends_operational_and_every_row_folds_to_the_snapshot() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.finish_state(SEALED)
    assert desk.state == "shutting_down"
    while desk.state != "operational":
        before = desk.state
        desk.finish_state()
        assert desk.state != before
    batch = desk.work.batch(0, Token(1), ())
    assert fold(batch.log) == desk.live.snapshot
    states = [row.state_to for row in batch.log]
    assert states[-6:] == [
        "preparing_for_restart.preserving",
        "shutting_down",
        "starting_up.initializing",
        "starting_up.verifying",
        "starting_up.restoring",
        "operational",
    ]


def test_every_transition_is_published_once_in_order_and_every_notification_fits_its_schema() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.finish_state(SEALED)
    batch = desk.work.batch(0, Token(1), ())
    envelopes = [(CloudEvent.model_validate_json(message.body), message) for message in batch.outbox]
    for envelope, message in envelopes:
        NOTIFICATIONS[envelope.type.removeprefix("relight.")].model_validate(envelope.data)
        assert envelope.id == message.message_id
    moved = [e.data["seq"] for e, _ in envelopes if e.type == "relight.transition"]
    assert moved == [row.seq for row in batch.log]


def test_steps_begin_in_order_and_the_next_only_after_the_one_before() -> None:
    desk = Desk()
    desk.to_preserving()
    assert desk.ready() == ["identify"]
    desk.report("identify", StepStatus.DONE)
    assert desk.ready() == ["pause:reporter"]
    desk.report("pause:reporter", StepStatus.DONE)
    assert desk.ready() == ["pause:calculator"]


def test_the_pause_never_comes_before_the_due_time_even_when_the_steps_are_done() -> None:
    desk = Desk()
    desk.to_operational()
    desk.tell("restart.requested", RestartRequested(reason="nightly"))
    desk.finish_state()
    assert desk.state == "preparing_for_restart.notifying"
    desk.later(11)
    desk.fire("dwell")
    assert desk.state == "preparing_for_restart.preserving"


def test_cancelled_restart_returns_to_operational() -> None:
    desk = Desk()
    desk.to_preserving()
    assert desk.tell("restart.cancelled", RestartCancelled(reason="not tonight")) is Outcome.APPLIED
    assert desk.state == "preparing_for_restart.resuming"
    cancelled = [s for s in desk.work.batch(0, Token(1), ()).steps_new if s.state.endswith("preserving")]
    assert all(step.status is StepStatus.CANCELLED for step in cancelled)
    desk.finish_state()
    assert desk.state == "operational"


def test_a_second_request_is_refused_with_a_reason_and_moves_nothing() -> None:
    desk = Desk()
    desk.to_preserving()
    before = desk.live.snapshot
    assert desk.tell("restart.requested", RestartRequested(reason="me too")) is Outcome.REFUSED
    after = desk.live.snapshot
    assert (after.state, after.entry, after.seq) == (before.state, before.entry, before.seq + 1)
    row = desk.work.batch(0, Token(1), ()).log[-1]
    assert row.kind == "refusal"
    assert "restart" in row.record


def test_cancel_after_the_point_of_no_return_is_refused() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.finish_state(SEALED)
    assert desk.tell("restart.cancelled", RestartCancelled(reason="oh no")) is Outcome.REFUSED
    assert desk.state == "shutting_down"


def test_an_unverified_snapshot_never_leads_to_shutting_down() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.finish_state({**SEALED, "verify_snapshot": {"verified": False}})
    assert desk.state == "preparing_for_restart.resuming"


@pytest.mark.parametrize("status", [StepStatus.WAITING, StepStatus.RUNNING])
def test_an_answer_finds_its_step_whether_or_not_the_runner_recorded_the_wait(status: StepStatus) -> None:
    desk = Desk()
    desk.to_preserving()
    desk.report("pause:reporter", StepStatus.DONE)
    row = desk.live.steps["pause:calculator"]
    desk.live.steps["pause:calculator"] = desk.work._new_steps[row.key] = replace(row, status=status)
    answer = ParticipantAnswered(
        component="calculator", commandid=row.key.command_id, token=1, outcome=AnswerOutcome.DONE
    )
    assert desk.tell("participant.answered", answer) is Outcome.ABSORBED
    after = desk.live.steps["pause:calculator"]
    assert after.answer is not None
    assert after.answer["outcome"] == "done"
    assert after.status is (StepStatus.READY if status is StepStatus.WAITING else StepStatus.RUNNING)


def test_an_answer_nobody_waits_for_is_refused() -> None:
    desk = Desk()
    desk.to_preserving()
    answer = ParticipantAnswered(
        component="calculator", commandid=f"{LIFECYCLE}:1:pause:calculator", token=1, outcome=AnswerOutcome.DONE
    )
    assert desk.tell("participant.answered", answer) is Outcome.REFUSED


def test_a_silent_participant_that_may_be_passed_over_is_and_one_that_may_not_turns_the_restart_back() -> None:
    desk = Desk()
    desk.to_preserving()
    row = desk.live.steps["pause:reporter"]
    desk.live.steps["pause:reporter"] = replace(row, status=StepStatus.WAITING)
    desk.fire("step:pause:reporter")
    assert desk.live.steps["pause:reporter"].status is StepStatus.PROCEEDED
    row = desk.live.steps["pause:calculator"]
    desk.live.steps["pause:calculator"] = replace(row, status=StepStatus.WAITING)
    desk.fire("step:pause:calculator")
    assert desk.state == "preparing_for_restart.resuming"


def test_silence_at_a_check_is_for_its_action_to_judge() -> None:
    desk = Desk()
    desk.to_operational()
    desk.tell("restart.requested", RestartRequested(reason="release"))
    desk.report("tell", StepStatus.DONE)
    row = desk.live.steps["baseline:0"]
    desk.live.steps["baseline:0"] = replace(row, status=StepStatus.WAITING, attempt=1)
    desk.fire("step:baseline:0")
    after = desk.live.steps["baseline:0"]
    assert (after.status, after.answer) == (StepStatus.READY, SILENT)
    assert desk.state == "preparing_for_restart.notifying"


def test_a_result_of_a_past_entry_changes_nothing() -> None:
    desk = Desk()
    desk.to_preserving()
    late = StepReported(
        instance=LIFECYCLE,
        entry=desk.live.snapshot.entry - 1,
        state="preparing_for_restart.notifying",
        step="tell",
        attempt=1,
        outcome="failed",
        error="late",
    )
    assert desk.tell("step.reported", late) is Outcome.ABSORBED
    assert desk.state == "preparing_for_restart.preserving"


def test_a_person_waives_a_step_that_nobody_can_tell_about() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.report("identify", StepStatus.DONE)
    desk.report("pause:reporter", StepStatus.UNKNOWN, error="nobody saw it")
    assert desk.state == "preparing_for_restart.preserving"
    act = OperatorActed(instance=LIFECYCLE, act=Act.WAIVE, step="pause:reporter", reason="it is paused, I looked")
    assert desk.tell("operator.acted", act) is Outcome.REFUSED
    act = act.model_copy(update={"until": NOW + timedelta(days=1)})
    assert desk.tell("operator.acted", act) is Outcome.APPLIED
    assert desk.live.steps["pause:reporter"].status is StepStatus.WAIVED
    assert desk.ready() == ["pause:calculator"]
    assert desk.live.snapshot.data["waivers"]["pause:reporter"]["by"] == "ana"


def test_step_whose_waiver_ends_its_state_is_stored_as_waived() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.finish_state(SEALED)
    desk.finish_state()
    assert desk.state == "starting_up.initializing"
    while len([row for row in desk.live.steps.values() if row.status not in SETTLED]) > 1:
        desk.report(desk.ready()[0], StepStatus.DONE)
    [last] = desk.ready()
    entry = desk.live.snapshot.entry
    rows = tuple(replace(r, status=StepStatus.RUNNING) if n == last else r for n, r in desk.live.steps.items())
    stored = Prepared({}, {LIFECYCLE: Loaded(desk.live.snapshot, rows)})
    desk.work = Work(stored, desk.definitions, epoch=1, now=desk.work.now)
    assert desk.tell("operator.acted", waiver(last)) is Outcome.APPLIED
    assert (desk.state, desk.live.snapshot.entry) == ("starting_up.verifying", entry + 1)
    batch = desk.work.batch(0, Token(1), ())
    assert batch.leave == ((LIFECYCLE, entry),)
    assert [(change.key.name, change.status) for change in batch.step_changes] == [(last, StepStatus.WAIVED)]


def test_state_whose_time_is_over_names_what_nobody_took_up() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.fire("deadline")
    failure = desk.live.snapshot.data["failure"]
    assert failure["steps"] == {"identify": "nobody took it up in time: does a `relight serve` serve local?"}


def halted_in_verifying() -> Desk:
    """The first check failed for good after the restart, and the call for a person is out."""
    desk = Desk()
    desk.to_preserving()
    desk.finish_state(SEALED)
    for _ in ("shutting_down", "starting_up.initializing"):
        desk.finish_state()
    desk.report("compare", StepStatus.DONE)
    desk.report("check:0", StepStatus.FAILED, error="nobody answered")
    assert desk.state == "halted"
    return desk


def waiver(step: str, until: datetime = NOW + timedelta(days=1)) -> OperatorActed:
    return OperatorActed(instance=LIFECYCLE, act=Act.WAIVE, step=step, reason="known, see 4711", until=until)


def test_what_halted_a_system_can_be_waived_for_the_next_retry_which_ends_degraded() -> None:
    desk = halted_in_verifying()
    offer = 'relight act lifecycle/metrics waive --step check:0 --until 24h --reason "WHY"'
    assert offer in waits(desk)[-1]["acts"]
    assert desk.tell("operator.acted", waiver("check:1")) is Outcome.REFUSED
    assert desk.tell("operator.acted", waiver("check:0", NOW)) is Outcome.REFUSED
    assert desk.tell("operator.acted", waiver("check:0")) is Outcome.APPLIED
    assert desk.state == "halted"
    assert desk.tell("operator.acted", waiver("check:0")) is Outcome.REFUSED
    desk.tell("operator.acted", OperatorActed(instance=LIFECYCLE, act=Act.RETRY, reason="go on"))
    desk.finish_state()
    assert desk.state == "starting_up.verifying"
    assert desk.live.steps["check:0"].status is StepStatus.WAIVED
    assert desk.ready() == ["compare"]
    desk.finish_state()
    desk.finish_state()
    assert desk.state == "degraded"
    kept = desk.live.snapshot.data["waivers"]["check:0"]
    assert (kept["by"], kept["reason"], kept["state"]) == ("ana", "known, see 4711", "starting_up.verifying")


def test_waiver_that_is_over_when_the_retry_comes_waives_nothing() -> None:
    desk = halted_in_verifying()
    desk.tell("operator.acted", waiver("check:0", NOW + timedelta(minutes=1)))
    desk.later(61)
    desk.tell("operator.acted", OperatorActed(instance=LIFECYCLE, act=Act.RETRY, reason="go on"))
    desk.finish_state()
    assert desk.live.steps["check:0"].status is StepStatus.PLANNED


def waits(desk: Desk) -> list[dict[str, object]]:
    envelopes = [CloudEvent.model_validate_json(m.body) for m in desk.work.batch(0, Token(1), ()).outbox]
    return [dict(e.data) for e in envelopes if e.type == "relight.wait"]


def test_where_a_person_is_meant_the_wait_names_the_commands_to_type() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.report("pause:reporter", StepStatus.UNKNOWN, error="nobody saw it")
    wait = waits(desk)[-1]
    retry = 'relight act lifecycle/metrics retry --step pause:reporter --reason "WHY"'
    assert retry in str(wait["whom"])
    assert wait["acts"] == [
        retry,
        'relight act lifecycle/metrics waive --step pause:reporter --until 24h --reason "WHY"',
        'relight act lifecycle/metrics abort --reason "WHY"',
    ]
    assert wait["then"] == "abort and resume"


def test_halted_is_said_to_wait_for_a_person_with_every_way_out() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.finish_state(SEALED)
    act = OperatorActed(instance=LIFECYCLE, act=Act.HANDS_OFF, reason="mine now")
    assert desk.tell("operator.acted", act) is Outcome.APPLIED
    assert desk.state == "halted"
    wait = waits(desk)[-1]
    assert (wait["state"], wait["until"], wait["then"]) == ("halted", None, "it stays halted")
    assert wait["acts"] == [f'relight act lifecycle/metrics {a} --reason "WHY"' for a in ("retry", "abort", "adopt")]


def test_hands_off_before_anything_was_stopped_is_refused_and_abort_is_offered() -> None:
    desk = Desk()
    desk.to_preserving()
    act = OperatorActed(instance=LIFECYCLE, act=Act.HANDS_OFF, reason="mine now")
    assert desk.tell("operator.acted", act) is Outcome.REFUSED
    assert "abort instead" in desk.work.batch(0, Token(1), ()).log[-1].record
    assert desk.tell("operator.acted", act.model_copy(update={"act": Act.ABORT})) is Outcome.APPLIED
    assert desk.state == "preparing_for_restart.resuming"


def test_a_retry_by_a_person_gives_the_step_its_attempts_again() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.report("pause:reporter", StepStatus.UNKNOWN, error="nobody saw it")
    act = OperatorActed(instance=LIFECYCLE, act=Act.RETRY, step="pause:reporter", reason="try again")
    assert desk.tell("operator.acted", act) is Outcome.APPLIED
    row = desk.live.steps["pause:reporter"]
    assert (row.status, row.attempt) == (StepStatus.READY, 0)


def test_ids_of_any_length_that_arrive_still_make_notifications_that_amqp_can_carry() -> None:
    long = notices.rejection("metrics", ("why",), {}, 1, NOW, f"{'s' * 300}:{'i' * 300}:{'h' * 64}")
    other = notices.rejection("metrics", ("why",), {}, 1, NOW, f"{'s' * 300}:{'i' * 300}:{'g' * 64}")
    assert len(long.message_id.encode()) <= 255
    assert long.message_id != other.message_id


def test_a_step_of_the_longest_names_reports_with_an_id_that_is_taken_in() -> None:
    key = StepKey(InstanceId("/".join("abc"[n] * 63 for n in range(3))), 10**9, f"{'s' * 63}:{'c' * 63}")
    assert len(key.command_id) <= 220
    assert key.command_id.split(":")[0] == key.instance
    assert key.command_id != StepKey(key.instance, key.entry, f"{'s' * 63}:{'d' * 63}").command_id


def test_a_required_notice_that_was_delivered_late_moves_the_pause_and_its_state_goes_on() -> None:
    desk = Desk(
        restart={"notice": {"lead": "10s", "delivery": "required"}}, channels={"warning": ["env:MAIL"]}
    )  # fmt: skip
    desk.to_operational()
    desk.tell("restart.requested", RestartRequested(reason="nightly"))
    asked = desk.live.snapshot
    desk.later(7)
    desk.report("tell", StepStatus.DONE, {"delivered_at": desk.work.now.isoformat()})
    moved = desk.live.snapshot
    assert (moved.state, moved.entry, moved.seq) == (asked.state, asked.entry, asked.seq + 1)
    assert moved.dwell_until == asked.dwell_until + timedelta(seconds=7)
    assert moved.deadline_at == asked.deadline_at + timedelta(seconds=7)
    timers = {timer.kind: timer.due_at for timer in desk.work.batch(0, Token(1), ()).timers}
    assert timers == {"dwell": moved.dwell_until, "deadline": moved.deadline_at}
    desk.finish_state()
    desk.later(4)
    desk.fire("dwell")
    assert desk.state == "preparing_for_restart.notifying"
    desk.later(7)
    desk.fire("dwell")
    assert desk.state == "preparing_for_restart.preserving"
    assert fold(desk.work.batch(0, Token(1), ()).log) == desk.live.snapshot


def test_what_is_said_of_a_step_again_after_a_persons_retry_has_an_id_of_its_own() -> None:
    desk = Desk()
    desk.to_preserving()
    for _ in range(2):
        desk.report("pause:reporter", StepStatus.UNKNOWN, error="nobody saw it")
        desk.later(1)
        act = OperatorActed(instance=LIFECYCLE, act=Act.RETRY, step="pause:reporter", reason="try again")
        assert desk.tell("operator.acted", act) is Outcome.APPLIED
    ids = [message.message_id for message in desk.work.batch(0, Token(1), ()).outbox]
    assert len(ids) == len(set(ids))


def test_a_refusal_before_the_first_look_does_not_bind_the_system_to_the_file_it_had_then() -> None:
    desk = Desk()
    assert desk.tell("restart.requested", RestartRequested(reason="too early")) is Outcome.REFUSED
    newer = Definitions(MACHINES, {"metrics": metrics_system(zone="Europe/Berlin")})
    newer.add_configuration(desk.live.snapshot.config_hash, desk.live.system)
    work = Work(Prepared({}, {LIFECYCLE: Loaded(desk.live.snapshot)}), newer, epoch=1, now=NOW)
    registered = SystemRegistered(config_hash=newer.current_hash("metrics"))
    event = Event("r", "relight/serve", "system.registered", "metrics", registered, NOW)
    assert decide(work, LIFECYCLE, event) is Outcome.APPLIED
    assert work.live(LIFECYCLE, "metrics").snapshot.config_hash == newer.current_hash("metrics")


def test_after_the_point_of_no_return_a_silent_component_is_asked_again_before_a_person_is_called() -> None:
    desk = Desk()
    desk.to_preserving()
    desk.finish_state(SEALED)
    desk.finish_state()
    assert desk.state == "starting_up.initializing"
    for attempt in (1, 2):
        row = desk.live.steps["start:calculator"]
        desk.live.steps["start:calculator"] = replace(row, status=StepStatus.WAITING, attempt=attempt)
        desk.fire("step:start:calculator")
        assert desk.live.steps["start:calculator"].status is StepStatus.READY
    row = desk.live.steps["start:calculator"]
    desk.live.steps["start:calculator"] = replace(row, status=StepStatus.WAITING, attempt=3)
    desk.fire("step:start:calculator")
    assert desk.state == "halted"
