"""`relight serve` on its private servers and the commands beside it, all as real processes."""

import hashlib
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.adapters.processes import record
from tests.acceptance.process import Running, relight

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SYSTEM = """\
system: tiny
allow: {restart: [ana], observe: [prometheus]}
storage: {state: "file://./state"}
components:
  worker:
    process: [sleep, "1000"]
    participant:
      pause: {signal: CONT}
      resume: {signal: CONT}
      report: {command: [sh, -c, "while [ -e HOLD ]; do sleep 0.1; done; echo '{}'"]}
restart: {notice: {lead: 2s}, answer_within: 60s}
verify:
  - {roundtrip: worker}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Running]]:
    """A `serve` that has begun, and its home."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "system.yaml").write_text(SYSTEM.replace("HOLD", str(folder / "hold")))
    home = folder / "home"
    with Running(home, "serve", "--systems", str(folder)) as serve:
        serve.until("Relight serves tiny", 120)
        until_operational(home)
        yield home, serve
    for state in home.glob("processes/*/state.json"):
        found = record.read(state.parent)
        if found is not None and record.runs(found):
            os.kill(found.pid, signal.SIGKILL)


def until_operational(home: Path) -> None:
    for _ in range(120):
        if "operational" in relight(home, "status", "tiny").stdout:
            return
        time.sleep(0.25)
    raise AssertionError(relight(home, "status").stdout)


def test_banner_says_where_and_health_answers_there(served: tuple[Path, Running]) -> None:
    home, serve = served
    url = next(line.split()[1] for line in serve.lines if line.strip().startswith("health"))
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert json.load(answer)["ready"] is True
    assert str(home / "users") in serve.text
    assert (home / "endpoints.json").stat().st_mode & 0o777 == 0o600


def test_second_serve_on_the_same_home_says_so(served: tuple[Path, Running]) -> None:
    home, _ = served
    again = relight(home, "serve", "--systems", str(home.parent))
    assert again.returncode == 1
    assert f"already runs on {home}; nothing was started" in again.stderr


def test_watched_restart_is_told_to_its_end(served: tuple[Path, Running]) -> None:
    home, _ = served
    done = relight(home, "restart", "tiny", "--watch", "--reason", "new release", timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    places = [done.stdout.index(w) for w in ("PREPARING", "SHUTTING DOWN", "STARTING UP", "OPERATIONAL    downtime")]
    assert places == sorted(places)
    assert "restart requested: new release" in done.stdout
    assert "(local)" in done.stdout
    assert "\x1b" not in done.stdout


def test_allowed_user_restarts_over_amqp_and_another_is_refused_aloud(served: tuple[Path, Running]) -> None:
    home, _ = served
    data, hold = '{"reason": "over AMQP"}', home.parent / "hold"
    with Running(home, "watch", "tiny.#", "--json") as watch:
        watch.until("watching relight.status", 30)
        assert (
            relight(home, "publish", "restart.requested", "tiny", "--as", "prometheus", "--data", data).returncode == 0
        )
        refusal = json.loads(watch.until("relight.refused", 30))["event"]["data"]
        assert "prometheus may not restart tiny" in refusal["reasons"][0]
        hold.touch()  # however quick it is: a second restart is to find it in progress
        sent = relight(home, "publish", "restart.requested", "tiny", "--as", "ana", "--data", data, "--json")
        event_id = json.loads(sent.stdout)["id"]
        moved = json.loads(watch.until("preparing_for_restart.notifying", 30))["event"]["data"]
        assert moved["event"] == {
            "type": "relight.restart.requested",
            "id": event_id,
            "source": "relight/cli",
            "user": "ana",
        }
        second = relight(home, "restart", "tiny")
        hold.unlink()
        assert second.returncode == 1
        assert "already in progress" in second.stdout
        watch.until("tiny.lifecycle.operational", 60)
        watch.tell(signal.SIGINT)
        assert watch.end(20) == 0


def test_history_for_programs_carries_a_chain_that_holds(served: tuple[Path, Running]) -> None:
    home, _ = served
    rows = [json.loads(line) for line in relight(home, "history", "lifecycle/tiny", "--json").stdout.splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    head = ""
    for row in rows:
        assert row["previous"] == head
        head = hashlib.sha256(f"{head}\n{row['record']}".encode()).hexdigest()
        assert row["hash"] == head


def test_plan_is_what_the_run_then_performed(served: tuple[Path, Running]) -> None:
    home, _ = served
    assert relight(home, "restart", "tiny", "--watch").returncode == 0
    planned = json.loads(relight(home, "plan", "restart", "tiny", "--json").stdout)
    rows = [json.loads(line) for line in relight(home, "history", "lifecycle/tiny", "--json").stdout.splitlines()]
    last = max(i for i, row in enumerate(rows) if row["to"] == "preparing_for_restart.notifying")
    assert [state["state"] for state in planned["states"]] == [row["to"] for row in rows[last:]]


def test_unknown_system_is_not_asked_to_restart(served: tuple[Path, Running]) -> None:
    home, _ = served
    done = relight(home, "restart", "tiney")
    assert done.returncode == 1
    assert "knows no system called 'tiney'; it knows: tiny" in done.stderr


def test_ended_serve_exits_0_leaves_the_systems_processes_and_says_so(served: tuple[Path, Running]) -> None:
    home, serve = served
    serve.tell(signal.SIGTERM)
    assert serve.end(60) == 0
    assert "the systems' processes go on running" in serve.text
    assert "Traceback" not in serve.text
    found = record.read(home / "processes" / "tiny.worker")
    assert found is not None
    assert record.runs(found)
    after = relight(home, "status")
    assert after.returncode == 1
    assert "no Relight was found" in after.stderr
