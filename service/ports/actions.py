"""What the code of a step is: what it is given, what it answers, and how it is asked whether it happened."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from machines.model import PlannedStep
from schemas.base import Json
from schemas.system import System
from service.ports.rows import StepRow, Token
from service.ports.time import Clock
from service.ports.world import World


@dataclass(frozen=True, slots=True)
class Done:
    """The effect happened; `result` is the evidence, shown to people and kept with the step."""

    result: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The effect is under way at `whom`; the lease is given up until an answer to the step's command id arrives.

    Then the action is performed again with `answer` set. `until` passes: it is performed with `SILENT` as answer when
    the component's `on_silence` is kill, fails when it is abort, and counts as proceeded when it is proceed.
    """

    until: datetime
    whom: str


SILENT: Mapping[str, Json] = {"silent": True}
"""The answer of a participant that did not answer."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What an action works with: its row, the system's file of the instance, the snapshot's data, the results of the
    steps of this entry that are settled (by step name), the world, the clock."""

    row: StepRow
    system: System
    data: Mapping[str, Json]
    results: Mapping[str, Mapping[str, Json]]
    world: World
    clock: Clock

    @property
    def command_id(self) -> str:
        return self.row.key.command_id

    @property
    def token(self) -> Token:
        if self.row.token is None:
            raise ValueError(f"step {self.row.key.name} is performed without a claim")
        return self.row.token


class Action(Protocol):
    """The code of a step. An action without `probe` sets `twice_is_safe` and says why in its docstring."""

    name: str
    twice_is_safe: bool

    def plan(self, step: PlannedStep, system: System) -> str:
        """What it would do, in one line for people; no I/O."""
        ...

    async def perform(self, context: StepContext) -> Done | Waiting:
        """Raises Retry, Permanent or Unknown."""
        ...

    async def probe(self, context: StepContext) -> Done | None:
        """After an interrupted attempt: the evidence if the effect happened, None if it certainly did not.

        Raises Unknown when nobody can tell. Not called when `twice_is_safe`.
        """
        ...
