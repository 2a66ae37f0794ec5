"""Follows one instance to the end of its story: the status topic live, and the log for whatever the topic left out.

Knows no command and prints nothing: lines go to the function it is given.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from machines.model import InstanceId, State
from schemas.notifications import RefusalData, TransitionData
from service.cli.render import Ending, Line, Notification, Story, read
from service.errors import RelightError, Unavailable
from service.ports import Clock, LogRow

LOOK_EVERY = 1.0
"""Seconds between two looks into the log: what the topic lost is seen this much later, and a wait is shown in time."""


class Logs(Protocol):
    """What is asked of the store."""

    async def history(self, instance: InstanceId, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]: ...


class Screenlike(Protocol):
    """Where lines go, and the line in the making."""

    def line(self, line: Line) -> None: ...

    def pending(self, text: str) -> None: ...


async def follow(
    story: Story,
    instance: InstanceId,
    seq: int,
    notifications: AsyncIterator[tuple[str, bytes]],
    logs: Logs,
    clock: Clock,
    screen: Screenlike,
    state_of: Callable[[str], State],
) -> Ending:
    """Tells the story of `instance` after `seq` until it ends. `state_of` gives a state of its machine by name."""
    arrived: asyncio.Queue[Notification] = asyncio.Queue()

    async def listen() -> None:
        async for _, body in notifications:
            said = read(body)
            if said is not None and said.instance == instance:
                arrived.put_nowait(said)

    def tell(said: Notification) -> None:
        nonlocal seq
        if isinstance(said, TransitionData | RefusalData) and said.seq is not None:
            if said.seq <= seq:
                return
            seq = said.seq
        for line in story.take(said):
            screen.line(line)
        screen.pending(story.pending)

    async def catch_up() -> None:
        # A server that is away ends no story; the next look may find it back.
        with contextlib.suppress(Unavailable):
            for row in await logs.history(instance, seq):
                if not over():
                    tell(_from_log(row, state_of))

    def over() -> bool:
        return story.ending is not None

    listening = asyncio.create_task(listen())
    try:
        looked = clock.monotonic()
        while not over():
            with contextlib.suppress(TimeoutError):
                said = await asyncio.wait_for(arrived.get(), LOOK_EVERY / 4)
                if isinstance(said, TransitionData | RefusalData) and said.seq is not None and said.seq > seq + 1:
                    await catch_up()
                tell(said)
            for line in story.tick(clock.now()):
                screen.line(line)
            if not over() and arrived.empty() and clock.monotonic() - looked >= LOOK_EVERY:
                looked = clock.monotonic()
                await catch_up()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    for line in story.close():
        screen.line(line)
    screen.pending("")
    if story.ending is None:
        raise RelightError("the story ended without an ending; this is a defect of Relight")
    return story.ending


def _from_log(row: LogRow, state_of: Callable[[str], State]) -> Notification:
    """A log row as the notification that was or will be published of it."""
    record = json.loads(row.record)
    if row.kind == "refusal":
        return RefusalData.model_validate({**record, "state": row.state_to})
    return TransitionData.model_validate({**record, "status": state_of(row.state_to).status})
