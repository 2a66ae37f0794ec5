"""Asking a participant over AMQP, and reading what it answered. Whether to ask, and what follows, is its caller's.

The id of a command names the effect and not the attempt: a participant that sees it twice answers again and does
nothing again. That is what makes sending twice safe.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import PurePosixPath

from pydantic import ValidationError
from pydantic_core import from_json

from schemas.base import Json
from schemas.components import ByCommand, Command
from schemas.envelope import CloudEvent
from schemas.events import PREFIX, AnswerOutcome, ParticipantAnswered
from schemas.notifications import CommandData
from service.errors import Permanent, Retry
from service.ports import SILENT, StepContext, Waiting
from service.steps.naming import environment, folder, hide

SOURCE = "relight"
"""What Relight calls itself in CloudEvents."""

SAID = 500
"""Characters of a program's error output that an error message repeats."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a participant said, `by` which way. `digest` (SHA-256, hex) of what it flushed to or loaded from `where`."""

    by: str
    digest: str | None = None
    where: str | None = None
    detail: str = ""
    values: Mapping[str, Json] = field(default_factory=dict)

    def evidence(self) -> dict[str, Json]:
        """What is kept with the step: only what was really said."""
        said: dict[str, Json] = {"by": self.by}
        said |= {"digest": self.digest} if self.digest else {}
        said |= {"where": self.where} if self.where else {}
        said |= {"detail": self.detail} if self.detail else {}
        return said | ({"values": dict(self.values)} if self.values else {})


async def ask(
    context: StepContext, component: str, command: Command, within: timedelta, arguments: Mapping[str, Json]
) -> Waiting | None:
    """Sends the command, void after `within` (also of this moment). None: nobody is bound to it, nothing was sent."""
    now = context.clock.now()
    until = now + within
    data = CommandData(
        system=context.system.system,
        component=component,
        command=command.value,
        commandid=context.command_id,
        token=context.token,
        expires=until,
        arguments=dict(arguments),
    )
    envelope = CloudEvent(
        specversion="1.0",
        id=f"{context.command_id}:{context.token}",
        source=SOURCE,
        type=f"{PREFIX}command.{command.value}",
        subject=context.system.system,
        time=now,
        data=data.model_dump(mode="json"),
    )
    key = f"{context.system.system}.{component}.{command.value}"
    body = envelope.model_dump_json(exclude_none=True)
    if not await context.world.commands.send(key, context.command_id, body):
        return None
    return Waiting(until, component)


def silent(context: StepContext) -> bool:
    """Whether the participant did not answer in time."""
    return context.row.answer == SILENT


def answer(context: StepContext, component: str, command: Command) -> Answer:
    """The answer in the step's row. Raises Permanent when it refused or it is no answer, Retry when it failed."""
    try:
        said = ParticipantAnswered.model_validate(context.row.answer)
    except ValidationError as error:
        raise Permanent(f"the answer of {component} to {command} cannot be read: {error}") from error
    if said.component != component:
        raise Permanent(f"{component} was asked to {command}, but {said.component} answered")
    _judge(component, command, said.outcome, said.detail)
    return Answer("amqp", said.digest, said.where, said.detail, dict(said.values))


async def run(context: StepContext, component: str, command: Command, way: ByCommand, within: timedelta) -> Answer:
    """Tells the participant by its program. Raises Retry when that ends with another status than 0."""
    spec = context.system.components[component]
    about_command = {"RELIGHT_COMMAND": command.value, "RELIGHT_COMMAND_ID": context.command_id}
    given = {**environment(context, component), **about_command}
    status, output, errors = await context.world.programs.run(way.command, given, folder(context.system, spec), within)
    program = PurePosixPath(way.command[0]).name
    if status != 0:
        said = hide(errors.strip()[-SAID:], context, component) or "nothing"
        raise Retry(f"{component} was told to {command} by {program}, which ended with status {status}, saying: {said}")
    try:
        parsed = from_json(output) if output.strip().startswith("{") else {}
        body = {key: value for key, value in parsed.items() if key in ParticipantAnswered.model_fields}
        about = {"component": component, "commandid": context.command_id, "token": context.token}
        read = ParticipantAnswered.model_validate({"outcome": AnswerOutcome.DONE, **body, **about})
    except ValueError as error:
        raise Permanent(f"what {program} of {component} printed for {command} cannot be read: {error}") from error
    _judge(component, command, read.outcome, read.detail)
    return Answer("command", read.digest, read.where, read.detail, dict(read.values))


def _judge(component: str, command: Command, outcome: AnswerOutcome, detail: str) -> None:
    why = f": {detail}" if detail else ""
    match outcome:
        case AnswerOutcome.DONE:
            return
        case AnswerOutcome.REFUSED:
            raise Permanent(f"{component} refused to {command}{why}")
        case AnswerOutcome.FAILED:
            raise Retry(f"{component} failed to {command}{why}")
