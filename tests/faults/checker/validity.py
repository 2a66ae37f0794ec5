"""The run itself: it was hard enough to prove something, and every instance answered after it. Rules only."""

from collections.abc import Iterator

from tests.faults.checker.findings import Fault, Finding
from tests.faults.evidence import Evidence, Run, Verdict

ANSWERS_WITHIN = 30.0
"""Seconds after the last fault in which every instance answers."""


def every_instance_answers(evidence: Evidence) -> Iterator[Finding]:
    """To an event that was confirmed after the last fault; the outcome is looked up again in the tables."""
    if evidence.run is None:
        return
    outcomes = {(row.source, row.id): row.outcomes for row in evidence.inbox}
    for probe in evidence.run.probes:
        found = outcomes.get((probe.source, probe.id), {})
        if probe.after is None or probe.instance not in found:
            yield Finding(Fault.UNANSWERED, f"{probe.instance} never answered {probe.id}, asked after the last fault")
        elif probe.after > ANSWERS_WITHIN:
            yield Finding(Fault.UNANSWERED, f"{probe.instance} answered {probe.after:.0f} s after the last fault")


def run_was_hard_enough(evidence: Evidence) -> Iterator[Finding]:
    """Whatever else was found or not: without load, without its faults, or unasked at the end it proves nothing."""
    run = evidence.run
    if run is None:
        return
    hit = {strike.what for strike in run.strikes if strike.hit}
    for place in sorted(run.places - hit):
        yield _invalid(f"the crash point {place} was never hit")
    for strike in run.strikes:
        if not strike.hit:
            yield _invalid(f"{strike.what} was to happen, and did not")
    if not run.strikes:
        yield _invalid("nothing was done to it")
    yield from _rates(evidence, run)
    asked = {probe.instance for probe in run.probes}
    for row in evidence.instances:
        if row.instance not in asked:
            yield _invalid(f"{row.instance} was not asked anything after the last fault")


def _rates(evidence: Evidence, run: Run) -> Iterator[Finding]:
    """In each window between its beginning and its last fault; what is left at the end belongs to the last window."""
    lasted = run.last_fault - run.began
    count = max(1, int(lasted // run.window))
    confirmed = [0] * count
    for event in evidence.published:
        if event.verdict is Verdict.CONFIRMED and event.at is not None and run.began <= event.at <= run.last_fault:
            confirmed[min(count - 1, int((event.at - run.began) // run.window))] += 1
    for number, events in enumerate(confirmed):
        seconds = run.window if number < count - 1 else lasted - run.window * (count - 1)
        if seconds <= 0 or events / seconds < run.minimum_rate:
            rate = events / seconds if seconds > 0 else 0.0
            when = f"from second {number * run.window:.0f} on"
            yield _invalid(f"{when} {rate:.1f} events a second were confirmed, not {run.minimum_rate:g}")


def _invalid(why: str) -> Finding:
    return Finding(Fault.INVALID_RUN, f"this run proves nothing: {why}")
