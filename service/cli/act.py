"""`relight act`: what a person does about an instance that waits or is stuck, through the local door."""

import asyncio
import getpass
import json
import uuid
from datetime import UTC, datetime
from typing import Any

from machines.model import InstanceId, Snapshot
from schemas.base import parse_duration
from schemas.envelope import Rejected, read
from schemas.events import Act
from service.cli.connect import store
from service.cli.console import Screen
from service.cli.outcome import TAKEN_IN_WITHIN, Outcome, outcome
from service.cli.publish import compose
from service.cli.render import Tone
from service.clock import SystemClock
from service.errors import RelightError
from service.ports import NewSignal, Reader
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
    system = instance.split("/")[1] if instance.count("/") else ""
    about = {"step": step, "until": _moment(until) if until is not None else None}
    data: dict[str, Any] = {"instance": instance, "act": what.value, "reason": reason}
    data |= {key: value for key, value in about.items() if value is not None}
    event = compose("operator.acted", system, data, str(uuid.uuid4()))
    body = json.dumps(event)
    found = read(body.encode())
    if isinstance(found, Rejected):
        raise RelightError("not asked for, for Relight would refuse it:\n  " + "\n  ".join(found.reasons))
    said = asyncio.run(_act(settings, InstanceId(instance), system, event["id"], body))
    if as_json:
        screen.json({"id": event["id"], "accepted": not said.reasons, "state": said.state, "reasons": said.reasons})
    elif said.reasons:
        screen.say(f"refused: {'; '.join(said.reasons)}", Tone.BAD)
    else:
        screen.say(f"done: {said.reason}; {instance} is {said.state}. See `relight status {system}`", Tone.GOOD)
    return 1 if said.reasons else 0


async def _act(settings: Settings, instance: InstanceId, system: str, event_id: str, body: str) -> Outcome:
    async with store(settings) as opened:
        snapshot = await _standing(opened, instance)
        await opened.signal([NewSignal(system, body, user=getpass.getuser(), local=True)])
        said = await outcome(opened, SystemClock(), instance, snapshot.seq, event_id)
    if said is None:
        raise RelightError(
            f"the act was stored, but nobody took it in within {TAKEN_IN_WITHIN.seconds} s: no `relight serve` decides "
            f"for {system}.\nIt is kept: the next one that starts takes it in, and judges it by where {instance} "
            "stands then."
        )
    return said


async def _standing(opened: Reader, instance: InstanceId) -> Snapshot:
    views = await opened.instances()
    for view in views:
        if view.snapshot.instance == instance:
            return view.snapshot
    known = ", ".join(view.snapshot.instance for view in views) or "none yet"
    raise RelightError(f"there is no instance {instance!r}; there are: {known}. Nothing was done.")


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
