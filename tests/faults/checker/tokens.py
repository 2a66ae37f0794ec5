"""Fencing tokens: nothing is written or done with an old one, and no claim is taken that still lasts. Rules only."""

from collections import defaultdict
from collections.abc import Iterator

from tests.faults.checker.findings import Fault, Finding
from tests.faults.evidence import Evidence


def tokens_only_grow(evidence: Evidence) -> Iterator[Finding]:
    """Claims of a later state entry carry larger tokens than those of an earlier one, and nobody a future one."""
    for row in evidence.instances:
        if row.token > evidence.newest_token:
            yield Finding(Fault.OLD_TOKEN, f"{row.instance} was written under {row.token}, which no owner holds")
    steps: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for step in evidence.steps:
        if step.token is not None:
            steps[step.instance][step.entry].append(step.token)
    for instance, entries in steps.items():
        before = 0
        for entry in sorted(entries):
            if min(entries[entry]) <= before:
                yield Finding(
                    Fault.OLD_TOKEN, f"{instance} entry {entry}: a step has token {min(entries[entry])} ≤ {before}"
                )
            before = max(entries[entry])


def nothing_was_written_with_an_old_token(evidence: Evidence) -> Iterator[Finding]:
    """As the witness beside the tables saw it, and as those who were told saw it."""
    for write in evidence.writes or ():
        if write.what == "claim":
            if write.held:
                yield Finding(
                    Fault.STOLEN_CLAIM, f"{write.key} was claimed as {write.token} while claim {write.held} lasted"
                )
        elif write.token != write.held:
            yield Finding(
                Fault.OLD_TOKEN,
                f"a {write.what} of {write.key} was written under {write.token}; {write.held} held",
            )
    newest: dict[str, int] = {}
    for effect in evidence.effects:
        # A renewal of a pause runs beside the other steps of its state, in no order with them.
        if effect.token is None or ":renew:" in (effect.key or ""):
            continue
        if effect.token < newest.get(effect.component, 0):
            said = f"{effect.component} did {effect.what} ({effect.key}) under {effect.token}"
            yield Finding(Fault.OLD_TOKEN, f"{said}, after {newest[effect.component]}")
        newest[effect.component] = max(effect.token, newest.get(effect.component, 0))
