"""What a restart that halted leaves behind, and which acts of a person can still lead on from it: guards; no way is
decided here.
"""

from collections.abc import Mapping

from machines.evidence import record
from machines.lifecycle_states import At
from machines.model import Facts, Reason
from schemas.base import Json
from schemas.events import Act


def stopping_was_left_off(facts: Facts) -> Reason | None:
    """The system snapshot was verified when the stopping began, and nothing was started since: what is left is stopped
    now. Once something was started there is no way back to before."""
    left = record(facts.snapshot.data, "failure").get("state")
    if left == At.SHUTTING_DOWN:
        return None
    return nobody_works_on(facts) or Reason(f"the stopping was over when it halted ({left})")


def nobody_works_on(facts: Facts) -> Reason | None:
    """What is verified after a start has to equal what was flushed, and whoever was resumed is past that."""
    return _works_on(facts.snapshot.data)


def _works_on(data: Mapping[str, Json]) -> Reason | None:
    names = data.get("resumed")
    if not isinstance(names, list) or not names:
        return None
    who = ", ".join(str(name) for name in names)
    return Reason(
        f"{who} was resumed and works on, so what it holds equals the system snapshot no more and no retry would pass "
        "its verification: adopt what is there, which starts what does not run"
    )


def withholds(act: str, state: str, data: Mapping[str, Json]) -> Reason | None:
    """A retry that would certainly fail is not offered."""
    return _works_on(data) if state == At.HALTED and act == Act.RETRY else None


def may_be_paused(facts: Facts) -> Reason | None:
    """A person adopted what a start had left behind, paused."""
    left = "may_be_paused" in facts.snapshot.data
    return None if left else Reason("nobody was left paused by a start that went wrong")
