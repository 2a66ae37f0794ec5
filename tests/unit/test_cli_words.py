"""How spans, steps and users read."""

from datetime import timedelta

import pytest

from service.cli.words import by, evidence, short, span, title, verb


@pytest.mark.parametrize(
    ("seconds", "read"),
    [(0, "0s"), (0.04, "0s"), (0.25, "0.2s"), (9.94, "9.9s"), (9.96, "10s"), (59.6, "1m"), (62, "1m02s"),
     (422, "7m02s"), (3600, "1h"), (5400, "1h30m"), (86_399, "23h59m"), (187_200, "2d4h"), (-5, "-5s")],
)  # fmt: skip
def test_spans_read_as_people_say_them(seconds: float, read: str) -> None:
    assert span(seconds) == read
    assert span(timedelta(seconds=seconds)) == read


def test_steps_are_named_by_what_is_done_and_to_whom() -> None:
    assert verb("pause:calculator") == ("pause", "calculator")
    assert verb("verify_snapshot") == ("read back", "")
    assert verb("confirm_stopped") == ("confirm", "")


def test_users_read_as_verified_or_local() -> None:
    assert by("ana") == "by ana (verified)"
    assert by("ana (local)") == "by ana (local)"
    assert by(None) == ""


def test_statuses_have_short_titles() -> None:
    assert title("Preparing for Restart") == "PREPARING"
    assert title("Starting Up") == "STARTING UP"


def test_evidence_is_short_and_says_nothing_twice() -> None:
    result = {"detail": "pid 12", "pid": 12, "digest": "ab" * 32, "values": {"pnl": 1}, "paused": True}
    assert evidence(result) == "pid 12 digest abababab… (paused)"


def test_long_errors_are_cut_to_one_line() -> None:
    assert short("a\n  b") == "a b"
    assert len(short("x" * 1000)) == 160
