"""`relight demo`, as a person runs it: it ends well, proves what it says, and never leaves anything running."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from service.embedded.tracing import below
from tests.acceptance.process import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def nothing_is_left(home: Path) -> None:
    """No process of the demo, whoever its parent is now, and nobody on the ports it had."""
    folder = home / "demo"
    assert below(folder) == {}
    mark = os.fsencode(str(folder / "servers"))
    holders = [p for p in Path("/proc").iterdir() if p.name.isdecimal() and mark in _environ(p)]
    assert holders == []
    for file in folder.glob("servers/*.json"):
        for port in _ports(json.loads(file.read_text())):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0


def _environ(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def _ports(value: object) -> list[int]:
    if isinstance(value, dict):
        return [port for inner in value.values() for port in _ports(inner)]
    return [value] if isinstance(value, int) and value > 1024 else []


def test_demo_restarts_a_real_system_and_proves_what_it_kept(tmp_path: Path) -> None:
    begun = time.monotonic()
    with Running(tmp_path, "demo") as demo:
        status = demo.end(150)
    assert status == 0, demo.text
    headings = ["PREPARING", "── point of no return ──", "SHUTTING DOWN", "STARTING UP", "OPERATIONAL"]
    story = demo.text[demo.text.index("Publishing metrics.restart.requested") :]
    places = [story.index(heading) for heading in headings]
    assert places == sorted(places)
    assert "by svc-deploy (verified)" in story
    the_whole_protocol_was_shown(story)
    assert "Another process, the same memory: nothing was lost." in story
    assert "DIFFERENT" not in story
    assert "\x1b" not in demo.text
    nothing_is_left(tmp_path)
    (snapshot,) = (tmp_path / "demo" / "metrics" / "var" / "state" / "snapshots").glob("*.json")
    assert str(snapshot) in story
    (report,) = (tmp_path / "demo" / "metrics" / "var" / "state" / "reports").glob("*.md")
    assert str(report) in story
    assert report.read_text().count("- [x] ") == 10, report.read_text()
    rows = [json.loads(line) for line in (tmp_path / "demo" / "history.jsonl").read_text().splitlines()]
    assert [row["previous"] for row in rows[1:]] == [row["hash"] for row in rows[:-1]]
    assert time.monotonic() - begun < 120  # a minute on an idle machine; tests share it


SHOWN = (
    r"  tell         ✓.* told 3/3",
    r"  baseline     .*mcp all ✓",
    r"  backup       trading ✓",
    r"  read back    trading ✓",
    r"  restore test trading ✓.* 2 tables, \d+ rows",
    r"  pause        reporter ✓.*calculator ✓",
    r"  drain        trading ✗ pid \d+ back_office 0m\d\ds blocks; if nobody acts: abort and resume at",
    r"  drain        trading ✓",
    r"  flush        calculator ✓.* digest",
    r"  snapshot     ✓",
    r"  read back    ✓",
    r"── point of no return ──",
    r"  disconnect   reporter ✓.* no connection to research left",
    r"  stop         reporter ✓.*calculator ✓",
    r"  start        trading-server ✓.*calculator ✓ paused.*reporter ✓",
    r"  compare      ✓",
    r"  verify       .*integrity trading ✓.* tables, \d+ indexes read",
    r"  soak         .*mcp all ✓",
    r"  resume       calculator ✓.*reporter ✓",
    r"  complete     ✓.* told 3/3",
    r"  report       ✓",
    r"OPERATIONAL    downtime [\d.ms]+ of 2m   report file://\S+\.md",
    r"is up again +(?=.*mail)(?=.*chat)(?=.*pager)",
)
"""What a restart in the seed's order shows on the terminal, line by line."""


def the_whole_protocol_was_shown(story: str) -> None:
    """Each line in its order. Checks of one line end in any order, so a line names one of them."""
    at = 0
    for wanted in SHOWN:
        found = re.compile(wanted).search(story, at)
        assert found is not None, f"not shown, or too early: {wanted}\n{story}"
        at = found.start()


@pytest.mark.parametrize(
    ("moment", "seconds", "signals"),
    [
        ("Starting PostgreSQL", 2.0, [signal.SIGINT]),
        ("SHUTTING DOWN", 0.0, [signal.SIGINT, signal.SIGINT]),
    ],
    ids=["while-servers-start", "twice-while-the-system-is-down"],
)
def test_demo_that_is_interrupted_leaves_nothing_running(
    tmp_path: Path, moment: str, seconds: float, signals: list[signal.Signals]
) -> None:
    with Running(tmp_path, "demo") as demo:
        demo.until(moment, 120)
        time.sleep(seconds)
        for number in signals:
            demo.tell(number)
            time.sleep(0.3)
        assert demo.end(90) == 1
    assert "ending the demo" in demo.text
    assert "Traceback" not in demo.text
    nothing_is_left(tmp_path)
