"""Which instance an event means, as far as the event says so itself. Shared by all machines; no machine lives here."""

from machines.model import Event, InstanceId
from schemas.events import (
    ApprovalDenied,
    ApprovalGiven,
    OperatorActed,
    ParticipantAnswered,
    StepReported,
    TimerFired,
)


def carried(machine: str, event: Event) -> InstanceId | None:
    """The instance that an event carries, when it is one of `machine` and of the system that the event is about.

    An act or answer whose subject is another system than its instance means nobody: who may act on one system must not
    reach another through it. `participant.answered` names its instance before the first `:` of the command's id.
    """
    match event.data:
        case OperatorActed(instance=instance) | StepReported(instance=instance) | TimerFired(instance=instance):
            pass
        case ApprovalGiven(instance=instance) | ApprovalDenied(instance=instance):
            pass
        case ParticipantAnswered(commandid=command):
            instance = command.split(":", 1)[0]
        case _:
            return None
    parts = instance.split("/")
    return InstanceId(instance) if parts[0] == machine and parts[1:2] == [event.system] else None
