"""Seeds of `relight simulate` told in a test and judged twice: by the simulation itself, and by the outside checker.

The everyday seeds are fixed; those of `--faults` and `--long` are others, so that each run of either widens the search.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from service.simulation.findings import findings
from service.simulation.story import Story, told
from service.simulation.systems import system
from tests import sizes
from tests.faults import evidence as found
from tests.faults.checker import Finding, check
from tests.faults.checker.gate import operations_leave_once_and_in_order
from tests.faults.evidence import Effect, Evidence, Notification
from tests.simulation.evidence import Witness

FILES = 3
"""Test files that share the seeds: as many as there are workers, each of which takes whole files."""
CHUNK = 10
"""Seeds a test: few enough for its time limit on a slow machine."""
FIRST_OF_OTHERS = 100_000
"""Where the seeds of `--faults` and `--long` begin."""
SECOND_WAY = "relight.status.log"
"""The routing key of what a stranger's full queue turned away: it went to the log by the log's own name."""


def chunks(file: int) -> list[range]:
    """The seeds that this file (0 to FILES - 1) tells, as ranges of CHUNK."""
    count = sizes.now().seeds
    first = 0 if sizes.now() is sizes.EVERYDAY else FIRST_OF_OTHERS
    starts = range(first, first + count, CHUNK)
    return [range(start, min(start + CHUNK, first + count)) for start in starts[file::FILES]]


def name(seeds: range) -> str:
    return f"{seeds.start}-{seeds.stop - 1}"


def judged(seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Story, list[str]]:
    """The story, and what either judge found, with how to replay it."""
    witness = Witness()
    with monkeypatch.context() as watched:
        witness.stand_by(watched)
        story = told(seed)
    lines = [*findings(story), *(f"outside checker: {one}" for one in _from_outside(story, witness))]
    return story, [f"relight simulate --seed {seed} --trace: {line}" for line in lines]


def all_judged(seeds: range, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that was found in these stories."""
    return [line for seed in seeds for line in judged(seed, monkeypatch)[1]]


def _from_outside(story: Story, witness: Witness) -> Iterator[Finding]:
    evidence = witness.evidence(story, story.ended_at)
    died = [Effect(name.split(".")[1], "died") for name in story.cast.died]
    notes = [_as_addressed(note) for note in evidence.notifications]
    evidence = replace(evidence, notifications=notes, effects=[*evidence.effects, *died])
    # Each system has a queue of operations of its own.
    yield from check(replace(evidence, operations=None))
    for each in story.plan.systems:
        if system(each).gate is not None:
            yield from operations_leave_once_and_in_order(_of_one_gate(evidence, story, each))


def _of_one_gate(evidence: Evidence, story: Story, each: str) -> Evidence:
    theirs = {sent.id for sent in story.people.sent if sent.operation and sent.system == each}
    published = [one for one in evidence.published if one.id in theirs]
    bodies = story.broker.bodies(f"relight.operations.{each}")
    return replace(evidence, published=published, operations=[found.operation(body) for body in bodies])


def _as_addressed(note: Notification) -> Notification:
    if note.routing_key != SECOND_WAY or note.type not in ("transition", "refused"):
        return note
    word = note.data["to"] if note.type == "transition" else "_refused"
    return replace(note, routing_key=f"{note.data['system']}.{note.data['machine']}.{word}")
