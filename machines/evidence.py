"""Small readers of facts that machines share: a step's result, a record in the data, a user. Nothing decides here."""

from collections.abc import Mapping

from machines.model import Event, Facts, StepFact, StepStatus
from schemas.base import Json


def who(event: Event) -> str | None:
    """`ana` when the broker verified the name, `ana (local)` on the command line of the machine itself."""
    return f"{event.user} (local)" if event.user and event.local else event.user


def record(data: Mapping[str, Json], key: str) -> dict[str, Json]:
    """The object that `data` keeps under `key`; empty when there is none."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def text(result: Mapping[str, Json], key: str) -> str | None:
    """The text that an action returned under `key`; None when it is absent, empty or no text."""
    value = result.get(key)
    return value if isinstance(value, str) and value else None


def step_of(facts: Facts, name: str) -> StepFact | None:
    return next((step for step in facts.steps if step.planned.name == name), None)


def steps_of(facts: Facts, line: str) -> tuple[StepFact, ...]:
    """The steps that one line of the table was expanded to: `flush` means `flush:calculator`, `flush:reporter`."""
    return tuple(step for step in facts.steps if step.planned.name.startswith(f"{line}:"))


def failed_steps(facts: Facts) -> tuple[StepFact, ...]:
    """The steps that make their state fail: failed or unknown, and not optional."""
    wrong = (StepStatus.FAILED, StepStatus.UNKNOWN)
    return tuple(step for step in facts.steps if step.status in wrong and not step.planned.optional)


def evidence(step: StepFact) -> dict[str, Json]:
    """What is remembered of a check: how it ended, and all that it returned."""
    return {"status": step.status.value, "error": step.error, **step.result}
