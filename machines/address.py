"""Which instance an event means, as far as the event says so itself. Shared by all machines; no machine lives here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from machines.model import Event, InstanceId
from schemas.base import Closed
from schemas.events import (
    ApprovalDenied,
    ApprovalGiven,
    OperatorActed,
    ParticipantAnswered,
    StepReported,
    TimerFired,
)


def _instance(data: Any) -> str:
    return str(data.instance)


# By exact type: pydantic's classes answer `isinstance` through abc, and every machine asks this for every event.
_SAYS: Mapping[type[Closed], Callable[[Any], str]] = MappingProxyType(
    {
        **dict.fromkeys((OperatorActed, StepReported, TimerFired, ApprovalGiven, ApprovalDenied), _instance),
        ParticipantAnswered: lambda data: str(data.commandid.split(":", 1)[0]),
    }
)


def carried(machine: str, event: Event) -> InstanceId | None:
    """The instance that an event carries, when it is one of `machine` and of the system that the event is about.

    An act or answer whose subject is another system than its instance means nobody: who may act on one system must not
    reach another through it. `participant.answered` names its instance before the first `:` of the command's id.
    """
    says = _SAYS.get(type(event.data))
    if says is None:
        return None
    instance = says(event.data)
    parts = instance.split("/")
    return InstanceId(instance) if parts[0] == machine and parts[1:2] == [event.system] else None
