"""`relight down` on real processes: in which order they end, who is never signalled, and when it refuses."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from schemas.system import System
from service.adapters.processes import record
from service.adapters.processes.local import SupervisedProcesses
from service.cli import main
from service.cli.home import only_one, write_systems
from service.clock import SystemClock
from service.embedded.ports import free_port

GENTLE = """
import os, signal, sys, time
def end(*_):
    with open(sys.argv[1], "a") as file:
        file.write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
while True:
    time.sleep(0.05)
"""
STUBBORN = "import signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"

NEEDS: dict[str, dict[str, Any]] = {
    "server": {"process": ["x"], "keep": True},
    "calculator": {"process": ["x"], "needs": ["server"]},
    "reporter": {"process": ["x"], "needs": ["calculator"]},
}


class Yard:
    """A home in which `serve` left processes running."""

    def __init__(self, home: Path, run: Any) -> None:
        self.home, self.ended, self.run = home, home / "ended", run
        self.processes = SupervisedProcesses(home / "processes", SystemClock())

    def describe(self, **changes: dict[str, Any]) -> None:
        components = {name: {**about, **changes.get(name, {})} for name, about in NEEDS.items()}
        system = {
            "system": "shop", "storage": {"state": "file:///s"}, "components": components,
            "databases": {"db": {"url": "env:DB"}},
            "restart": {"limits": {"stop": "1s"}}, "verify": [{"sql": "db", "query": "select 1", "is": 1}],
        }  # fmt: skip
        write_systems(self.home, [System.model_validate(system)])

    def start(self, component: str, program: str = GENTLE) -> record.Record:
        command = [sys.executable, "-c", program, str(self.ended), component]
        asyncio.run(self.processes.start(f"shop.{component}", command, {}, "/"))
        found = self.record(component)
        log = Path(found.log)
        for _ in range(500):
            if "up" in log.read_text():
                return found
            asyncio.run(asyncio.sleep(0.02))
        raise AssertionError(f"{component} did not come up")

    def record(self, component: str) -> record.Record:
        found = record.read(self.home / "processes" / f"shop.{component}")
        assert found is not None
        return found

    def order(self) -> list[str]:
        return self.ended.read_text().split() if self.ended.exists() else []


@pytest.fixture
def yard(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    for name in ("POSTGRES_URL", "AMQP_URL", "COMMAND"):
        monkeypatch.delenv(f"RELIGHT_{name}", raising=False)
    monkeypatch.setenv("RELIGHT_HOME", str(tmp_path))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["relight", *words])
        status = main.run()
        said = capsys.readouterr()
        return status, said.out, said.err

    yield Yard(tmp_path, run)
    for path in tmp_path.glob("processes/*/state.json"):
        with contextlib.suppress(ProcessLookupError):
            found = record.read(path.parent)
            if found and record.runs(found) and found.pid != os.getpid():
                os.killpg(found.pid, signal.SIGKILL)


def test_components_end_in_reverse_order_of_needs_and_kept_ones_last(yard: Yard) -> None:
    yard.describe()
    for component in NEEDS:
        yard.start(component)
    status, out, _ = yard.run("down", "shop")
    assert status == 0
    assert yard.order() == ["reporter", "calculator", "server"]
    assert len(re.findall(r"ended \(pid \d+, exit status 0\)", out)) == 3
    assert not any(record.runs(yard.record(component)) for component in NEEDS)
    status, out, _ = yard.run("down", "shop")
    assert (status, out.count("did not run")) == (0, 3)


def test_while_serve_runs_nothing_is_ended(yard: Yard) -> None:
    yard.describe()
    yard.start("reporter")
    with only_one(yard.home):
        status, _, err = yard.run("down", "shop")
    assert status == 1
    assert f"(pid {os.getpid()}) already runs" in err
    assert "nothing was ended" in err
    assert record.runs(yard.record("reporter"))
    assert yard.order() == []


LISTENING = """
import socket, sys, time
one = socket.create_server(("127.0.0.1", int(sys.argv[1].rpartition(":")[2])))
print("up", flush=True)
time.sleep(600)
"""


def test_server_that_relight_stands_on_is_not_ended_even_by_force(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("RELIGHT_POSTGRES_URL", f"postgresql://own:hush-of-this-test@127.0.0.1:{port}/tables")
    monkeypatch.setenv("RELIGHT_AMQP_URL", f"amqp://own:hush-of-this-test@127.0.0.1:{free_port()}/")
    yard.describe()
    yard.ended = yard.home / f"port:{port}"  # its argument says where to listen
    yard.start("server", LISTENING)
    yard.ended = yard.home / "ended"
    yard.start("reporter")
    status, out, _ = yard.run("down", "shop", "--kill")
    assert status == 1
    assert "not ended, because Relight stands on it: the PostgreSQL server of Relight's own tables (pid " in out
    assert "--kill`" not in out
    assert record.runs(yard.record("server"))
    assert yard.order() == ["reporter"], "what stands on nothing of ours was ended"
    monkeypatch.delenv("RELIGHT_POSTGRES_URL")
    monkeypatch.delenv("RELIGHT_AMQP_URL")
    assert yard.run("down", "shop")[0] == 0
    assert not record.runs(yard.record("server"))


def test_command_that_runs_inside_a_component_does_not_end_it(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    yard.describe()
    own = yard.start("reporter")
    monkeypatch.setattr(psutil.Process, "parents", lambda _: [psutil.Process(own.pid)])
    status, out, _ = yard.run("down", "shop")
    assert status == 1
    assert f"a parent of Relight (pid {own.pid}) is one of its processes" in out
    assert record.runs(own)


def test_what_does_not_end_keeps_what_it_needs_until_it_is_killed(yard: Yard) -> None:
    yard.describe()
    yard.start("server")
    yard.start("calculator", STUBBORN)
    status, out, _ = yard.run("down", "shop")
    assert status == 1
    assert "calculator           it was sent TERM and still runs after 1s" in out
    assert "`relight down shop --kill`" in out
    assert record.runs(yard.record("server"))
    assert record.runs(yard.record("calculator"))
    status, out, _ = yard.run("down", "shop", "--kill", "--json")
    assert status == 0
    (calculator, server) = json.loads(out)
    assert (calculator["component"], calculator["killed"], calculator["exit_status"]) == ("calculator", True, -9)
    assert (server["component"], server["killed"], server["exit_status"]) == ("server", False, 0)


def test_component_whose_file_says_kill_is_killed_unasked(yard: Yard) -> None:
    yard.describe(reporter={"on_silence": "kill"})
    yard.start("reporter", STUBBORN)
    status, out, _ = yard.run("down", "shop")
    assert (status, out.split()[:3]) == (0, ["reporter", "was", "killed"])


def test_pid_that_belongs_to_somebody_else_by_now_is_left_alone(yard: Yard) -> None:
    yard.describe()
    folder = yard.home / "processes" / "shop.reporter"
    folder.mkdir(parents=True)
    mine = record.start_time(os.getpid())
    assert mine is not None
    old = record.Record("shop.reporter", os.getpid(), mine - 1, record.boot(), 1, str(folder / "log"), "2026-01-01")
    record.write(folder, old)
    status, out, _ = yard.run("down", "shop")  # a signal would have ended this test
    assert (status, out.split()) == (0, ["reporter", "did", "not", "run"])


def test_without_a_description_everything_on_record_still_ends(yard: Yard) -> None:
    yard.start("calculator")
    assert yard.run("down", "shop")[0] == 0
    assert yard.order() == ["calculator"]


def test_unknown_system_is_named_with_what_there_is(yard: Yard) -> None:
    yard.start("calculator")
    status, _, err = yard.run("down", "shoop")
    assert status == 1
    assert "nothing of a system called 'shoop'" in err
    assert "known there: shop" in err
