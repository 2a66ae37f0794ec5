"""`relight demo`: a real system restarted over AMQP, shown live, with proof of what it kept; then all ends."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machines.model import InstanceId
from machines.registry import MACHINES
from schemas.notifications import StepData
from service.cli.console import Screen, to_json
from service.cli.ending import Signals, Told
from service.cli.follow import follow
from service.cli.home import find, only_one
from service.cli.live import LiveLines
from service.cli.publish import CONFIRM_WITHIN, compose
from service.cli.render import Ending, Story, Tone, read
from service.cli.restart import local_zone
from service.cli.words import SHORT
from service.errors import RelightError, StepError
from service.settings import Settings

if TYPE_CHECKING:
    from service.adapters.postgres import PostgresStore
    from service.cli.stage import Stage

SERVING_WITHIN = 100.0
"""Seconds for PostgreSQL, RabbitMQ and Relight to be up: ten to fifteen on two idle cores."""
OPERATIONAL_WITHIN = 60.0
"""Seconds for the example to be started and verified the first time."""
RESTARTED_WITHIN = 180.0
"""Seconds for the whole restart: the example's notice and all its limits fit in."""
TRADES = 20
"""Trades the calculator should have counted before: a memory with nothing in it proves nothing."""
PUBLISHED = (
    "select json_build_object('trades', trades, 'win_rate', win_rate, 'pnl', pnl, 'sharpe', sharpe) from published"
)


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
    status = 1
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
    for words in left:
        screen.problem(f"could not be ended: {words}")
    if status == 0:
        screen.say("Everything that was started has ended; the files stay until the next demo.", Tone.QUIET)
    return 1 if left else status


@dataclass(slots=True)
class _Heard:
    """What the status topic said of the calculator's steps, for the proof."""

    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    async def listen(self, topic: AsyncIterator[tuple[str, bytes]]) -> AsyncIterator[tuple[str, bytes]]:
        """Passes everything on; remembers the result of each step that was done."""
        async for key, body in topic:
            said = read(body)
            if isinstance(said, StepData) and said.outcome == "done":
                self.results[said.step] = said.result
            yield key, body


async def _perform(stage: "Stage", settings: Settings, screen: Screen) -> int:
    from service.adapters.postgres import PostgresStore, migrate
    from service.adapters.rabbitmq import RabbitStatusReader, publish_event
    from service.adapters.systems import load_systems
    from service.clock import SystemClock

    limit = load_systems([stage.example])[stage.system].restart.limits.downtime
    clock, machine = SystemClock(), MACHINES["lifecycle"]
    instance = InstanceId(f"lifecycle/{stage.system}")
    screen.say(
        f"Starting PostgreSQL, RabbitMQ, Relight and the example system {stage.system}, all in {stage.folder}",
        Tone.QUIET,
    )
    if not settings.servers.embedded:
        await migrate(find(settings.servers).postgres_url)
    stage.start()
    await stage.until_serving(SERVING_WITHIN)
    found = find(settings.servers.model_copy(update={"home": stage.folder}))
    store = await PostgresStore.visit(found.postgres_url)
    reader = RabbitStatusReader(stage.amqp_url(), clock=clock, on_event=_unsaid)
    heard = _Heard()

    async def told(story: Story, seq: int, within: float, begin: Callable[[], Awaitable[None]] | None = None) -> Ending:
        """The story from its beginning: the topic is listened to before `begin` starts it."""
        try:
            async with asyncio.timeout(within), reader.watching(f"{stage.system}.lifecycle.#") as topic:
                if begin is not None:
                    await begin()
                with LiveLines(screen) as lines:
                    return await follow(story, instance, seq, heard.listen(topic), store, clock, lines, machine.state)
        except TimeoutError:
            raise RelightError(
                f"{stage.system} was not where it should be within {within:.0f} s; the log says:\n{stage.last_words()}"
            ) from None

    try:
        first = await told(Story(local_zone()), 0, OPERATIONAL_WITHIN)
        if first.state != "operational":
            raise RelightError(f"{stage.system} did not start: it is {first.state}.\n{stage.last_words()}")
        held = await _in_memory(stage)
        screen.say(f"\nThe calculator holds in memory: {_words(held)}")
        event = compose("restart.requested", stage.system, {"reason": "the demo"}, str(uuid.uuid4()))
        key = f"{stage.system}.restart.requested"

        async def publish() -> None:
            screen.say(f"Publishing {key} to relight.events as {stage.user}, and watching relight.status:\n")
            heard.results.clear()
            await publish_event(stage.amqp_url(), key, json.dumps(event).encode(), event["id"], CONFIRM_WITHIN)

        seq = max(row.seq for row in await store.history(instance))
        story = Story(local_zone(), limit=limit, request=event["id"])
        ending = await told(story, seq, RESTARTED_WITHIN, publish)
        same = ending.restarted and _prove(screen, heard.results)
        if ending.restarted:
            await _goes_on(stage, screen, heard.results["flush:calculator"].get("values", {}))
        history = await _keep_history(stage, store, instance)
    finally:
        await store.close()
    _files(screen, stage, heard.results, history)
    if not ending.restarted:
        raise RelightError(f"{stage.system} was not restarted; it is {ending.state}: {'; '.join(ending.reasons)}")
    return 0 if same else 1


def _unsaid(event: str, **fields: object) -> None:
    """The demo's own connections are not its story."""


async def _in_memory(stage: "Stage", at_least: int = TRADES) -> Mapping[str, Any]:
    """What the calculator publishes of its memory in the trading database, once it has counted some trades."""
    from service.adapters.databases import PostgresDatabases

    dsn = (stage.example / "var" / "trading" / "dsn").read_text().strip()
    found: Mapping[str, Any] = {}
    for _ in range(100):
        with suppress(StepError):
            value = await PostgresDatabases().value(dsn, PUBLISHED, timedelta(seconds=5))
            found = json.loads(value) if isinstance(value, str) else value if isinstance(value, dict) else {}
        if found.get("trades", 0) >= at_least:
            break
        await asyncio.sleep(0.2)
    return found


def _prove(screen: Screen, results: Mapping[str, Mapping[str, Any]]) -> bool:
    """Each value before the old process ended and after the new one had loaded it, side by side."""
    before, after = results.get("flush:calculator", {}), results.get("start:calculator", {})
    old, new = results.get("stop:calculator", {}).get("pid"), after.get("pid")
    values = before.get("values", {}), after.get("values", {})
    rows = [(name, values[0].get(name), values[1].get(name)) for name in dict.fromkeys((*values[0], *values[1]))]
    rows.append(("digest", before.get("digest"), after.get("digest")))
    screen.say("")
    screen.table(
        ("CALCULATOR", f"BEFORE (pid {old})", f"AFTER (pid {new})", ""),
        [(name, _shown(was), _shown(now), "equal" if was == now else "DIFFERENT") for name, was, now in rows],
    )
    kept = bool(before.get("digest")) and len(rows) > 1 and all(was == now for _, was, now in rows) and old != new
    if kept:
        screen.say("Another process, the same memory: nothing was lost.", Tone.GOOD)
    else:
        screen.say("What the calculator held before is not what it holds now.", Tone.BAD)
    return kept


async def _goes_on(stage: "Stage", screen: Screen, held: Mapping[str, Any]) -> None:
    now = await _in_memory(stage, int(held.get("trades", 0)) + 1)
    screen.say(f"It goes on counting where it stood: {_words(now)}")


async def _keep_history(stage: "Stage", store: "PostgresStore", instance: InstanceId) -> Path:
    """The instance's log with its hash chain, for after the database is gone."""
    file = stage.folder / "history.jsonl"
    rows = await store.history(instance)
    await asyncio.to_thread(file.write_text, "".join(f"{to_json(row)}\n" for row in rows))
    return file


def _files(screen: Screen, stage: "Stage", results: Mapping[str, Mapping[str, Any]], history: Path) -> None:
    screen.say("")
    for name, place in (
        ("system snapshot", str(results.get("seal", {}).get("url", "none was sealed")).removeprefix("file://")),
        ("what was flushed", str(results.get("flush:calculator", {}).get("where", "nothing")).removeprefix("file://")),
        ("log of the restart", str(history)),
        ("Relight's own log", str(stage.log)),
        ("components' output", str(stage.folder / "processes" / "*" / "output.log")),
    ):
        screen.say(f"  {name:<20}{place}")


def _words(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {_shown(value)}" for name, value in values.items()) or "nothing yet"


def _shown(value: object) -> str:
    match value:
        case float():
            return f"{value:.6g}"
        case str() if len(value) > 2 * SHORT:
            return f"{value[: 2 * SHORT]}…"
        case None:
            return "-"
        case _:
            return str(value)
