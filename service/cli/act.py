"""`relight act`: what a person does about an instance that waits or is stuck, through the local door."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from machines.model import InstanceId
from schemas.base import parse_duration
from schemas.events import Act
from service.cli.connect import store
from service.cli.console import Screen
from service.cli.local_door import Outcome, Request, put, request, standing, system_of, taken_in
from service.cli.render import Tone
from service.errors import RelightError
from service.settings import Settings


def act(
    settings: Settings,
    screen: Screen,
    instance: str,
    what: Act,
    reason: str,
    step: str | None,
    until: str | None,
    as_json: bool,
) -> int:
    """0 when the act was taken in and moved something, 1 when it was refused: the reasons are shown."""
    system = system_of(instance)
    about = {"step": step, "until": _moment(until) if until is not None else None}
    data: dict[str, Any] = {"instance": instance, "act": what.value, "reason": reason}
    data |= {key: value for key, value in about.items() if value is not None}
    asked = request("operator.acted", system, data, "not asked for")
    said = asyncio.run(_act(settings, InstanceId(instance), asked))
    if as_json:
        screen.json({"id": asked.event_id, "accepted": not said.reasons, "state": said.state, "reasons": said.reasons})
    elif said.reasons:
        screen.say(f"refused: {'; '.join(said.reasons)}", Tone.BAD)
    else:
        screen.say(f"done: {said.reason}; {instance} is {said.state}. See `relight status {system}`", Tone.GOOD)
    return 1 if said.reasons else 0


async def _act(settings: Settings, instance: InstanceId, asked: Request) -> Outcome:
    async with store(settings) as opened:
        snapshot = await standing(opened, instance, "Nothing was done")
        await put(opened, asked)
        then = f", and judges it by where {instance} stands then"
        return await taken_in(opened, asked, instance, snapshot.seq, "the act", then)


def _moment(text: str) -> str:
    """`24h` from now, or a moment; without an offset the clock on the wall is meant."""
    try:
        return (datetime.now(UTC) + parse_duration(text)).isoformat()
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RelightError(
            f"--until {text!r} is neither a span nor a moment; write it like 24h or 2026-03-01T02:00:00+01:00"
        ) from None
    return (found if found.tzinfo else found.astimezone()).isoformat()
