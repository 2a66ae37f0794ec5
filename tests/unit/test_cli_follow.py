"""Following a restart: the topic may lose, repeat or stop; the story is told once and to its end."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machines.model import InstanceId
from machines.registry import MACHINES
from service.cli.follow import follow
from service.cli.render import Ending, Line, Story
from service.errors import Unavailable
from service.ports import EventKey, LogRow

RECORDED = [
    json.loads(line) for line in (Path(__file__).parent / "recorded" / "restart.jsonl").read_bytes().splitlines()
]
TRANSITIONS = [event for event in RECORDED if event["type"] == "relight.transition"]
INSTANCE = InstanceId("lifecycle/metrics")
BEFORE = TRANSITIONS[0]["data"]["seq"] - 1


class Clock:
    def now(self) -> datetime:
        return datetime(2026, 11, 21, 20, 19, tzinfo=UTC)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Log:
    """The log as the store has it, made of the recorded transitions."""

    def __init__(self, rows: int = len(TRANSITIONS), *, away: int = 0) -> None:
        self.rows = [_row(event["data"]) for event in TRANSITIONS[:rows]]
        self.away = away

    async def history(self, instance: InstanceId, after_seq: int = 0, limit: int = 1000) -> tuple[LogRow, ...]:
        if self.away:
            self.away -= 1
            raise Unavailable("PostgreSQL", "for a moment")
        return tuple(row for row in self.rows if row.seq > after_seq)


def _row(data: dict[str, Any]) -> LogRow:
    record = {key: value for key, value in data.items() if key != "status"}
    at = datetime.fromisoformat(data["at"])
    return LogRow(
        INSTANCE, 1, data["seq"], "transition", at, data["from"], data["to"], EventKey("s", "i"), "t", None, None, None,
        1, "c", json.dumps(record), "", "",
    )  # fmt: skip


class Screen:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, line: Line) -> None:
        self.lines.append(line.text)

    def pending(self, text: str) -> None:
        pass


async def told(events: list[dict[str, Any]], log: Log) -> tuple[Ending, list[str]]:
    async def topic() -> AsyncIterator[tuple[str, bytes]]:
        for event in events:
            yield "key", json.dumps(event).encode()
        await asyncio.Event().wait()

    screen, machine = Screen(), MACHINES["lifecycle"]
    async with asyncio.timeout(20):
        ending = await follow(Story(UTC), INSTANCE, BEFORE, topic(), log, Clock(), screen, machine.state)
    return ending, screen.lines


def headings(lines: list[str]) -> list[str]:
    return [line[9:24].strip() for line in lines if not line[9:11].isspace()]


WHOLE = ["PREPARING", "── point of no", "SHUTTING DOWN", "STARTING UP", "OPERATIONAL"]


async def test_live_restart_is_told_with_its_steps() -> None:
    ending, lines = await told(RECORDED, Log())
    assert ending.restarted
    assert headings(lines) == WHOLE
    assert any("flush        calculator ✓" in line for line in lines)


async def test_transition_that_the_topic_lost_is_told_from_the_log() -> None:
    lossy = [e for e in RECORDED if e["data"].get("to") not in ("shutting_down", "starting_up.initializing")]
    ending, lines = await told(lossy, Log())
    assert ending.restarted
    assert headings(lines) == WHOLE


async def test_topic_that_says_nothing_leaves_the_log_to_tell_the_end() -> None:
    ending, lines = await told([], Log(away=1))
    assert ending.restarted
    assert headings(lines) == WHOLE


async def test_repeated_notifications_are_told_once() -> None:
    _, lines = await told([event for event in RECORDED for _ in range(2)], Log(0))
    assert headings(lines) == WHOLE


async def test_other_instances_are_not_part_of_the_story() -> None:
    other = [
        {**e, "data": {**e["data"], "instance": "lifecycle/other", "to": "halted", "seq": 99}} for e in TRANSITIONS
    ]
    ending, _ = await told([*other, *RECORDED], Log())
    assert ending.state == "operational"
