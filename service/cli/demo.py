"""`relight demo`: a real system restarted over AMQP, shown live, with proof of what it kept; then all ends.

Who else plays a part in it stands in `demo_cast.py`, what is shown for proof in `demo_proof.py`.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from machines.model import InstanceId
from machines.registry import MACHINES
from schemas.notifications import StepData
from service.cli.console import Screen
from service.cli.demo_cast import channels, in_the_way, received
from service.cli.demo_proof import files, goes_on, in_memory, keep_history, prove, words
from service.cli.ending import Signals, Told
from service.cli.follow import follow
from service.cli.home import find, only_one
from service.cli.inbox import Inbox
from service.cli.live import LiveLines
from service.cli.publish import CONFIRM_WITHIN, compose
from service.cli.render import Ending, Story, Tone, read
from service.cli.restart import local_zone
from service.cli.words import span
from service.errors import RelightError
from service.ports import Clock
from service.settings import Settings
from service.timeouts import time_limit

if TYPE_CHECKING:
    from service.adapters.postgres import PostgresStore
    from service.adapters.rabbitmq import RabbitStatusReader
    from service.cli.stage import Stage

SERVING_WITHIN = 100.0
"""Seconds for PostgreSQL, RabbitMQ and Relight to be up: ten to fifteen on two idle cores."""
OPERATIONAL_WITHIN = 60.0
"""Seconds for the example to be started and verified the first time."""
RESTARTED_WITHIN = 180.0
"""Seconds for the whole restart: the example's notice and all its limits fit in."""


def demo(settings: Settings, screen: Screen) -> int:
    """0 when the restart happened and everything was kept, else 1. Everything that was started is ended, always."""
    from service.cli.stage import EXAMPLE, Stage

    if not EXAMPLE.is_dir():
        raise RelightError(f"the example system is not here ({EXAMPLE}); the demo needs a whole checkout")
    signals = Signals(
        lambda: screen.note("\nrelight: ending the demo; everything it started is being ended"),
        lambda: screen.note("relight: still ending; a moment"),
    )
    signals.listen()
    stage = Stage(settings.servers.home / "demo", settings.servers)
    status, began = 1, time.monotonic()
    with only_one(settings.servers.home / "demo.run"), asyncio.Runner() as runner:
        try:
            signals.run(runner, stage.end())  # what a killed demo may have left
            stage.set_up()
            status = signals.run(runner, _perform(stage, settings, screen))
        except Told:
            pass
        except RelightError as error:
            screen.problem(str(error))
        finally:
            left = signals.finish(runner, stage.end())
    for what in left:
        screen.problem(f"could not be ended: {what}")
    if status == 0:
        lasted = span(time.monotonic() - began)
        screen.say(
            f"Everything that was started has ended, {lasted} after it began; the files stay until the next demo.",
            Tone.QUIET,
        )
    return 1 if left else status


@dataclass(slots=True)
class _Heard:
    """What the status topic said of the steps, for the proof. `blocked`: a drain has named who is in the way."""

    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    blocked: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, topic: AsyncIterator[tuple[str, bytes]]) -> AsyncIterator[tuple[str, bytes]]:
        """Passes everything on; remembers the result of each step that was done."""
        async for key, body in topic:
            said = read(body)
            if isinstance(said, StepData) and said.outcome == "done":
                self.results[said.step] = said.result
            elif isinstance(said, StepData) and said.outcome == "retrying" and said.step.startswith("drain:"):
                self.blocked.set()
            yield key, body


@dataclass(slots=True)
class _Play:
    """A demo under way: what runs, who is told, what was heard."""

    stage: "Stage"
    screen: Screen
    inbox: Inbox
    store: "PostgresStore"
    reader: "RabbitStatusReader"
    clock: Clock
    heard: _Heard = field(default_factory=_Heard)

    @property
    def instance(self) -> InstanceId:
        return InstanceId(f"lifecycle/{self.stage.system}")

    async def told(
        self, story: Story, seq: int, within: float, begin: Callable[[], Awaitable[None]] | None = None
    ) -> Ending:
        """The story from its beginning: the topic is listened to before `begin` starts it."""
        stage, state_of = self.stage, MACHINES["lifecycle"].state
        try:
            async with time_limit(within), self.reader.watching(f"{stage.system}.lifecycle.#") as topic:
                if begin is not None:
                    await begin()
                with LiveLines(self.screen) as lines:
                    said = self.heard.listen(topic)
                    return await follow(story, self.instance, seq, said, self.store, self.clock, lines, state_of)
        except TimeoutError:
            raise RelightError(
                f"{stage.system} was not where it should be within {within:.0f} s; the log says:\n{stage.last_words()}"
            ) from None

    async def first(self) -> None:
        """The system is started by Relight for the first time, and has something in its memory."""
        first = await self.told(Story(local_zone()), 0, OPERATIONAL_WITHIN)
        if first.state != "operational":
            raise RelightError(f"{self.stage.system} did not start: it is {first.state}.\n{self.stage.last_words()}")
        held = await in_memory(self.stage)
        self.screen.say(f"\nThe calculator holds in memory: {words(held)}")

    async def restart(self, limit: timedelta) -> Ending:
        """Asked for over AMQP, as any other service would, while a stranger is in the way."""
        from service.adapters.rabbitmq import publish_event

        stage = self.stage
        event = compose("restart.requested", stage.system, {"reason": "the demo"}, str(uuid.uuid4()))
        key = f"{stage.system}.restart.requested"

        async def publish() -> None:
            await office.begin()
            self.screen.say("The back office corrects a trade in the trading database; its transaction stays open.")
            self.screen.say(f"Publishing {key} to relight.events as {stage.user}, and watching relight.status:\n")
            self.heard.results.clear()
            self.inbox.heard.clear()
            await publish_event(stage.amqp_url(), key, json.dumps(event).encode(), event["id"], CONFIRM_WITHIN)

        seq = max(row.seq for row in await self.store.history(self.instance))
        story = Story(local_zone(), limit=limit, request=event["id"])
        async with in_the_way(stage.example, self.heard.blocked) as office:
            return await self.told(story, seq, RESTARTED_WITHIN, publish)


async def _perform(stage: "Stage", settings: Settings, screen: Screen) -> int:
    from service.adapters.postgres import PostgresStore, migrate
    from service.adapters.rabbitmq import RabbitStatusReader
    from service.adapters.systems import load_systems
    from service.clock import SystemClock

    limit = load_systems([stage.example])[stage.system].restart.limits.downtime
    screen.say(
        f"Starting PostgreSQL, RabbitMQ, Relight and the example system {stage.system}, all in {stage.folder}",
        Tone.QUIET,
    )
    if not settings.servers.embedded:
        await migrate(find(settings.servers).postgres_url)
    async with Inbox() as inbox:
        channels(stage, inbox)
        stage.start()
        await stage.until_serving(SERVING_WITHIN)
        found = find(settings.servers.model_copy(update={"home": stage.folder}))
        store, clock = await PostgresStore.visit(found.postgres_url), SystemClock()
        reader = RabbitStatusReader(stage.amqp_url(), clock=clock, on_event=_unsaid)
        play = _Play(stage, screen, inbox, store, reader, clock)
        try:
            await play.first()
            ending = await play.restart(limit)
            results = play.heard.results
            same = ending.restarted and prove(screen, results)
            if ending.restarted:
                await goes_on(stage, screen, results["flush:calculator"].get("values", {}))
            history = await keep_history(stage, store, play.instance)
        finally:
            await store.close()
    screen.say("\nPeople were told:")
    screen.table(("TITLE", "CHANNELS"), list(received(inbox)))
    files(screen, stage, results, history)
    if not ending.restarted:
        raise RelightError(f"{stage.system} was not restarted; it is {ending.state}: {'; '.join(ending.reasons)}")
    return 0 if same else 1


def _unsaid(event: str, **fields: object) -> None:
    """The demo's own connections are not its story."""
