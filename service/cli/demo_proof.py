"""What the demo shows for proof: the memory before and after, side by side, and where everything was written.

Nothing is started or restarted here.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machines.model import InstanceId
from service.cli.console import Screen, to_json
from service.cli.render import Tone
from service.cli.words import SHORT
from service.errors import StepError

if TYPE_CHECKING:
    from service.adapters.postgres import PostgresStore
    from service.cli.stage import Stage

TRADES = 20
"""Trades the calculator should have counted before: a memory with nothing in it proves nothing."""
PUBLISHED = (
    "select json_build_object('trades', trades, 'win_rate', win_rate, 'pnl', pnl, 'sharpe', sharpe) from published"
)


async def in_memory(stage: "Stage", at_least: int = TRADES) -> Mapping[str, Any]:
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


def prove(screen: Screen, results: Mapping[str, Mapping[str, Any]]) -> bool:
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


async def goes_on(stage: "Stage", screen: Screen, held: Mapping[str, Any]) -> None:
    now = await in_memory(stage, int(held.get("trades", 0)) + 1)
    screen.say(f"It goes on counting where it stood: {words(now)}")


async def keep_history(stage: "Stage", store: "PostgresStore", instance: InstanceId) -> Path:
    """The instance's log with its hash chain, for after the database is gone."""
    file = stage.folder / "history.jsonl"
    rows = await store.history(instance)
    await asyncio.to_thread(file.write_text, "".join(f"{to_json(row)}\n" for row in rows))
    return file


def files(screen: Screen, stage: "Stage", results: Mapping[str, Mapping[str, Any]], history: Path) -> None:
    screen.say("")
    for name, place in (
        ("report", str(results.get("report", {}).get("url", "none was written")).removeprefix("file://")),
        ("system snapshot", str(results.get("seal", {}).get("url", "none was sealed")).removeprefix("file://")),
        ("what was flushed", str(results.get("flush:calculator", {}).get("where", "nothing")).removeprefix("file://")),
        ("log of the restart", str(history)),
        ("Relight's own log", str(stage.log)),
        ("components' output", str(stage.folder / "processes" / "*" / "output.log")),
    ):
        screen.say(f"  {name:<20}{place}")


def words(values: Mapping[str, Any]) -> str:
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
