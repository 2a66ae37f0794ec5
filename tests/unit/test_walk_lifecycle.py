"""A random walk of the lifecycle beside a second, hand-written table that knows only names: both agree throughout.

The table below was written from the design, not from `machines/lifecycle.py`; it takes nothing from it but the machine.
"""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from machines.lifecycle import LIFECYCLE
from machines.model import Absorbed, Move, Refusal, StepStatus, Verdict
from schemas.events import Act
from tests.unit.machine_desk import Desk, metrics_system

AWAITING = "preparing_for_restart.awaiting_approval"
NOTIFYING, PRESERVING, RESUMING = (f"preparing_for_restart.{w}" for w in ("notifying", "preserving", "resuming"))
INITIALIZING, VERIFYING, RESTORING = (f"starting_up.{w}" for w in ("initializing", "verifying", "restoring"))
DOWN = ("shutting_down", INITIALIZING, VERIFYING, RESTORING)
LOST, LEAVING = "halted.database_lost", "degraded.resuming"
RESTS = ("operational", "degraded", "halted", LOST)

ON_REQUEST = {"operational": NOTIFYING, "degraded": NOTIFYING}
ON_ANSWER = {"given": NOTIFYING, "denied": RESUMING}
ON_CANCEL = {AWAITING: RESUMING, NOTIFYING: RESUMING, PRESERVING: RESUMING}
ON_ABORT = {**ON_CANCEL, "unobserved": "degraded", "halted": LEAVING, LOST: LEAVING}
ON_ADOPT = dict.fromkeys(("halted", "degraded", LOST), "unobserved")
ON_HANDS_OFF = dict.fromkeys(DOWN, "halted")
ON_TROUBLE = {**ON_CANCEL, "unobserved": "degraded", RESUMING: "degraded", LEAVING: "degraded", **ON_HANDS_OFF}

STEPS = {
    "unobserved": ["observe:store", "observe:calculator", "observe:reporter"],
    AWAITING: ["ask"],
    NOTIFYING: ["tell", "baseline:0", "baseline:1"],
    PRESERVING: [
        "identify",
        "pause:reporter",
        "pause:calculator",
        "drain:trading",
        "flush:calculator",
        "seal",
        "verify_snapshot",
    ],
    RESUMING: ["resume:calculator", "check:0", "check:1", "tell", "report"],
    "shutting_down": ["stop:reporter", "stop:calculator", "confirm_stopped"],
    INITIALIZING: ["start:store", "start:calculator", "start:reporter"],
    VERIFYING: ["compare", "check:0", "check:1"],
    RESTORING: [
        "resume:store",
        "resume:calculator",
        "confirm_running:store",
        "confirm_running:calculator",
        "confirm_running:reporter",
        "complete",
        "report",
    ],
    LEAVING: ["resume:store", "resume:calculator"],
    "degraded": ["call"],
    "halted": ["call"],
    LOST: ["look:store", "look:calculator", "look:reporter", "call"],
}
UNMOVED_BY_STEPS = (*RESTS, AWAITING)
RECORDED_ONLY = {
    AWAITING: ("ask",),
    NOTIFYING: ("baseline",),
    RESUMING: ("resume", "check", "tell", "report"),
    RESTORING: ("report",),
    LEAVING: ("resume",),
    "degraded": ("call",),
    "halted": ("call",),
    LOST: ("look", "call"),
}
NEEDS_PROOF = {"observe": ("running",), "check": ("passed",), "verify_snapshot": ("verified",)}


@dataclass
class Hand:
    """What the second table keeps: where it stands, what ended well, and some facts about the past."""

    state: str = "unobserved"
    ended: dict[str, str] = field(default_factory=dict)
    in_restart: bool = False
    started_here: bool = False
    proven: bool = False
    waited: bool = False
    whole: bool = True
    left: str = ""
    flushed: bool = False
    works_on: bool = False
    left_paused: bool = False
    untold: bool = False

    def enter(self, state: str, failing: str = "") -> None:
        self._remember_who_is_paused(state)
        if self.state == PRESERVING:
            self.flushed = self.ended.get("flush:calculator") == "well"
        if state == "halted":
            self.left = self.state
            told = self.ended.get("resume:calculator") == "well" and failing != "confirm_running:calculator"
            self.works_on = self.state == RESTORING and self.flushed and told
        if state in ("unobserved", LEAVING):
            self.flushed = self.works_on = False
        if state in ("unobserved", AWAITING, NOTIFYING):
            self.whole = True
        if state in (*RESTS[:2], LOST, LEAVING, "unobserved"):
            self.in_restart = self.started_here = False
        if state in (*RESTS, RESUMING, PRESERVING):
            self.proven = False
        if state in (AWAITING, NOTIFYING):
            self.in_restart = True
        if state == INITIALIZING and self.state == "unobserved":
            self.started_here = True
        self.state, self.ended, self.waited = state, {}, False

    def _remember_who_is_paused(self, state: str) -> None:
        """Who adopts what a start left behind takes over components that may be paused; who is up again, does not."""
        if state == "unobserved" and self.state != "unobserved":
            self.left_paused = self.state != "degraded" or self.untold
        elif state in (RESTORING, "degraded"):
            self.left_paused = False
        told = all(self.ended.get(name) == "well" for name in STEPS.get(self.state, []) if name.startswith("resume"))
        ended = not self.missing() and "failed" not in (self.ended.get(name) for name in self.ended if "resume" in name)
        self.untold = (
            state == "degraded"
            and not told
            and (self.state in (LEAVING, RESTORING) or (self.state == RESUMING and not ended))
        )

    def missing(self) -> list[str]:
        return [name for name in STEPS.get(self.state, []) if name not in self.ended]

    def after_the_last_step(self) -> str:
        well = all(how == "well" for how in self.ended.values())
        match self.state:
            case "unobserved":
                return VERIFYING if well else INITIALIZING
            case "preparing_for_restart.notifying":
                return PRESERVING
            case "preparing_for_restart.preserving":
                proven = self.ended["verify_snapshot"] == "well" and self.ended["seal"] == "well"
                return "shutting_down" if proven else RESUMING
            case "preparing_for_restart.resuming":
                checked = all(how == "well" for name, how in self.ended.items() if name.startswith("check"))
                resumed = all(how != "failed" for name, how in self.ended.items() if name.startswith("resume"))
                return "operational" if checked and resumed else "degraded"
            case "degraded.resuming":
                return "degraded"
            case "shutting_down":
                return INITIALIZING
            case "starting_up.initializing":
                self.whole = well
                return VERIFYING
            case "starting_up.verifying":
                self.proven = well
                return RESTORING
            case _:
                resumed = all(how == "well" for name, how in self.ended.items() if name.startswith("resume"))
                return "operational" if self.proven and self.whole and resumed else "degraded"

    def after_a_retry(self) -> str | None:
        if self.state != "halted":
            return None
        if self.works_on:
            return None
        return "shutting_down" if self.left == "shutting_down" else INITIALIZING

    def after_an_abort(self) -> str | None:
        return LEAVING if self.state == "unobserved" and self.left_paused else ON_ABORT.get(self.state)

    def in_trouble(self) -> str:
        untouched = self.state == VERIFYING and not self.in_restart and not self.started_here
        if untouched or self.state == "unobserved":
            return LEAVING if self.left_paused else "degraded"
        return ON_TROUBLE[self.state]


class LifecycleWalk(RuleBasedStateMachine):
    asks_for_approval = False

    def __init__(self) -> None:
        super().__init__()
        allow = {"approve": {"by": ["ana", "ben"]}} if self.asks_for_approval else {}
        self.desk = Desk(LIFECYCLE, "lifecycle/metrics", metrics_system(allow=allow))
        self.hand = Hand()

    def agreed(self, verdict: Verdict, target: str | None) -> None:
        if target is None:
            assert isinstance(verdict, Refusal)
            assert all(reason.strip() for reason in verdict.reasons)
        else:
            assert isinstance(verdict, Move)
            assert verdict.target == target
            self.hand.enter(target)

    @initialize()
    def register(self) -> None:
        first = self.desk.snapshot.entry == 0
        verdict = self.desk.register(self.desk.snapshot.config_hash)
        if first:
            self.agreed(verdict, "unobserved")
        else:
            assert verdict == Absorbed()

    @rule(number=st.integers(0, 3))
    def register_anew(self, number: int) -> None:
        new = f"configuration {number}"
        changed = new != self.desk.snapshot.config_hash
        moves = self.desk.snapshot.entry == 0 or (changed and self.hand.state in RESTS)
        verdict = self.desk.register(new)
        if moves:
            assert isinstance(verdict, Move)
            assert verdict.target == self.hand.state
            self.hand.ended = {} if self.desk.snapshot.entry == 1 else self.hand.ended
        else:
            assert verdict == Absorbed()

    @rule()
    def request(self) -> None:
        target = ON_REQUEST.get(self.hand.state)
        self.agreed(self.desk.request(), AWAITING if target and self.asks_for_approval else target)

    @precondition(lambda self: self.asks_for_approval and self.hand.in_restart)
    @rule(how=st.sampled_from(["given", "denied"]), wrong=st.sampled_from(["", "", "person", "plan"]))
    def answer(self, how: str, wrong: str) -> None:
        """Whoever asked is no one to approve it, and another plan is not this one."""
        target = ON_ANSWER[how] if self.hand.state == AWAITING and not wrong else None
        by, plan = ("ana" if wrong == "person" else "ben"), ("0" * 64 if wrong == "plan" else None)
        self.agreed(self.desk.answer(given=how == "given", by=by, plan=plan), target)

    @rule(what=st.sampled_from(["cancel", "deadline", Act.ABORT, Act.RETRY, Act.ADOPT, Act.HANDS_OFF, Act.WAIVE]))
    def disturb(self, what: str) -> None:
        here = self.hand.state
        match what:
            case "cancel":
                self.agreed(self.desk.cancel(), ON_CANCEL.get(here))
            case "deadline" if self.desk.snapshot.deadline_at is not None:
                target = self.hand.in_trouble()
                self.agreed(self.desk.pass_deadline(), target)
            case Act():
                table = {Act.ADOPT: ON_ADOPT, Act.HANDS_OFF: ON_HANDS_OFF}
                decided = {Act.RETRY: self.hand.after_a_retry(), Act.ABORT: self.hand.after_an_abort()}.get(what)
                self.agreed(self.desk.act(what), decided or table.get(what, {}).get(here))

    @rule(rows=st.sampled_from([0, 0, 7]))
    def lose_the_database(self, rows: int) -> None:
        """What was under way is known no more; who rests is concerned only by what is lost of itself."""
        resting = self.hand.state in RESTS or self.desk.snapshot.entry == 0
        verdict = self.desk.lose(rows)
        if resting and not rows:
            assert verdict == Absorbed()
        else:
            self.agreed(verdict, LOST)

    @precondition(lambda self: self.desk.snapshot.entry > 0 and self.hand.missing())
    @rule(states=st.integers(1, 4))
    def let_all_go_well(self, states: int) -> None:
        """Most of a system's life, and what a walk of single steps would hardly ever see."""
        for _ in range(states):
            here = self.hand.state
            if here == NOTIFYING and not self.hand.waited:
                self.let_the_notice_pass()
            while self.hand.state == here and self.hand.missing():
                self.end_the_next_step("well")
            if self.hand.state == AWAITING:
                self.answer("given", "")
            self.both_stand_in_the_same_state()

    @precondition(lambda self: self.hand.state in ON_REQUEST)
    @rule(states=st.integers(1, 7))
    def restart(self, states: int) -> None:
        self.request()
        self.let_all_go_well(states)

    @precondition(lambda self: self.desk.snapshot.entry > 0 and self.hand.missing())
    @rule(how=st.sampled_from(["well", "badly", "waived", "failed"]))
    def end_one_step(self, how: str) -> None:
        self.end_the_next_step(how)

    def end_the_next_step(self, how: str) -> None:
        name = self.hand.missing()[0]
        line = name.split(":")[0]
        target = self._target(name, line, how)
        match how:
            case "well":
                self.desk.end(name)
            case "badly":
                self.desk.end(name, **dict.fromkeys(NEEDS_PROOF.get(line, ("nothing",)), False))
            case "waived":
                self.desk.end(name, StepStatus.WAIVED)
            case _:
                self.desk.end(name, StepStatus.FAILED, error="broken")
        if target is not None:
            self.hand.enter(target, name if how == "failed" else "")

    def _target(self, name: str, line: str, how: str) -> str | None:
        if how == "failed" and line not in RECORDED_ONLY.get(self.hand.state, ()):
            return self.hand.in_trouble()
        # Done is done where nobody looks at what was returned.
        looked_at = line in NEEDS_PROOF or line == "seal"
        self.hand.ended[name] = "well" if how == "badly" and not looked_at else how
        if self.hand.state in UNMOVED_BY_STEPS or self.hand.missing():
            return None
        if self.hand.state == NOTIFYING and not self.hand.waited:
            return None
        return self.hand.after_the_last_step()

    def let_the_notice_pass(self) -> None:
        self.hand.waited = True
        assert self.desk.snapshot.dwell_until is not None
        self.desk.now = self.desk.snapshot.dwell_until
        if not self.hand.missing():
            self.hand.enter(PRESERVING)
            self.desk._progress()

    @invariant()
    def both_stand_in_the_same_state(self) -> None:
        assert self.desk.state == self.hand.state

    @invariant()
    def the_same_steps_are_planned(self) -> None:
        if self.desk.snapshot.entry > 0:
            assert list(self.desk.steps) == STEPS.get(self.hand.state, [])

    @invariant()
    def a_restart_is_remembered_exactly_while_it_lasts(self) -> None:
        assert ("restart" in self.desk.data) == self.hand.in_restart

    @invariant()
    def nothing_waits_without_a_deadline(self) -> None:
        if self.desk.snapshot.entry > 0:
            assert (self.desk.snapshot.deadline_at is None) == (self.hand.state in RESTS)


LifecycleWalk.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
TestLifecycleWalk = LifecycleWalk.TestCase


class ApprovedWalk(LifecycleWalk):
    asks_for_approval = True


ApprovedWalk.TestCase.settings = settings(LifecycleWalk.TestCase.settings, max_examples=30)
TestApprovedWalk = ApprovedWalk.TestCase
