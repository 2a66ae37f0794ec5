"""The lifecycle when Relight's database is older than what Relight has done: it halts, and nothing is done blindly."""

import pytest

from machines.lifecycle import LIFECYCLE
from machines.lifecycle_states import AFTER_NO_RETURN, BEFORE_NO_RETURN, At
from machines.model import Absorbed, Refusal
from schemas.events import Act, DatabaseLost
from tests.unit.machine_desk import Desk

RESTS = (At.OPERATIONAL, At.DEGRADED, At.HALTED)


def restarting(state: str) -> Desk:
    desk = Desk(LIFECYCLE, "lifecycle/metrics", state=At.OPERATIONAL)
    desk.request()
    if state != At.NOTIFYING:
        desk.run_to(state)
    return desk


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("state", [At.NOTIFYING, At.PRESERVING, *AFTER_NO_RETURN])
def test_restart_that_is_under_way_halts_whatever_of_it_was_lost_and_is_remembered_as_given_up(
    state: str, rows: int
) -> None:
    desk = restarting(state)
    name = desk.data["restart"]["id"]
    desk.lose(rows)
    assert desk.state == At.LOST
    assert "restart" not in desk.data
    assert desk.data["last_abort"]["id"] == name
    assert desk.data["last_abort"]["failure"]["state"] == desk.data["failure"]["state"] == state
    assert desk.data["lost"]["rows"] == rows
    assert list(desk.steps) == ["look:store", "look:calculator", "look:reporter", "call"]


@pytest.mark.parametrize("state", RESTS)
def test_system_at_rest_halts_only_if_rows_of_its_own_are_lost(state: str) -> None:
    untouched = Desk(LIFECYCLE, "lifecycle/metrics", state=state)
    assert untouched.lose(0) == Absorbed()
    assert untouched.state == state
    touched = Desk(LIFECYCLE, "lifecycle/metrics", state=state)
    touched.lose(1)
    assert touched.state == At.LOST


def test_system_that_nobody_has_looked_at_is_looked_at_unless_the_stream_knows_it() -> None:
    new = Desk(LIFECYCLE, "lifecycle/metrics")
    assert new.lose(0) == Absorbed()
    known = Desk(LIFECYCLE, "lifecycle/metrics")
    known.lose(5)
    assert known.state == At.LOST
    assert isinstance(known.register(known.snapshot.config_hash), Absorbed)


def test_nothing_is_retried_and_no_restart_begins_before_a_person_has_adopted_or_aborted() -> None:
    desk = restarting(At.SHUTTING_DOWN)
    desk.lose(3)
    for verdict in (desk.act(Act.RETRY), desk.request(), desk.cancel()):
        assert isinstance(verdict, Refusal)
    assert desk.state == At.LOST
    desk.act(Act.ADOPT)
    assert "lost" not in desk.data
    desk.run_to(At.OPERATIONAL)


def test_aborted_it_is_left_as_it_stands() -> None:
    desk = restarting(At.PRESERVING)
    desk.lose(3)
    desk.act(Act.ABORT)
    assert desk.state == At.LEAVING
    desk.end_all()
    assert desk.state == At.DEGRADED
    assert "lost" not in desk.data


def test_second_loss_while_a_person_is_waited_for_is_said_anew() -> None:
    desk = Desk(LIFECYCLE, "lifecycle/metrics", state=At.OPERATIONAL)
    desk.lose(3)
    desk.raise_("database.lost", DatabaseLost(epoch=3, rows=9, reason="restored once more"))
    assert desk.state == At.LOST
    assert desk.data["lost"]["rows"] == 9


def test_every_state_knows_what_a_loss_means_for_it() -> None:
    known = {source for t in LIFECYCLE.transitions if t.trigger == "database.lost" for source in t.sources}
    assert known == {state.name for state in LIFECYCLE.states}
    assert set(BEFORE_NO_RETURN) < known
