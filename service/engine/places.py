"""Where a step is performed: which replicas of `serve` may claim it. Who serves a place is not known here."""

from machines.model import PlannedStep
from schemas.checks import RoundTripCheck
from schemas.components import LOCAL
from schemas.system import System


def place_of(step: PlannedStep, system: System) -> str:
    """The host of the step's component, or of the one that its check asks there; else `local`."""
    if step.component in system.components:
        return system.components[step.component].place
    index = step.arguments.get("check")
    check = system.verify[index] if isinstance(index, int) and index < len(system.verify) else None
    if isinstance(check, RoundTripCheck) and system.components[check.roundtrip].participant != "amqp":
        return system.components[check.roundtrip].place
    return LOCAL
