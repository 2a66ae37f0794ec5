"""Which of Relight's errors each of PostgreSQL's becomes: what to do depends on nothing else."""

import asyncpg
import pytest

from service.adapters.pg_tools.contents import our_errors
from service.adapters.postgres.failures import translate
from service.errors import Conflict, LostLease, Poison, RelightError, Retry, Transient, Unavailable

MEANING = {
    LostLease: ["RL001"],
    Conflict: ["RL002"],
    Transient: ["40001", "40P01", "0A000"],
    Poison: ["22021", "22P02", "22P05", "23502", "23514", "23505", "54000"],
    Unavailable: [
        "08003", "08006", "28P01", "53100", "53200", "53300", "55P03", "57014", "57P01", "57P02", "57P03", "25P03",
        "25006", "58030", "42P01", "XX000",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("state", "expected"), [(state, kind) for kind, states in MEANING.items() for state in states])
def test_each_state_says_what_to_do(state: str, expected: type[RelightError]) -> None:
    error = asyncpg.PostgresError.new({"C": state, "M": "so it was"})
    found = translate(error)
    assert type(found) is expected
    assert "so it was" in str(found)


def test_a_known_event_is_a_conflict_and_not_poison() -> None:
    error = asyncpg.PostgresError.new({"C": "23505", "M": "duplicate key", "t": "inbox_03"})
    assert type(translate(error)) is Conflict


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionRefusedError(), asyncpg.InterfaceError("closed")])
def test_a_server_that_cannot_be_reached_is_away(error: Exception) -> None:
    found = translate(error)
    assert isinstance(found, Unavailable)
    assert found.server == "PostgreSQL"


@pytest.mark.parametrize("error", [KeyError("x"), asyncpg.PostgresError.new({"C": "42601", "M": "syntax error"})])
def test_a_bug_stays_a_bug(error: Exception) -> None:
    assert translate(error) is None


def test_system_database_that_dies_in_the_middle_of_an_answer_is_away_and_asked_again() -> None:
    died = asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")
    with pytest.raises(Retry, match="away"), our_errors():
        raise died
