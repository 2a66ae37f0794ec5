"""The end of every night: all comes to rest, everybody answers, one more restart succeeds, and the checker judges."""

from collections import Counter
from collections.abc import Sequence

from tests import sizes
from tests.faults.checker import check
from tests.faults.evidence import Run, Strike, Verdict, read_published
from tests.faults.night import Night
from tests.figures import Noting

SLOWEST = 180.0
"""Seconds for what a calm machine does in ten: nights run beside each other and beside simulations."""
LONGEST = 600.0
"""Seconds for the events that a night still lacks when its strikes are over."""
EFFECTS = {"start", "stop", "pause", "flush", "resume"}
NIGHTS = 3
"""Nights in a great run, which share its events."""


async def end_and_judge(
    night: Night, seed: int, struck: Sequence[Strike], places: frozenset[str], rate: float, figures: Noting
) -> None:
    """Asserts that nothing is found in a night that had its strikes, its `places` and its `rate` (events a second)."""
    share = sizes.now().events / NIGHTS
    if not await _so_many(night, share):
        await night.start()
        await night.until("the night's share of the events", lambda: _so_many(night, share), LONGEST)
        await night.kill()
    await night.start()
    await night.load.stop()
    probes = await night.ask_everybody(night.last_fault)
    await night.until("the end of what was under way", lambda: night.stands_in("operational", "degraded"), SLOWEST)
    await night.rest(SLOWEST)
    wished = await night.load.restart("one more, undisturbed")
    await night.until("the last restart", lambda: night.came_up_after(wished), SLOWEST)
    await night.rest(SLOWEST)
    evidence = await night.evidence(Run(night.began, night.last_fault, struck, places, rate, probes))
    verdicts = Counter(event.verdict for event in evidence.published)
    figures.count(
        events_confirmed=verdicts[Verdict.CONFIRMED],
        events_unknown=verdicts[Verdict.UNKNOWN],
        events_failed=verdicts[Verdict.FAILED],
        restarts=sum(row.state_to == "shutting_down" != row.state_from for row in evidence.log),
        log_rows=len(evidence.log),
        effects=len(evidence.effects),
    )
    findings = check(evidence)
    assert not findings, f"seed {seed}:\n" + "\n".join(map(str, findings[:20]))
    assert {effect.what for effect in evidence.effects} == EFFECTS


async def _so_many(night: Night, events: float) -> bool:
    published = read_published(night.published)
    return sum(event.verdict is Verdict.CONFIRMED for event in published) >= events
