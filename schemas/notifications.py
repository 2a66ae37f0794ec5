"""What Relight says: the typed `data` of every notification on the status topic, and of the commands to participants.

Readers ignore unknown fields, so these grow without breaking anyone. Routing keys: `<system>.<machine>.<state>` for
transitions, `<system>.<machine>._refused`, `._step`, `._wait`, … for everything else.
"""

from typing import Literal

from pydantic import Field

from schemas.base import Json, Moment, Open


class Cause(Open):
    """The event that led to this. `user` is the name the broker verified, or `ana (local)` for the command line."""

    type: str
    id: str
    source: str
    user: str | None = None


class SnapshotData(Open):
    """An instance as persisted: `data` is what its machine remembers, `due` what ends the wait, if anything does."""

    state: str
    entry: int
    entered_at: Moment
    dwell_until: Moment | None = None
    deadline_at: Moment | None = None
    data: dict[str, Json] = Field(default_factory=dict)


class TransitionData(Open):
    """An instance moved. (`epoch`, `seq`) grows without gap for each instance together with refusals."""

    system: str
    machine: str
    instance: str
    epoch: int
    seq: int
    from_: str = Field(alias="from")
    to: str
    status: str
    reason: str
    event: Cause
    at: Moment
    machine_version: int
    config_hash: str
    snapshot: SnapshotData


class RefusalData(Open):
    """An event moved nothing, and why. `seq` is absent where no instance's log could take it."""

    system: str
    machine: str
    instance: str | None = None
    epoch: int
    seq: int | None = None
    state: str | None = None
    reasons: list[str]
    event: Cause | None = None
    at: Moment


class StepData(Open):
    """What became of a step. `entry` names the state entry it belongs to; `seconds` is how long the attempt took."""

    system: str
    machine: str
    instance: str
    epoch: int
    state: str
    entry: int
    step: str
    attempt: int
    outcome: Literal["started", "done", "retrying", "waiting", "proceeded", "failed", "unknown", "cancelled", "waived"]
    seconds: float | None = None
    error: str | None = None
    result: dict[str, Json] = Field(default_factory=dict)
    at: Moment


class WaitData(Open):
    """Relight waits: for whom, until when, and what happens then if nobody acts. `acts` are commands that end it."""

    system: str
    machine: str
    instance: str
    epoch: int
    state: str
    entry: int
    step: str | None = None
    whom: str
    until: Moment | None = None
    then: str
    acts: list[str] = Field(default_factory=list)
    at: Moment


class CommandData(Open):
    """A command to a participant. It is void after `expires`; a `token` lower than one seen before is refused,
    except for `report`, which changes nothing and may overtake another question.

    The same `commandid` may arrive twice: it is answered again, not performed again.
    """

    system: str
    component: str
    command: Literal["pause", "flush", "report", "disconnect", "resume"]
    commandid: str
    token: int
    expires: Moment
    arguments: dict[str, Json] = Field(default_factory=dict)


NOTIFICATIONS: dict[str, type[Open]] = {
    "transition": TransitionData,
    "refused": RefusalData,
    "step": StepData,
    "wait": WaitData,
    "command": CommandData,
}
"""By type without the prefix `relight.`."""
