"""The first hour with a system that runs by hand: `relight adopt` writes its file, and never starts a second copy."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
import pytest

from schemas.system import System
from service.adapters.systems import load_systems
from service.embedded.ports import free_port
from tests.acceptance.process import ROOT, environment

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
