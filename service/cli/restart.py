"""`relight restart`: the local door. A signal through Relight's own database, by whoever may write there."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from machines.model import InstanceId, Snapshot
from machines.registry import MACHINES
from schemas.system import System
from service.cli.console import Screen
from service.cli.follow import follow
from service.cli.live import LiveLines
from service.cli.local_door import Request, put, request, taken_in
from service.cli.render import Ending, Story, Tone
from service.errors import RelightError, Unavailable
from service.settings import Settings
from service.timeouts import time_limit

if TYPE_CHECKING:
    from service.adapters.postgres import PostgresStore

FOLLOWED_WITHIN = timedelta(seconds=15)
"""How long a broker that is away is waited for by somebody who wants to watch."""


def restart(
    settings: Settings,
    screen: Screen,
    system: str,
    reason: str,
    due: str | None,
    override: str | None,
    watch: bool,
    as_json: bool,
) -> int:
    """Appends the request and shows what became of it; with `watch` to its end. 1 when refused or not restarted."""
    wishes = {"due": _moment(due) if due is not None else None, "override": override}
    data: dict[str, Any] = {"reason": reason, **{key: wish for key, wish in wishes.items() if wish is not None}}
    asked = request("restart.requested", system, data, "not asked for")
    sent = asyncio.Event()
    try:
        ending = asyncio.run(_restart(settings, screen, asked, watch, as_json, sent))
    except KeyboardInterrupt:
        if not sent.is_set():
            screen.note("interrupted; nothing was asked for.")
            return 1
        screen.note(f"no longer watching; the restart goes on. `relight status {system}` shows how it stands.")
        return 1
    if as_json:
        screen.json({"id": asked.event_id, "accepted": not ending.reasons, **_plain(ending)})
    return 1 if ending.reasons else 0


async def _restart(
    settings: Settings, screen: Screen, asked: Request, watch: bool, quiet: bool, sent: asyncio.Event
) -> Ending:
    """`sent` is set as soon as the request may have been stored."""
    from service.cli.connect import status_topic, store
    from service.clock import SystemClock

    system, instance = asked.system, InstanceId(f"lifecycle/{asked.system}")
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(store(settings))
        snapshot = await _standing(opened, system, instance)
        if not watch:
            sent.set()
            await put(opened, asked)
            return await _answer(screen, opened, asked, instance, snapshot.seq, quiet=quiet)
        try:
            async with time_limit(FOLLOWED_WITHIN.total_seconds()):
                topic = await stack.enter_async_context(status_topic(settings).watching(f"{system}.lifecycle.#"))
        except TimeoutError as error:
            raise Unavailable(
                "RabbitMQ",
                f"the status topic could not be followed within {FOLLOWED_WITHIN.total_seconds():g} s, and nothing was "
                "asked for.\nStart it, or ask without --watch: that needs no broker.",
            ) from error
        sent.set()
        await put(opened, asked)
        limit = await _limit(opened, snapshot)
        story = Story(local_zone(), limit=limit, request=asked.event_id)
        with LiveLines(screen, quiet=quiet) as lines:
            machine = MACHINES["lifecycle"]
            return await follow(story, instance, snapshot.seq, topic, opened, SystemClock(), lines, machine.state)


async def _standing(opened: "PostgresStore", system: str, instance: InstanceId) -> Snapshot:
    views = await opened.instances()
    for view in views:
        if view.snapshot.instance == instance:
            return view.snapshot
    known = ", ".join(sorted({view.snapshot.system for view in views})) or "none yet"
    raise RelightError(f"Relight knows no system called {system!r}; it knows: {known}. Nothing was asked for.")


async def _limit(opened: "PostgresStore", snapshot: Snapshot) -> timedelta | None:
    text = (await opened.configurations_in_use()).get(snapshot.config_hash)
    return System.model_validate_json(text).restart.limits.downtime if text else None


async def _answer(
    screen: Screen, opened: "PostgresStore", asked: Request, instance: InstanceId, seq: int, *, quiet: bool
) -> Ending:
    """What the log says of the request: accepted or refused. Raises RelightError when nobody took it in."""
    said = await taken_in(opened, asked, instance, seq, "the request", " and restarts the system then")
    if not quiet and said.reasons:
        screen.say(f"refused: {'; '.join(said.reasons)}", Tone.BAD)
    elif not quiet:
        screen.say(f"accepted: {instance} is {said.state}; see `relight status` and `relight watch`")
    return Ending(said.state, restarted=False, reasons=said.reasons)


def local_zone() -> tzinfo:
    """The zone of whoever reads the terminal."""
    return datetime.now(UTC).astimezone().tzinfo or UTC


def _moment(text: str) -> str:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RelightError(f"--due {text!r} is no moment; write it like 2026-03-01T02:00:00+01:00") from None
    # A person who names no offset means the clock on the wall.
    return (found if found.tzinfo else found.astimezone()).isoformat()


def _plain(ending: Ending) -> dict[str, Any]:
    return {"state": ending.state, "reasons": list(ending.reasons)}
