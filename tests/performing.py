"""Performing one action outside of the engine: a row, its context, and an answer when it waits for one."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from machines.model import InstanceId, PlannedStep, StepStatus
from schemas.base import Json
from schemas.components import OnSilence
from schemas.system import System
from service.ports import Action, Clock, Done, StepContext, StepKey, StepRow, Token, Waiting, World
from service.steps.registry import build

Answers = Callable[[str, Waiting], Awaitable[Mapping[str, Json]]]
"""(command id, the wait) to the answer, or `SILENT`."""


@dataclass
class Bench:
    """Actions by name on one world, for one system. `data` and `results` are what the steps find; tokens grow."""

    system: System
    world: World
    clock: Clock
    answers: Answers
    data: dict[str, Json] = field(default_factory=dict)
    results: dict[str, Mapping[str, Json]] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=build)
    state: str = "starting_up.verifying"
    entry: int = 1
    token: int = 0

    def context(
        self,
        action: str,
        component: str | None = None,
        *,
        timeout: float = 30.0,
        attempt: int = 1,
        attempts: int = 1,
        on_silence: OnSilence = OnSilence.ABORT,
        answer: Mapping[str, Json] | None = None,
        **arguments: Json,
    ) -> StepContext:
        """What the runner would hand to this action now."""
        self.token += 1
        name = f"{action}:{component}" if component else action
        planned = PlannedStep(
            name=name,
            action=action,
            position=0,
            timeout=timedelta(seconds=timeout),
            attempts=attempts,
            component=component,
            arguments=arguments,
            on_silence=on_silence,
        )
        row = StepRow(
            key=StepKey(InstanceId(f"lifecycle/{self.system.system}"), self.entry, name),
            system=self.system.system,
            place="local",
            planned=planned,
            status=StepStatus.RUNNING,
            state=self.state,
            config_hash=self.system.config_hash(),
            attempt=attempt,
            token=Token(self.token),
            answer=answer,
        )
        return StepContext(row, self.system, self.data, self.results, self.world, self.clock)

    async def perform(self, action: str, component: str | None = None, **more: object) -> Mapping[str, Json]:
        """The result, with every wait answered. Raises what the action raises."""
        context = self.context(action, component, **more)  # type: ignore[arg-type]  # handed through as they are
        while True:
            outcome = await self.actions[action].perform(context)
            if isinstance(outcome, Done):
                return outcome.result
            said = await self.answers(context.command_id, outcome)
            self.token += 1
            context = replace(context, row=replace(context.row, answer=said, token=Token(self.token)))

    def plan(self, action: str, component: str | None = None, **more: object) -> str:
        """The action's words for people."""
        context = self.context(action, component, **more)  # type: ignore[arg-type]
        return self.actions[action].plan(context.row.planned, self.system)
