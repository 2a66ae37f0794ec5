"""A system with components that are units of a real systemd, under a real `serve`: restarted, hung at the stop, ended.

What is judged is read from systemd and from what the units themselves wrote down.
"""

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from service.adapters.processes.local import SupervisedProcesses
from service.clock import SystemClock
from service.errors import Retry
from tests.acceptance.terminal import paste, relight, says, stands
from tests.servers import Databases, Vhosts, unique
from tests.serving import Serving
from tests.systemd import OwnSystemd, systemd

__all__ = ["systemd"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(120)]

WORK = """
import os, signal, sys, time
name, folder = sys.argv[1:]
def say(what):
    with open(f"{folder}/{name}.said", "a") as file:
        file.write(what + "\\n")
def ends(*_):
    if os.path.exists(f"{folder}/deaf"):
        return say("deaf")
    say("ended")
    sys.exit(0)
signal.signal(signal.SIGTERM, ends)
signal.signal(signal.SIGUSR2, lambda *_: say("resumed"))
time.sleep(0.3)  # a signal that came before its handler would end it
signal.signal(signal.SIGUSR1, lambda *_: say("paused"))
say("started")
while True:
    time.sleep(0.05)
"""
SYSTEM = {
    "system": "books",
    "storage": {"state": "file://./state"},
    "components": {
        "ledger": {"process": ["sleep", "600"]},
        "report": {
            "unit": "books-report",
            "needs": ["ledger"],
            "participant": {"pause": {"signal": "USR1"}, "resume": {"signal": "USR2"}},
            "on_silence": "kill",
        },
        "desk": {"unit": "books-desk.service", "needs": ["ledger"], "on_silence": "proceed"},
        "kept": {"unit": "books-kept", "keep": True},
    },
    "restart": {
        "notice": {"lead": "0s"},
        "answer_within": "3s",
        "limits": {"drain": "5s", "stop": "10s", "start": "20s", "verify": "5s"},
    },
    "verify": [{"files": ".", "access": "r"}],
}


@dataclass
class Office:
    """The system, its Relight, and the systemd that runs its units."""

    serving: Serving
    systemd: OwnSystemd

    def run(self, unit: str) -> tuple[str, str]:
        """(state, invocation) of books-<unit>, as systemd says."""
        shown = self.systemd.systemctl("show", "--property=ActiveState,InvocationID", f"books-{unit}.service").stdout
        said = dict(line.split("=", 1) for line in shown.splitlines())
        return said["ActiveState"], said["InvocationID"]

    def said(self, unit: str) -> list[str]:
        return (self.serving.folder / f"{unit}.said").read_text().split()

    async def ran_anew(self, unit: str, before: str) -> None:
        """Waits until systemd runs it as another run."""

        async def anew() -> bool:
            state, run = self.run(unit)
            return state == "active" and run not in ("", before)

        await self.serving.until(f"another run of {unit}", anew)

    @property
    def deaf(self) -> Path:
        """While it is there no unit ends when it is told to."""
        return self.serving.folder / "deaf"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office(
    systemd: OwnSystemd, databases: Databases, vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Office]:
    name, folder = unique("units"), tmp_path_factory.mktemp("units")
    postgres_url, amqp_url = await databases.create_database(name), await vhosts.add_vhost(name)
    serving = Serving(folder, postgres_url, amqp_url, "books")
    (folder / "work.py").write_text(WORK)
    serving.systems[0].write_text(yaml.safe_dump(SYSTEM, sort_keys=False))
    for unit in ("report", "desk", "kept"):
        start = f"ExecStart={sys.executable} {folder}/work.py {unit} {folder}"
        systemd.unit(f"books-{unit}", f"{start}\nRestart=always\nRestartSec=0.2\nTimeoutStopSec=60")
    office = Office(serving, systemd)
    path = f"{systemd.path}{os.pathsep}{os.environ['PATH']}"
    serving.environment = lambda **more: Serving.environment(serving, PATH=path, **more)  # type: ignore[method-assign]
    try:
        await serving.prepare()
        await serving.start()
        await stands(serving, "operational", within=60)
        yield office
    finally:
        office.deaf.unlink(missing_ok=True)
        await serving.stop()
        with contextlib.suppress(Retry):  # `down` may have ended it; the units end with their systemd
            await SupervisedProcesses(folder / "home" / "processes", SystemClock()).tell("books.ledger", "KILL")
        await databases.drop_database(name)
        await vhosts.delete_vhost(name)


async def test_restart_ends_each_unit_once_and_has_it_paused_before_it_is_verified(office: Office) -> None:
    before = {unit: office.run(unit) for unit in ("report", "desk", "kept")}
    assert [state for state, _ in before.values()] == ["active"] * 3
    await relight(office.serving, "restart", "books", "--reason", "try units")
    await office.ran_anew("report", before["report"][1])
    await stands(office.serving, "operational")
    after = {unit: office.run(unit) for unit in before}
    assert [state for state, _ in after.values()] == ["active"] * 3
    assert after["kept"] == before["kept"]
    assert all(after[unit][1] != before[unit][1] for unit in ("report", "desk"))
    said = office.said("report")
    assert said[said.index("ended") :] == ["ended", "started", "paused", "resumed"]
    assert office.said("desk") == ["started", "ended", "started"]


async def test_hung_stops_follow_the_file_and_the_text_leads_out(office: Office) -> None:
    before = {unit: office.run(unit)[1] for unit in ("report", "desk")}
    office.deaf.touch()
    await relight(office.serving, "restart", "books", "--reason", "they hang", status=None)
    await office.ran_anew("report", before["report"])
    await stands(office.serving, "degraded")
    assert office.said("report")[-4:] == ["deaf", "started", "paused", "resumed"]
    assert office.run("report")[0] == "active"
    assert office.run("report")[1] != before["report"]
    # It may go on without: the old run is neither taken for a new one nor started beside.
    assert office.run("desk") == ("deactivating", before["desk"])
    text = await says(office.serving, "systemctl kill --kill-who=all --signal=KILL books-desk.service")
    office.deaf.unlink()
    office.systemd.systemctl("kill", "--kill-who=all", "--signal=KILL", "books-desk.service")
    await paste(office.serving, text, "adopt")
    await stands(office.serving, "operational")
    assert office.run("desk")[0] == "active"
    assert office.run("desk")[1] != before["desk"]


async def test_doctor_looks_at_units_and_down_ends_all_but_the_kept_one(office: Office) -> None:
    (office.systemd.home / "units" / "books-desk.timer").write_text(
        "[Unit]\nDefaultDependencies=no\n[Timer]\nOnActiveSec=1000\n"
    )
    office.systemd.systemctl("daemon-reload")
    office.systemd.systemctl("start", "books-desk.timer")
    text = await relight(office.serving, "doctor", "--systems", str(office.serving.systems[0]), status=None)
    assert "books-report.service" in text
    assert "active (running)" in text
    assert "books-desk.timer starts it again by itself" in text
    await office.serving.stop()
    down = await relight(office.serving, "down", "books")
    assert "books-report.service" in down
    assert [office.run(unit)[0] for unit in ("report", "desk", "kept")] == ["inactive", "inactive", "active"]
