"""Deciding: first open transition, reasons, budgets, and that what moves nothing leaves nothing behind."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from machines.chart import Chart, budget_key
from machines.model import Absorbed, Facts, InstanceId, Machine, Move, On, Reason, Refusal, State, Transition
from schemas.base import Closed, Json
from schemas.events import RestartCancelled, RestartRequested
from tests.unit.machine_desk import Desk


def closed(facts: Facts) -> Reason | None:
    return Reason("the shop is closed")


def holiday(facts: Facts) -> Reason | None:
    return Reason("it is a holiday")


def broken(facts: Facts) -> Reason | None:
    raise ZeroDivisionError("a guard with a fault")


def remember(facts: Facts) -> Mapping[str, Json]:
    return {"why": "remembered", "gone": None}


AGAIN = Transition("running", On.COMPLETED, "waiting", budget=2, reason="once more")


def machine(*transitions: Transition, absorbs: frozenset[str] = frozenset()) -> Machine:
    return Machine(
        name="shop",
        version=1,
        initial="normal",
        states=(State("normal", resting=True), State("running"), State("waiting"), State("failed", final=True)),
        transitions=transitions,
        address=lambda event: InstanceId("shop/metrics"),
        absorbs=absorbs,
    )


def desk(*transitions: Transition, state: str = "normal", absorbs: frozenset[str] = frozenset()) -> Desk:
    return Desk(machine(*transitions, absorbs=absorbs), "shop/metrics", state=state)


def test_first_transition_whose_guards_are_silent_is_taken_with_its_changes() -> None:
    at = desk(
        Transition("normal", "restart.requested", "failed", (closed,)),
        Transition("normal", "restart.requested", "running", (), remember, "opened"),
        Transition("normal", "restart.requested", "waiting"),
    )
    verdict = at.request("morning")
    assert verdict == Move("running", {"why": "remembered", "gone": None}, "opened: morning")
    assert at.data == {"why": "remembered"}
    assert type(verdict.target) is str


def test_refusal_names_the_reasons_of_every_guard_that_was_tried() -> None:
    at = desk(
        Transition("normal", "restart.requested", "running", (closed, holiday)),
        Transition("normal", "restart.requested", "waiting", (holiday,)),
    )
    assert at.request() == Refusal((Reason("the shop is closed"), Reason("it is a holiday")))


def test_trigger_that_means_nothing_here_is_refused_with_what_is_possible() -> None:
    at = desk(
        Transition("normal", "restart.requested", "running"),
        Transition("normal", On.COMPLETED, "running"),
        Transition("running", "restart.cancelled", "normal"),
    )
    verdict = at.cancel()
    assert verdict == Refusal(
        (Reason("shop/metrics is normal; restart.cancelled moves nothing there (possible now: restart.requested)"),)
    )


def test_machine_explains_in_its_own_words_when_it_has_better_ones() -> None:
    plain = machine(Transition("running", "restart.cancelled", "normal"))
    own = replace(plain, explain=lambda trigger, facts: Reason(f"no {trigger} before noon"))
    assert Desk(own, "shop/metrics").cancel() == Refusal((Reason("no restart.cancelled before noon"),))


@pytest.mark.parametrize("state", ["normal", "running"])
def test_absorbed_trigger_says_nothing_whether_guarded_or_impossible(state: str) -> None:
    at = desk(
        Transition("normal", "restart.requested", "running", (closed,)),
        absorbs=frozenset({"restart.requested"}),
        state=state,
    )
    assert at.request() == Absorbed()


def test_fault_of_a_guard_is_raised_and_never_taken_for_a_no() -> None:
    at = desk(
        Transition("normal", "restart.requested", "running", (broken,)),
        Transition("normal", "restart.requested", "waiting"),
    )
    with pytest.raises(ZeroDivisionError):
        at.request()
    assert at.state == "normal"


def test_illegal_event_leaves_facts_and_chart_as_they_were() -> None:
    chart = Chart(machine(Transition("normal", "restart.requested", "running", (closed,))))
    at = desk(Transition("normal", "restart.requested", "running"))
    facts = at.facts("restart.requested", RestartRequested(reason="x"))
    before = repr(facts)
    first = [chart.decide("restart.requested", facts), chart.decide("restart.cancelled", facts)]
    assert all(isinstance(verdict, Refusal) for verdict in first)
    assert repr(facts) == before
    assert [chart.decide("restart.requested", facts), chart.decide("restart.cancelled", facts)] == first


def test_one_chart_decides_for_many_instances_without_mixing_them() -> None:
    chart = Chart(
        machine(
            Transition("normal", "restart.requested", "running"), Transition("running", "restart.cancelled", "normal")
        )
    )
    at = desk()
    resting = at.facts("x", RestartRequested(reason="x"))
    running = replace(resting, snapshot=replace(resting.snapshot, state="running"))
    for _ in range(3):
        assert isinstance(chart.decide("restart.requested", resting), Move)
        assert isinstance(chart.decide("restart.requested", running), Refusal)
        assert isinstance(chart.decide("restart.cancelled", running), Move)


def test_budget_is_counted_spent_and_then_the_next_transition_is_taken() -> None:
    at = desk(
        AGAIN,
        Transition("running", On.COMPLETED, "failed", reason="given up"),
        Transition("waiting", On.COMPLETED, "running"),
        state="running",
    )
    for count in (1, 2):
        assert isinstance(at.raise_(On.COMPLETED), Move)
        assert at.data == {"budgets": {budget_key(AGAIN): count}}
        at.raise_(On.COMPLETED)
    verdict = at.raise_(On.COMPLETED)
    assert isinstance(verdict, Move)
    assert verdict.target == "failed"
    assert verdict.reason == "given up: completed was already taken 2 times since the last rest"


def test_budget_alone_refuses_when_it_is_spent_and_a_rest_gives_it_back() -> None:
    at = desk(
        AGAIN,
        Transition("waiting", On.COMPLETED, "running"),
        Transition("running", "restart.cancelled", "normal"),
        Transition("normal", "restart.requested", "running"),
        state="running",
    )
    for _ in range(4):
        at.raise_(On.COMPLETED)
    assert isinstance(at.raise_(On.COMPLETED), Refusal)
    at.raise_("restart.cancelled", RestartCancelled(reason="enough"))
    assert "budgets" not in at.data
    at.request()
    assert isinstance(at.raise_(On.COMPLETED), Move)


def test_budgets_of_two_transitions_are_counted_apart() -> None:
    other = Transition("waiting", On.COMPLETED, "running", budget=5)
    at = desk(AGAIN, other, state="running")
    for _ in range(3):
        at.raise_(On.COMPLETED)
    assert at.data["budgets"] == {budget_key(AGAIN): 2, budget_key(other): 1}


def test_chart_of_a_table_with_an_unknown_state_is_not_built() -> None:
    with pytest.raises(ValueError, match="unknown state 'elsewhere'"):
        Chart(machine(Transition("normal", "restart.requested", "elsewhere")))


def test_possible_lists_the_triggers_of_a_state_in_table_order() -> None:
    chart = Chart(
        machine(Transition(("normal", "running"), "restart.requested", "waiting"), Transition("normal", "x", "failed"))
    )
    assert chart.possible("normal") == ("restart.requested", "x")
    assert chart.possible("failed") == ()


def test_data_without_a_reason_leaves_the_words_of_the_table() -> None:
    at = desk(Transition("normal", "restart.requested", "running", reason="opened"))
    verdict = at.raise_("restart.requested", Closed())
    assert isinstance(verdict, Move)
    assert verdict.reason == "opened"
