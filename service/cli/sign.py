"""`relight report --sign`: a person signs an item of a restart's checklist, through the local door."""

import asyncio
from typing import Any

from machines.checklist import DAILY_RESTART
from machines.model import InstanceId
from service.cli.connect import store
from service.cli.console import Screen
from service.cli.local_door import Outcome, Request, put, request, standing, system_of, taken_in
from service.cli.render import Tone
from service.errors import RelightError
from service.settings import Settings


def sign(settings: Settings, screen: Screen, instance: str, restart: str | None, words: str, reason: str) -> int:
    """0 when it was signed, 1 when it was refused. Raises RelightError for no such item, and when nobody took it in."""
    data: dict[str, Any] = {"instance": instance, "item": item(words), "reason": reason}
    data |= {"restart": restart} if restart is not None else {}
    asked = request("checklist.signed", system_of(instance), data, "not signed")
    said = asyncio.run(_sign(settings, InstanceId(instance), asked))
    if said.reasons:
        screen.say(f"refused: {'; '.join(said.reasons)}", Tone.BAD)
        return 1
    screen.say(f"{said.reason}. `relight report {instance}` shows it", Tone.GOOD)
    return 0


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


async def _sign(settings: Settings, instance: InstanceId, asked: Request) -> Outcome:
    async with store(settings) as opened:
        snapshot = await standing(opened, instance, "Nothing was signed")
        await put(opened, asked)
        return await taken_in(opened, asked, instance, snapshot.seq, "the signature", "")
