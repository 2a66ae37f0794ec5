"""Effects: each happened once under its key, was planned, and is recorded only if it happened. Rules only."""

from collections import Counter
from collections.abc import Iterator

from tests.faults.checker.findings import Fault, Finding
from tests.faults.checker.losses import Told, told
from tests.faults.evidence import Evidence

COMMANDS = "participant."
"""How the actions begin whose effect is a participant's, under the step's idempotency key."""

ANSWERED = frozenset({"command", "http", "amqp"})
"""The ways in which a participant says itself that it did so; of a signal only the sending is known."""


def effects_happened_once(evidence: Evidence) -> Iterator[Finding]:
    """A participant's effect carries its step's key; a process tells when it begins and when it ends."""
    planned = {step.key for step in evidence.steps}
    steps = {step.key: step for step in evidence.steps if step.action.startswith(COMMANDS)}
    losses = told(evidence)
    counted = Counter(effect.key for effect in evidence.effects if effect.key is not None)
    for key, count in counted.items():
        if count > 1:
            yield Finding(Fault.DOUBLED_EFFECT, f"{key} happened {count} times")
        if key not in planned and not any(_is_of(key, loss) for loss in losses):
            yield Finding(Fault.UNPLANNED_EFFECT, f"{key} happened and no step planned it")
    # Where no effect at all was noted, nobody watched them.
    for key, step in steps.items() if evidence.effects else ():
        ran = "detail" not in step.result or step.result.get("running") is not False
        if step.status == "done" and ran and step.result.get("by") in ANSWERED and key not in counted:
            yield Finding(Fault.MISSING_EFFECT, f"{key} is recorded as done and never happened")
    for component in {effect.component for effect in evidence.effects}:
        alive: int | None = None
        starts = 0
        for effect in (e for e in evidence.effects if e.component == component):
            if effect.what == "start":
                starts += 1
                if alive is not None:
                    yield Finding(Fault.DOUBLED_EFFECT, f"{component} was started while pid {alive} still ran")
                alive = effect.pid
            elif effect.what == "stop":
                alive = None
        done = [s for s in evidence.steps if s.name == f"start:{component}" and s.status == "done"]
        # A start that finds its component at work names the process that runs already.
        recorded = len({s.result.get("pid", s.key) for s in done})
        if starts < recorded:
            yield Finding(Fault.MISSING_EFFECT, f"{component} was started {starts} times, recorded {recorded} times")
        # How often it was started in what is lost, nobody can say any more.
        # A further attempt starts what has ended again, and so does an interrupted one what died by itself meanwhile.
        tries = sum(max(s.attempt, 1) for s in evidence.steps if s.name == f"start:{component}")
        died = sum(e.component == component and e.what == "died" for e in evidence.effects)
        if starts > tries + died and not losses:
            yield Finding(Fault.DOUBLED_EFFECT, f"{component} was started {starts} times, tried {tries} times")


def commands_are_told_once_a_claim(evidence: Evidence) -> Iterator[Finding]:
    """Participants hide what they are told twice. Who tells again must have claimed the step again; who goes on under
    the same claim tells blindly. Claims are what the witness saw; what came before it is not judged."""
    claims = Counter(write.key for write in evidence.writes or () if write.what == "claim")
    times = Counter(evidence.told)
    for key, claimed in claims.items():
        if times[key] > claimed:
            yield Finding(Fault.REPEATED_COMMAND, f"{key} was told {times[key]} times and claimed {claimed} times")


def _is_of(key: str, loss: Told) -> bool:
    """Whether it names a step of a state entry that is lost."""
    instance, entry, _ = key.split(":", 2)
    return instance.split("/")[1] == loss.system and int(entry) <= loss.entry
