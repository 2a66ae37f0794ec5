"""A process dies where it was told to, at the passage it was told, and nowhere else."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from service.crash import LAST_WORDS, POINTS, parse
from service.errors import Misconfigured

ROOT = Path(__file__).parents[2]

PASSES = """
from service.crash import crash_point
for number in (1, 2, 3):
    crash_point("outbox.after_confirm")
    print(number)
"""


def run(at: str | None, program: str = PASSES) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RELIGHT_CRASH_AT"}
    if at is not None:
        environment["RELIGHT_CRASH_AT"] = at
    command = [sys.executable, "-u", "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("at", "passed"), [("outbox.after_confirm:2", "1\n"), ("outbox.after_confirm", "")])
def test_it_dies_at_the_passage_it_was_told(at: str, passed: str) -> None:
    ended = run(at)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, passed)
    assert ended.stderr == LAST_WORDS.format(name="outbox.after_confirm") + "\n"


@pytest.mark.parametrize("at", [None, "", "runner.after_claim:1", "outbox.after_confirm:4", "supervisor.after_fork"])
def test_it_lives_when_it_never_passes_there(at: str | None) -> None:
    ended = run(at)
    assert (ended.returncode, ended.stdout) == (0, "1\n2\n3\n")


def test_a_misspelt_place_is_refused_at_the_start() -> None:
    ended = run("outbox.after_confirmed:1")
    assert ended.returncode == 1
    assert "there is no crash point 'outbox.after_confirmed'" in ended.stderr


def test_an_undeclared_place_is_noticed_as_soon_as_any_is_armed() -> None:
    ended = run("runner.after_claim:1", "from service.crash import crash_point\ncrash_point('nowhere')")
    assert "'nowhere' is not declared" in ended.stderr


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5"])
def test_a_passage_is_a_number_from_one(number: str) -> None:
    with pytest.raises(Misconfigured, match="not a number from 1"):
        parse(f"intake.after_commit:{number}")


def test_several_places_are_armed_and_the_first_that_is_reached_kills() -> None:
    assert parse("intake.after_ack:7,runner.after_claim") == {"intake.after_ack": 7, "runner.after_claim": 1}
    assert run("runner.after_claim,outbox.after_confirm:2").stdout == "1\n"


def test_only_the_supervisor_that_is_meant_is_told_to_die() -> None:
    ended = run(
        "supervisor.after_fork:2,supervisor.after_leave:2,intake.after_read",
        "from service.crash import for_supervisor\nfor _ in range(3): print(for_supervisor())",
    )
    armed = {"RELIGHT_CRASH_AT": "supervisor.after_fork,supervisor.after_leave"}
    assert ended.stdout.splitlines() == ["{}", str(armed), "{}"]


def test_each_of_at_least_thirty_places_is_passed_in_its_file_once_and_no_other_is() -> None:
    passed = Counter(
        (name, str(file.relative_to(ROOT)))
        for file in (ROOT / "service").rglob("*.py")
        for name in re.findall(r'crash_point\("([^"]+)"\)', file.read_text())
    )
    assert passed == Counter((name, point.where) for name, point in POINTS.items())
    assert len(POINTS) >= 30


def test_every_place_says_what_stands_and_what_does_not() -> None:
    assert all(point.stands and point.missing for point in POINTS.values())
    assert len({(point.where, point.stands, point.missing) for point in POINTS.values()}) == len(POINTS)
