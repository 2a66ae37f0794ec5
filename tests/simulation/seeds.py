"""Seeds of `relight simulate` told in a test and judged twice: by the simulation itself, and by the outside checker.

The everyday seeds are fixed; those of `--faults` and `--long` are others, so that each run of either widens the search.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from service.simulation.findings import findings
from service.simulation.plan import Fault
from service.simulation.story import Story, told
from service.simulation.systems import system
from tests import sizes
from tests.faults import evidence as found
from tests.faults.checker import Finding, check
from tests.faults.checker.findings import Fault as Wrong
from tests.faults.checker.gate import operations_leave_once_and_in_order
from tests.faults.evidence import Effect, Evidence, Notification
from tests.figures import Noting
from tests.simulation.evidence import Witness

FILES = 3
"""Test files that share the seeds: as many as there are workers, each of which takes whole files."""
CHUNK = 10
"""Seeds a test: few enough for its time limit on a slow machine."""
FIRST_OF_OTHERS = 100_000
"""Where the seeds of `--faults` and `--long` begin."""
SECOND_WAY = "relight.status.log"
"""The routing key of what a stranger's full queue turned away: it went to the log by the log's own name."""

LETTERS = "abc"
TEST = "test_nothing_is_found_in_the_stories_of_these_seeds"
"""The test of each of those files, `test_seeds_a.py` and so on."""
TAKE_OVERS = "seeds_take_overs"
"""A shard went to another replica because its lease ended, and not because it was given back."""
RESTARTS = "seeds_whole_restarts"
"""A system was shut down and came to operational again."""
HAPPENS = (TAKE_OVERS, RESTARTS, *(f"seeds_fault_{kind}" for kind in Fault))
"""What proves that stories in which nothing is found are hard ones; each also is a name of a figure."""


def chunks(file: int, run: sizes.Sizes | None = None) -> list[range]:
    """The seeds that this file (0 to FILES - 1) tells in such a run (None: this one), as ranges of CHUNK."""
    run = run or sizes.now()
    count = run.seeds
    first = 0 if run is sizes.EVERYDAY else FIRST_OF_OTHERS
    starts = range(first, first + count, CHUNK)
    return [range(start, min(start + CHUNK, first + count)) for start in starts[file::FILES]]


def name(seeds: range) -> str:
    return f"{seeds.start}-{seeds.stop - 1}"


def judged(seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Story, list[str]]:
    """The story, and what either judge found, each with what repeats it."""
    witness = Witness()
    with monkeypatch.context() as watched:
        witness.stand_by(watched)
        story = told(seed)
    replay = f"relight simulate --seed {seed} --trace"
    lines = [f"{replay}: {line}" for line in findings(story)]
    again = f"seed {seed}, judged again by {repeats(seed)} (its story alone: {replay})"
    return story, [*lines, *(f"{again}: outside checker: {one}" for one in _from_outside(story, witness))]


def repeats(seed: int) -> str:
    """The command that tells the story of `seed` again, everyday's or this run's, and lets both judges look at it."""
    run = sizes.EVERYDAY if seed < FIRST_OF_OTHERS else sizes.now()
    file, mine = next((file, each) for file in range(FILES) for each in chunks(file, run) if seed in each)
    great = "" if run is sizes.EVERYDAY else f"--{run.name} "
    return f"./relight test {great}'tests/simulation/test_seeds_{LETTERS[file]}.py::{TEST}[{name(mine)}]'"


@dataclass
class Tally:
    """What really happened in the stories of a file's seeds, beside that nothing was found."""

    file: int
    told: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def judge(self, seeds: range, monkeypatch: pytest.MonkeyPatch, figures: Noting) -> list[str]:
        """Everything that was found in these stories. They are counted here and among the run's figures."""
        counts, found = Counter(seeds=len(seeds)), list[str]()
        for seed in seeds:
            story, lines = judged(seed, monkeypatch)
            counts += happened(story)
            found += lines
        self.told += len(seeds)
        self.counts += counts
        figures.count(**counts)
        return found

    def missing(self) -> list[str]:
        """What happened in none of them. Skips the test where only some of the file's seeds were told."""
        if self.told < (whole := sum(map(len, chunks(self.file)))):
            pytest.skip(f"{self.told} of {whole} seeds of this file were told")
        return [what for what in HAPPENS if not self.counts[what]]


def happened(story: Story) -> Counter[str]:
    """Of HAPPENS, how often each did."""
    restarts, down = 0, set[str]()
    for (instance, _), row in sorted(story.store.tables.log.items()):
        if row.state_to == "shutting_down":
            down.add(instance)
        elif row.state_to == "operational" and instance in down:
            down.remove(instance)
            restarts += 1
    struck = {f"seeds_fault_{kind}": count for kind, count in story.struck.items()}
    return Counter({TAKE_OVERS: story.store.taken_over, RESTARTS: restarts, **struck})


def _from_outside(story: Story, witness: Witness) -> Iterator[Finding]:
    evidence = witness.evidence(story, story.ended_at)
    died = [Effect(name.split(".")[1], "died") for name in story.cast.died]
    notes = [_as_addressed(note) for note in evidence.notifications]
    evidence = replace(evidence, notifications=notes, effects=[*evidence.effects, *died])
    # Each system has a queue of operations of its own.
    yield from check(replace(evidence, operations=None))
    for each in story.plan.systems:
        if system(each).gate is not None:
            for finding in operations_leave_once_and_in_order(_of_one_gate(evidence, story, each)):
                # What a frozen owner was about to publish comes when it thaws, some of it again: by its id it is known.
                if finding.fault is not Wrong.DOUBLED_OPERATION or not story.struck[Fault.FREEZE]:
                    yield finding


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
