"""The first hour with a system that runs by hand: `relight adopt` writes its file, and never starts a second copy."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
import pytest
import yaml

from schemas.system import System
from service.adapters.systems import load_systems
from service.embedded.ports import free_port
from tests.acceptance.process import ROOT, environment
from tests.servers import Databases, unique
from tests.serving import Serving

PROGRAM = Path(__file__).with_name("byhand.py").resolve()
CANARY = "canary-Zx9"


@contextmanager
def by_hand(folder: Path, *words: str, **variables: str) -> Iterator[int]:
    """One of the programs, as a person starts it; its pid once it is ready. Ended afterwards."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *words], cwd=folder, env={**os.environ, **variables},
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Machine:
    """The system that runs by hand, and Relight's command line beside it."""

    def __init__(self, folder: Path, dsn: str, pids: dict[str, int], port: int) -> None:
        self.folder, self.dsn, self.pids, self.port = folder, dsn, pids, port

    def relight(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "service.cli", *words], cwd=self.folder,
            env=environment(self.folder / "home", PYTHONPATH=str(ROOT), LEDGER_DB=self.dsn, **variables),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def alive(self) -> bool:
        return all(psutil.Process(pid).is_running() for pid in self.pids.values())


@pytest.fixture
async def machine(postgres_url: str, tmp_path: Path) -> AsyncIterator[Machine]:
    port = free_port()
    (tmp_path / "ledger").mkdir()
    with (
        by_hand(tmp_path / "ledger", "ledger", str(port), LEDGER_DSN=postgres_url, LEDGER_KEY=CANARY) as ledger,
        by_hand(tmp_path, "desk", str(port)) as desk,
    ):
        yield Machine(tmp_path, postgres_url, {"ledger": ledger, "desk": desk}, port)


def test_running_system_is_written_down_with_its_needs_and_pinned(machine: Machine) -> None:
    ledger, desk = (str(machine.pids[name]) for name in ("ledger", "desk"))
    done = machine.relight("adopt", "books", "--postgres", "env:LEDGER_DB", "--process", ledger, "--process", desk)
    assert done.returncode == 0, done.stderr
    system: System = load_systems([machine.folder / "books.yaml"])["books"]
    database = urlsplit(machine.dsn).path[1:]
    assert system.databases[database].url == "env:LEDGER_DB"
    assert re.fullmatch(r"\d{15,20}", system.identity[database])
    first, second = system.start_order()
    assert system.components[first].process == [sys.executable, str(PROGRAM), "ledger", str(machine.port)]
    assert system.components[first].needs == [database]
    assert system.components[second].needs == [first]
    text = (machine.folder / "books.yaml").read_text()
    assert f"pid {ledger}" in text
    assert '#   LEDGER_KEY: "env:LEDGER_KEY"' in text
    password = unquote(urlsplit(machine.dsn).password or "")
    assert password
    for where in (text, done.stdout, done.stderr):
        assert CANARY not in where
        assert password not in where
    assert "relight doctor --systems" in done.stderr
    assert machine.alive()


def test_nothing_is_overwritten_and_what_cannot_be_reached_writes_nothing(machine: Machine) -> None:
    file = machine.folder / "books.yaml"
    file.write_text("mine")
    words = ("adopt", "books", "--process", str(machine.pids["desk"]))
    done = machine.relight(*words)
    assert done.returncode == 1
    assert "exists and was not touched" in done.stderr
    assert file.read_text() == "mine"
    done = machine.relight(*words, "--force", "--postgres", f"postgresql://x:{CANARY}@127.0.0.1:{free_port()}/x")
    assert done.returncode == 1
    assert "could not be looked at" in done.stderr
    assert CANARY not in done.stderr
    assert file.read_text() == "mine"
    done = machine.relight("adopt", "books", "--force", "--process", "no such process", "--unit", "books-*")
    assert done.returncode == 1
    assert "no file was written" in done.stderr
    assert "this host has no systemctl" in done.stderr or "books-*" in done.stderr
    assert list(machine.folder.glob(".relight-adopt-*")) == []


def test_unit_becomes_a_component_that_systemd_starts(machine: Machine) -> None:
    program = machine.folder / "bin" / "systemctl"
    program.parent.mkdir()
    main = machine.pids["ledger"]
    program.write_text(
        "#!/bin/sh\n"
        'echo "$@" >> "$0.asked"\n'
        'case "$1" in\n'
        """list-units) echo '[{"unit": "ledger.service"}]';;\n"""
        f'show) printf "Id=ledger.service\\nDescription=The ledger\\nActiveState=active\\nMainPID={main}\\n";;\n'
        "*) exit 9;;\nesac\n"
    )
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    words = ("adopt", "books", "-o", "-", "--unit", "led*", "--process", str(PROGRAM))
    done = machine.relight(*words, PATH=path)
    assert done.returncode == 0, done.stderr
    components = yaml.safe_load(done.stdout)["components"]
    assert components["ledger"]["unit"] == "ledger.service"
    assert "process" not in components["ledger"]
    assert "env" not in components["ledger"]
    assert [name for name, one in components.items() if "process" in one] == ["byhand"]
    assert components["byhand"]["needs"] == ["ledger"]
    asked = Path(f"{program}.asked").read_text().split()
    assert {word for word in asked if word in ("list-units", "show", "start", "stop", "kill")} == {"list-units", "show"}


def test_without_names_it_takes_what_is_connected_and_doctor_says_what_is_in_the_way(machine: Machine) -> None:
    done = machine.relight("adopt", "books", "--postgres", "env:LEDGER_DB", "--json")
    assert done.returncode == 0, done.stderr
    (system,) = load_systems([machine.folder / "books.yaml"]).values()
    commands = [component.process for component in system.components.values()]
    assert [sys.executable, str(PROGRAM), "ledger", str(machine.port)] in commands
    assert json.loads(done.stdout)["file"] == str(machine.folder / "books.yaml")

    (database,) = (name for name, one in system.databases.items() if one.url == "env:LEDGER_DB")
    text = (machine.folder / "books.yaml").read_text().replace(system.identity[database], "4711")
    (machine.folder / "books.yaml").write_text(text)
    findings = json.loads(machine.relight("doctor", "--json", "--systems", "books.yaml").stdout)
    wrong = {one["what"]: one["problem"] for one in findings if one["problem"]}
    assert "identity: pins 4711" in wrong[f"books: database {database}: identity"]
    ours = [what for what, problem in wrong.items() if f"pid {machine.pids['ledger']}, which this Relight" in problem]
    assert len(ours) == 1


async def test_real_serve_leaves_alone_what_runs_by_hand_and_starts_it_once_it_has_ended(
    machine: Machine, databases: Databases, amqp_url: str
) -> None:
    name, pid = unique("books"), machine.pids["desk"]
    done = machine.relight("adopt", "books", "-o", "system.yaml", "--process", str(pid))
    assert done.returncode == 0, done.stderr
    relight = Serving(machine.folder, await databases.create_database(name), amqp_url, "books")

    async def stands(state: str) -> bool:
        return await relight.state() == state

    def copies() -> list[int]:
        words = [sys.executable, str(PROGRAM), "desk", str(machine.port)]
        return [one.pid for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == words]

    try:
        await relight.prepare()
        await relight.start()
        await relight.until("the system is degraded", lambda: stands("degraded"))
        assert copies() == [pid]
        os.kill(pid, signal.SIGTERM)
        await relight.until("the one started by hand has ended", lambda: _true(pid not in copies()))
        acted = machine.relight(
            "act", "lifecycle/books", "adopt", "--reason", "ended by hand",
            RELIGHT_POSTGRES_URL=relight.postgres_url, RELIGHT_AMQP_URL=amqp_url,
        )  # fmt: skip
        assert acted.returncode == 0, acted.stderr
        await relight.until("the system is operational", lambda: stands("operational"))
        (started,) = copies()
        assert started != pid
    finally:
        await relight.stop()
        ended = machine.relight("down", "books", "--kill")
        await databases.drop_database(name)
    assert ended.returncode == 0, ended.stderr
    assert copies() == []


async def _true(answer: bool) -> bool:
    return answer
