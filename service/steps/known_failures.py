"""Telling a failure that a restart brought from one that was there before: the rule, and the evidence for it.

The same check failed in the baseline of this restart, with the same finding. Numbers in a finding may differ: ages,
byte counts and pids change from look to look without anything being another failure. What the rule leads to is the
machine's business: the system comes up again, degraded and not operational.
"""

import re
from collections.abc import Mapping

from schemas.base import Json
from service.errors import Permanent, StepError
from service.ports import StepContext
from service.steps.naming import record

_TRIED = re.compile(r" \(tried \d+ times\)$")
_NUMBER = re.compile(r"\d+(\.\d+)?")


def failed_before(context: StepContext, number: Json, title: str, error: StepError) -> Mapping[str, Json] | None:
    """The result of a check that did not pass and never will on account of this restart; None when it has to be tried
    again, or is news."""
    row = context.row
    if not isinstance(error, Permanent) and row.attempt < row.planned.attempts:
        return None
    before = record(record(context.data, "baseline"), str(number))
    said = before.get("error")
    if before.get("passed") is True or not isinstance(said, str) or _alike(said) != _alike(str(error)):
        return None
    return {
        "passed": False,
        "failed_before": True,
        "title": title,
        "finding": f"failed before the restart already: {error}",
        "before": said,
        "at": context.clock.now().isoformat(),
    }


def _alike(finding: str) -> str:
    return _NUMBER.sub("#", _TRIED.sub("", finding))
