"""`relight report --sign`: a person signs an item of a restart's checklist, through the local door."""

import asyncio
import getpass
import json
import uuid
from typing import Any

from machines.checklist import DAILY_RESTART
from machines.model import InstanceId
from schemas.envelope import Rejected, read
from service.cli.connect import store
from service.cli.console import Screen
from service.cli.outcome import TAKEN_IN_WITHIN, outcome
from service.cli.publish import compose
from service.cli.render import Tone
from service.clock import SystemClock
from service.errors import RelightError
from service.ports import NewSignal
from service.settings import Settings


def sign(settings: Settings, screen: Screen, instance: str, restart: str | None, words: str, reason: str) -> int:
    """0 when it was signed, 1 when it was refused. Raises RelightError for no such item, and when nobody took it in."""
    data: dict[str, Any] = {"instance": instance, "item": item(words), "reason": reason}
    data |= {"restart": restart} if restart is not None else {}
    system = instance.split("/")[1] if instance.count("/") else ""
    event = compose("checklist.signed", system, data, str(uuid.uuid4()))
    body = json.dumps(event)
    found = read(body.encode())
    if isinstance(found, Rejected):
        raise RelightError("not signed, for Relight would refuse it:\n  " + "\n  ".join(found.reasons))
    return asyncio.run(_sign(settings, screen, InstanceId(instance), system, event["id"], body))


def item(words: str) -> str:
    """The item of the checklist with this number, or the only one that begins so. Raises RelightError."""
    items = [one.text for one in DAILY_RESTART]
    if words.isdecimal() and 1 <= int(words) <= len(items):
        return items[int(words) - 1]
    found = [one for one in items if words.strip() and one.casefold().startswith(words.strip().casefold())]
    if len(found) == 1:
        return found[0]
    known = "\n".join(f"  {number:>2}  {one}" for number, one in enumerate(items, 1))
    which = f"{len(found)} items begin with" if found else "there is no item"
    raise RelightError(f"{which} {words!r}; the checklist has\n{known}")


async def _sign(settings: Settings, screen: Screen, instance: InstanceId, system: str, event_id: str, body: str) -> int:
    async with store(settings) as opened:
        views = await opened.instances()
        snapshot = next((view.snapshot for view in views if view.snapshot.instance == instance), None)
        if snapshot is None:
            known = ", ".join(view.snapshot.instance for view in views) or "none yet"
            raise RelightError(f"there is no instance {instance!r}; there are: {known}. Nothing was signed.")
        await opened.signal([NewSignal(system, body, user=getpass.getuser(), local=True)])
        said = await outcome(opened, SystemClock(), instance, snapshot.seq, event_id)
    if said is None:
        raise RelightError(
            f"the signature was stored, but nobody took it in within {TAKEN_IN_WITHIN.seconds} s: no `relight serve` "
            f"decides for {system}.\nIt is kept: the next one that starts takes it in."
        )
    if said.reasons:
        screen.say(f"refused: {'; '.join(said.reasons)}", Tone.BAD)
        return 1
    screen.say(f"{said.reason}. `relight report {instance}` shows it", Tone.GOOD)
    return 0
