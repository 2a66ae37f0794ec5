"""What a verification of the lifecycle proved, beyond that all is well: what was broken before a restart already, and
which configuration files were good. Readers of facts; no way is decided here.
"""

from collections.abc import Mapping

from machines.evidence import record, step_of, text
from machines.model import Facts, Reason, StepFact, StepStatus
from schemas.base import Json
from schemas.checks import ConfigCheck

CHECKS = ("check.run", "check.soak")
"""The actions whose steps are a verification."""


def checks_of(facts: Facts) -> tuple[StepFact, ...]:
    return tuple(step for step in facts.steps if step.planned.action in CHECKS)


def passed(step: StepFact) -> bool:
    """Performed and passed: done, not waived and not passed over."""
    return step.status is StepStatus.DONE and step.result.get("passed") is True


def only_failed_before(facts: Facts) -> Reason | None:
    """What did not pass failed in the baseline already, with the same finding: the restart neither broke it nor mended
    it, and starting the components once more would not either."""
    compared = step_of(facts, "compare")
    if compared is not None and compared.status is not StepStatus.DONE:
        return Reason("the system snapshot was not compared")
    news = [s.planned.name for s in checks_of(facts) if not passed(s) and s.result.get("failed_before") is not True]
    return Reason(f"did not fail before the restart: {', '.join(news)}") if news else None


def failed_before(facts: Facts) -> Reason | None:
    """Said of a restart that came up again with what was broken before it."""
    return None if "failed_before" in facts.snapshot.data else Reason("nothing is known to have failed before")


def note_failed_before(facts: Facts) -> Mapping[str, Json]:
    """By step: what it found after the restart, and in the baseline."""
    wrong = (step for step in checks_of(facts) if step.planned.action == "check.run" and not passed(step))
    found: dict[str, Json] = {
        step.planned.name: {key: step.result.get(key) for key in ("title", "finding", "before", "at")} for step in wrong
    }
    return {"failed_before": found, "verified": None}


def good_configuration(facts: Facts) -> Mapping[str, Json]:
    """The SHA-256 of each configuration file that belongs to what was just verified, kept for the next comparison."""
    good = record(facts.snapshot.data, "good")
    for step in checks_of(facts):
        number = step.planned.arguments.get("check")
        check = facts.system.verify[number] if isinstance(number, int) else None
        found = text(step.result, "value")
        if isinstance(check, ConfigCheck) and check.sha256 == "last_good" and passed(step) and found is not None:
            good[check.config] = found
    return {"good": good} if good else {}
