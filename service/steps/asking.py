"""Asking a participant over AMQP, by HTTP or by program, and reading what it answered. What follows is its caller's.

The id of a command names the effect and not the attempt: a participant that sees it twice answers again and does
nothing again. That is what makes sending twice safe.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from types import MappingProxyType
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_core import from_json

from schemas.base import Json, findings
from schemas.components import ByCommand, ByHttp, Command
from schemas.envelope import CloudEvent
from schemas.events import PREFIX, AnswerOutcome, ParticipantAnswered
from schemas.notifications import CommandData
from service.crash import crash_point
from service.errors import Permanent, Retry
from service.ports import SILENT, StepContext, Waiting
from service.steps.naming import environment, folder

SOURCE = "relight"
"""What Relight calls itself in CloudEvents."""

SAID = 500
"""Characters of a program's error output, or of an HTTP server's refusal, that an error message repeats."""

PASSING = frozenset({408, 425, 429})
"""HTTP statuses below 500 that say no more than: not now."""


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
    data = _command(context, component, command, until, arguments)
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
        raise Permanent(f"the answer of {component} to {command} cannot be read: {findings(error)}") from error
    if said.component != component:
        raise Permanent(f"{component} was asked to {command}, but {said.component} answered")
    _judge(component, command, said.outcome, said.detail)
    return Answer("amqp", said.digest, said.where, said.detail, dict(said.values))


async def run(
    context: StepContext,
    component: str,
    command: Command,
    way: ByCommand,
    within: timedelta,
    arguments: Mapping[str, Json] = MappingProxyType({}),
) -> Answer:
    """Tells the participant by its program, the lease of a pause in its environment. Raises `Unheard` when that did not
    end within `within`, Retry when it ends with another status than 0, Permanent when what it printed refuses."""
    spec = context.system.components[component]
    about_command = {"RELIGHT_COMMAND": command.value, "RELIGHT_COMMAND_ID": context.command_id}
    if "lease" in arguments:
        about_command["RELIGHT_LEASE"] = f"{arguments['lease']:g}"
    if arguments.get("renews") is True:
        about_command["RELIGHT_RENEWS"] = "1"
    given = {**environment(context, component), **about_command}
    program = PurePosixPath(way.command[0]).name
    try:
        status, output, errors = await context.world.programs.run(
            way.command, given, folder(context.system, spec), within
        )
    except Retry as error:
        raise Unheard(f"{component} was told to {command} by {program}: {error}", error.after) from error
    crash_point("participant.after_program")
    if status != 0:
        # Hidden first and cut then: half of a secret would be found by nobody.
        said = context.world.secrets.hide(errors.strip())[-SAID:] or "nothing"
        raise Retry(f"{component} was told to {command} by {program}, which ended with status {status}, saying: {said}")
    read = _read(context, component, command, output, program)
    return Answer("command", read.digest, read.where, read.detail, dict(read.values))


async def post(
    context: StepContext,
    component: str,
    command: Command,
    way: ByHttp,
    within: timedelta,
    arguments: Mapping[str, Json],
) -> Answer:
    """Tells the participant by its URL, within at most `within`: the command as JSON (not with GET, which has no body),
    its id as `Idempotency-Key`. A JSON object in a 2xx answer is read like an answer over AMQP.

    Raises `Unheard` when no answer came, Retry for 5xx and what says "not now", Permanent for every other status.
    """
    within = min(way.within, within)
    data = _command(context, component, command, context.clock.now() + within, arguments)
    resolve, folder_ = context.world.secrets.resolve, context.system.folder
    url, more = resolve(way.where, folder_), {name: resolve(value, folder_) for name, value in way.headers.items()}
    headers = {**more, "Idempotency-Key": context.command_id, "Accept": "application/json"}
    body = None if way.method == "GET" else data.model_dump_json().encode()
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        said = await context.world.http.send(way.method, url, headers, body, within)
    except Retry as error:
        raise Unheard(f"{component} was told to {command} at {place(way)}: {error}", error.after) from error
    what = f"{component} was told to {command} at {place(way)}, which answered {said.status}"
    head = context.world.secrets.hide(said.body.decode("utf-8", "replace").strip())[:SAID] or "nothing"
    if said.status >= 500 or said.status in PASSING:
        raise Retry(f"{what}, saying: {head}")
    if 300 <= said.status < 400:
        raise Permanent(f"{what}: a redirect, which is not followed; write the address it means into the file")
    if not 200 <= said.status < 300:
        raise Permanent(f"{what}, saying: {head}")
    read = _read(context, component, command, said.body.decode("utf-8", "replace"), place(way))
    return Answer("http", read.digest, read.where, read.detail, dict(read.values))


class Unheard(Retry):
    """No answer came at all: silence, which the component's `on_silence` decides about when it lasts."""


def place(way: ByHttp) -> str:
    """Where a participant is told, for people: a reference as it stands, or a URL without its query."""
    if way.where.startswith(("env:", "file:")):
        return way.where
    parts = urlsplit(way.where)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _command(
    context: StepContext, component: str, command: Command, until: datetime, arguments: Mapping[str, Json]
) -> CommandData:
    return CommandData(
        system=context.system.system,
        component=component,
        command=command.value,
        commandid=context.command_id,
        token=context.token,
        expires=until,
        arguments=dict(arguments),
    )


def _read(context: StepContext, component: str, command: Command, text: str, source: str) -> ParticipantAnswered:
    """What a program printed or a server answered: a JSON object as in `participant.answered`, or words that say done.

    Raises Permanent when it is no such object or refuses, Retry when it says that it failed.
    """
    try:
        parsed = from_json(text) if text.strip().startswith("{") else {}
        body = {key: value for key, value in parsed.items() if key in ParticipantAnswered.model_fields}
        about = {"component": component, "commandid": context.command_id, "token": context.token}
        read = ParticipantAnswered.model_validate({"outcome": AnswerOutcome.DONE, **body, **about})
    except ValueError as error:
        why = findings(error) if isinstance(error, ValidationError) else str(error)
        raise Permanent(f"what {source} of {component} said to {command} cannot be read: {why}") from error
    _judge(component, command, read.outcome, read.detail)
    return read


def _judge(component: str, command: Command, outcome: AnswerOutcome, detail: str) -> None:
    why = f": {detail}" if detail else ""
    match outcome:
        case AnswerOutcome.DONE:
            return
        case AnswerOutcome.REFUSED:
            raise Permanent(f"{component} refused to {command}{why}")
        case AnswerOutcome.FAILED:
            raise Retry(f"{component} failed to {command}{why}")
