"""How times, spans, steps and results read to people. Pure; no line is composed here."""

import os
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo

from schemas.base import Json

TITLES = {
    "Preparing for Restart": "PREPARING",
}
"""Statuses whose full name is too long for a heading; all others are their name in capitals."""

VERBS = {
    "baseline": "baseline",
    "seal": "snapshot",
    "verify_snapshot": "read back",
    "verify_backup": "read back",
    "confirm_stopped": "confirm",
    "check": "verify",
}
"""Lines of the tables whose own name says too little on a terminal."""

COMMANDS = (
    "act", "adopt", "approve", "bench", "dead", "demo", "diagram", "doctor", "down", "history", "migrate", "plan",
    "publish", "report", "restart", "schema", "serve", "simulate", "status", "verify", "watch",
)  # fmt: skip
"""Relight's commands, by which they are told from other words after its name."""

_COMMAND = re.compile(rf"(?<![\w./-])relight (?=(?:{'|'.join(COMMANDS)})\b)")

SHORT = 8
"""Characters of a digest that are shown: enough to compare by eye."""

LONGEST = 160
"""Characters of an error or detail on one line; the whole text is in the log and the history."""


def typed(text: str) -> str:
    """The text with Relight's commands as this person types them: `./relight status` in a checkout."""
    return _COMMAND.sub(lambda _: f"{os.environ.get('RELIGHT_COMMAND', 'relight')} ", text)


def clock(moment: datetime, zone: tzinfo) -> str:
    """`02:05:00` in the zone of the reader."""
    return moment.astimezone(zone).strftime("%H:%M:%S")


def day(moment: datetime, zone: tzinfo) -> str:
    """`2026-03-01 02:05:00`."""
    return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def span(value: timedelta | float) -> str:
    """`0.2s`, `6s`, `7m02s`, `1h30m`, `2d4h`."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 0:
        return f"-{span(-seconds)}"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f}s".replace(".0s", "s")
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s" if whole % 60 else f"{whole // 60}m"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m" if whole % 3600 >= 60 else f"{whole // 3600}h"
    return f"{whole // 86_400}d{whole % 86_400 // 3600}h"


def title(status: str) -> str:
    """`PREPARING`, `SHUTTING DOWN`."""
    return TITLES.get(status, status.upper())


def verb(step: str) -> tuple[str, str]:
    """A step's name as what is done and to whom: `pause:calculator` is (`pause`, `calculator`)."""
    line, _, target = step.partition(":")
    return VERBS.get(line, line.replace("_", " ")), target


def short(text: str, longest: int = LONGEST) -> str:
    """One line of at most `longest` characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def by(user: str | None) -> str:
    """`by ana (verified)`, `by ana (local)`; nothing when Relight itself was the cause."""
    if not user:
        return ""
    return f"by {user}" if user.endswith(" (local)") else f"by {user} (verified)"


def reused(result: Mapping[str, Json], zone: tzinfo) -> str:
    """`reused 00:15, restored in test`: a backup that was not made anew, and when it was; nothing for any other."""
    made_at = result.get("made_at")
    if result.get("reused") is not True or not isinstance(made_at, str):
        return ""
    return f"reused {datetime.fromisoformat(made_at).astimezone(zone):%H:%M}, restored in test"


def evidence(result: Mapping[str, Json]) -> str:
    """What a step's result shows in a few words: `digest 9f3c41ab…`, `(paused)`, `pid 4312`."""
    words = []
    for key, value in result.items():
        match key, value:
            case ("digest", str()):
                words.append(f"digest {value[:SHORT]}…")
            case ("sha256", str()):
                words.append(f"{value[:SHORT]}…")
            case ("pid", int()):
                words.append(f"pid {value}")
            case ("detail", str()) if value:
                words.append(short(value, 80))
            case ("finding", str()):
                words.append(short(value))
            case ("paused", True):
                words.append("(paused)")
            case ("closed", [*servers]) if servers:
                words.append(f"no connection to {', '.join(map(str, servers))} left")
            case ("value", {"tables": int() as tables, "indexes": int() as indexes}):
                words.append(f"{tables} tables, {indexes} indexes read")
            case ("tables", int()):
                rows = result.get("rows")
                words.append(f"{value} table{'' if value == 1 else 's'}, {rows} row{'' if rows == 1 else 's'}")
            case _:
                pass
    return " ".join(dict.fromkeys(words))
