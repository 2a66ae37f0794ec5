"""`relight simulate`: one seed is one story to the byte, faults really happen in it, and what is found is said."""

import importlib
import os
import subprocess
import sys
from collections import Counter

import pytest

from service.engine.work import Work
from service.simulation.findings import findings
from service.simulation.plan import Fault, Plan, drawn
from service.simulation.story import Story, told
from tests.simulation.seeds import chunks, name, repeats

SEED = 60
"""Three systems, three replicas: many tasks whose order could differ."""


def simulated(*words: str, hash_seed: str = "0") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-m", "service.cli", "simulate", *words],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_one_seed_is_one_story_to_the_byte_in_every_process() -> None:
    first, second = (simulated("--seed", str(SEED), "--trace", hash_seed=seed) for seed in ("1", "4711"))
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr
    assert first.stdout.count("\n") > 50
    assert first.stdout == second.stdout


def test_another_seed_is_another_story() -> None:
    assert told(SEED).trace.digest != told(SEED + 1).trace.digest


def test_every_kind_of_fault_is_drawn_for_the_first_seeds() -> None:
    kinds = Counter(kind for seed in range(500) for kind in drawn(seed).kinds)
    assert set(kinds) == set(Fault)
    plans = [drawn(seed) for seed in range(500)]
    assert {plan.replicas for plan in plans} == {1, 2, 3}
    assert {plan.shards for plan in plans} == {1, 2, 3}
    assert any(plan.chaser for plan in plans)
    assert any(plan.seconds > 80 for plan in plans)


def test_story_with_every_fault_strikes_with_them_and_ends_well() -> None:
    kinds = tuple(sorted(Fault))
    plan = Plan(7, ("desk", "metrics", "trading"), 2, 3, 90.0, 1.0, 4, acts=4, faults=60, kinds=kinds, skew=1.0)
    story = told(7, plan)
    assert findings(story) == []
    assert len(story.struck) >= 14
    assert sum(one.number for one in story.replicas) > 10


def test_what_is_found_is_said_with_the_way_to_replay_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.cli.console import Screen
    from service.cli.simulate import simulate

    monkeypatch.setattr(Work, "say", lambda *_: None)
    assert simulate(Screen(), 3, 1, False, trace=False) == 1
    said = capsys.readouterr().out
    assert "notifications: lifecycle/" in said
    assert "simulate --seed 3 --trace" in said


@pytest.mark.parametrize("nth", [0, 13, 29, 30, 499])
def test_what_is_said_to_repeat_an_outside_finding_names_a_test_that_tells_that_seed(nth: int) -> None:
    seed = chunks(0)[0].start + nth
    file, test = repeats(seed).split("'")[1].split("::")
    function, seeds = test.removesuffix("]").split("[")
    named = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), function)
    (told_there,) = (mark.args[1] for mark in named.pytestmark if mark.name == "parametrize")
    assert [name(each) for each in told_there if seed in each] == [seeds]


def _chain(story: Story) -> list[int]:
    return [sent.depth for sent in story.people.sent if sent.depth]


def test_machines_that_chase_each_other_end_at_the_causation_budget() -> None:
    """An alert, a restart because of it, an alert because of the restart, and so on: sixteen links, and no more."""
    plan = Plan(3, ("trading",), 1, 1, seconds=60.0, rate=0.5, restarts=0, chaser=True)
    story = told(3, plan)
    assert findings(story) == []
    depths = _chain(story)
    assert max(depths) == 17, "the link that is one too many is sent, and refused"
    assert story.people.chased >= 4
    dead = [letter for letter in story.store.tables.dead if "17 links" in "; ".join(letter.reasons)]
    assert dead
    restarts = [row for row in story.store.tables.log.values() if row.event_type == "relight.restart.requested"]
    assert len({row.correlation for row in restarts}) < len(restarts), "a chain keeps its correlation"
