"""Stuck situations around processes, each cleared by somebody who knows only the terminal: silence, a hung stop, a lost
host, a blocked drain, killed supervisors. What the target shows is judged; the commands are those that are printed.
"""

import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
import yaml

from service.adapters.processes import record
from tests.acceptance.terminal import WHY, paste, relight, says, stands
from tests.faults.evidence import read_effects
from tests.faults.harness import SYSTEM, Stage
from tests.servers import Databases, Vhosts, unique
from tests.serving import Serving

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(120)]

LIFECYCLE = f"lifecycle/{SYSTEM}"
FAR = "m1"
"""The other host; here it is another Relight with a folder of its own."""
ANSWERS = """
import json, os, sys, time
while os.path.exists(sys.argv[1]) and os.environ["RELIGHT_COMMAND"] == "pause": time.sleep(0.1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Stands before a participant's program: told to pause, it hangs for as long as a file is there."""


@dataclass
class Site:
    """The system on two hosts: `worker` and `front` on this one, `printer` on the other. `deaf`: a file that makes the
    worker's program hang when it is told to pause."""

    stage: Stage
    far: Serving
    orders: str
    deaf: Path

    def home(self, component: str) -> Path:
        serving = self.far if component == "printer" else self.stage
        return serving.folder / "home" / "processes" / f"{SYSTEM}.{component}"

    def process(self, component: str) -> record.Record:
        """The run of a component that Relight last wrote down."""
        found = record.read(self.home(component))
        assert found is not None
        return found

    def pids(self) -> dict[str, int]:
        """Every component's one process. Raises AssertionError when one does not run, or runs twice."""
        for name in ("worker", "front", "printer"):
            ran = [one for one in read_effects(self.stage.effects) if one.component == name and one.what == "start"]
            alive = {one.pid for one in ran if one.pid is not None and record.start_time(one.pid) is not None}
            assert alive == {self.process(name).pid}, f"{name} runs as {alive}"
        return {name: self.process(name).pid for name in ("worker", "front", "printer")}

    async def ended(self, pid: int) -> None:
        await self.stage.until(f"pid {pid} ended", lambda: _gone(pid), 20)

    async def whole(self, before: dict[str, int]) -> None:
        """Operational, each component a new process and only one, the count of resumes kept, and nothing paused."""
        await stands(self.stage, "operational", within=60)
        after = self.pids()
        assert all(after[name] != pid for name, pid in before.items()), (before, after)

    async def count(self) -> int:
        """What the worker holds in memory: how often it was resumed, from its first start on."""
        return int(json.loads((self.stage.folder / "worker.memory").read_bytes())["count"])


async def _gone(pid: int) -> bool:
    return record.start_time(pid) is None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(databases: Databases, vhosts: Vhosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One system for the whole file; every story leaves it operational."""
    name = unique("stuck")
    folder = tmp_path_factory.mktemp("stuck")
    postgres_url, amqp_url = await databases.create_database(name), await vhosts.add_vhost(name)
    orders = await databases.create_database(f"{name}_orders")
    stage = Stage(folder / "here", postgres_url, amqp_url, urlsplit(amqp_url).username or "guest")
    far = Serving(folder / "far", postgres_url, amqp_url, SYSTEM)
    far.folder.mkdir()
    far.systems = stage.systems
    site = Site(stage, far, orders, folder / "deaf")
    (folder / "orders").write_text(orders)
    _describe(stage.file, folder / "orders", site.deaf)
    try:
        await stage.prepare()
        await far.start(RELIGHT_PLACES=FAR)
        await stage.start()
        await stage.load.connect()
        await stands(stage, "operational", within=60)
        yield site
    finally:
        site.deaf.unlink(missing_ok=True)
        await stage.load.close()
        await far.stop()
        await stage.end()
        await databases.drop_database(f"{name}_orders")
        await databases.drop_database(name)
        await vhosts.delete_vhost(name)


def _describe(file: Path, orders: Path, deaf: Path) -> None:
    system = yaml.safe_load(file.read_text())
    worker, front = system["components"]["worker"], system["components"]["front"]
    python, *rest = worker["participant"]["pause"]["command"]
    worker["participant"]["pause"]["command"] = [python, "-c", ANSWERS, str(deaf), *rest]
    worker["needs"] = ["orders"]
    system["components"]["printer"] = {**front, "host": FAR}
    system["databases"] = {"orders": {"url": f"file:{orders}"}}
    system["restart"].update(answer_within="3s")
    system["restart"]["limits"].update(stop="4s", drain="60s")
    file.write_text(yaml.safe_dump(system))


@contextlib.asynccontextmanager
async def blocking(site: Site) -> AsyncIterator[int]:
    """A transaction of the worker's that nobody ends; the server's pid of its session."""
    connection = await asyncpg.connect(site.orders, server_settings={"application_name": f"{SYSTEM}.worker"})
    try:
        await connection.execute("begin; create table if not exists held (id int)")
        yield connection.get_server_pid()
    finally:
        connection.terminate()


async def test_silent_participant_is_waived_and_the_degraded_system_looked_at_anew(site: Site) -> None:
    before, held = site.pids(), await site.count()
    site.deaf.touch()
    await relight(site.stage, "restart", SYSTEM, "--reason", "with a program that hangs")
    text = await says(site.stage, "pause:worker is being performed", "abort and resume")
    await paste(site.stage, text, "waive", step="pause:worker")
    site.deaf.unlink()
    await stands(site.stage, "degraded", within=60)
    text = await says(site.stage, f"waived pause:worker ({WHY}")
    assert await site.count() == held + 1
    await paste(site.stage, text, "adopt")
    await site.whole(before)
    assert await site.count() == held + 2, "looking at it anew resumes what runs"


async def test_hung_stop_halts_and_a_retry_goes_on_stopping(site: Site) -> None:
    before, held = site.pids(), await site.count()
    os.kill(before["front"], signal.SIGSTOP)
    await relight(site.stage, "restart", SYSTEM, "--reason", "with a deaf front")
    await stands(site.stage, "halted", within=60)
    text = await says(site.stage, f"{LIFECYCLE}: waits for a person", "stop:front")
    assert record.start_time(before["worker"]) is not None, "the worker was stopped before the front"
    assert "CONT" in re.findall(rf"`kill -([A-Z]+) {before['front']}`", text)
    os.kill(before["front"], signal.SIGCONT)
    await site.ended(before["front"])
    said = await paste(site.stage, text, "retry")
    assert "shutting_down" in said
    await site.whole(before)
    assert await site.count() == held + 1


async def test_lost_host_is_named_and_its_steps_go_on_when_somebody_serves_it(site: Site) -> None:
    before, held = site.pids(), await site.count()
    async with blocking(site) as pid:
        await relight(site.stage, "restart", SYSTEM, "--reason", "while a host is lost")
        await says(site.stage, f"pid {pid}", "drain:orders")
        assert site.far.process is not None
        site.far.process.kill()
        await site.far.died()
    text = await says(site.stage, "stop:printer waits for a worker since", f"None serves {FAR}", within=60)
    assert "then: halt and call a person" in text
    (view,) = json.loads(await relight(site.stage, "status", SYSTEM, "--json"))[:1]
    assert {step["name"]: step["status"] for step in view["steps"]}["stop:printer"] == "waiting_for_worker"
    (variable, place) = re.findall(r"start `(RELIGHT_PLACES)=(\S+) relight serve` there", text)[0]
    await site.far.start(**{variable: place})
    await site.whole(before)
    assert await site.count() == held + 1


async def test_blocked_drain_names_the_transaction_and_how_to_end_it(site: Site) -> None:
    before, held = site.pids(), await site.count()
    async with blocking(site) as pid:
        await relight(site.stage, "restart", SYSTEM, "--reason", "with a transaction left open")
        text = await says(site.stage, f"pid {pid}", "if nobody acts: abort and resume")
        (database, query) = re.findall(r"to end it, in (\w+): (select \S+\(\d+\))", text)[0]
        assert database == "orders"
        person = await asyncpg.connect(site.orders)
        assert await person.fetchval(query) is True
        await person.close()
        await site.whole(before)
    assert await site.count() == held + 1


async def test_killed_supervisors_hide_nothing_and_the_next_restart_mends_it(site: Site) -> None:
    before = site.pids()
    for number in (site.process("worker").supervisor, site.process("front").supervisor, before["front"]):
        os.kill(number, signal.SIGKILL)
    await site.ended(before["front"])
    text = await doctor(site)
    assert f"does not run; the last was pid {before['front']}, nobody saw how it ended" in text
    assert f"runs as pid {before['worker']}; its supervisor is gone" in text
    (command,) = set(re.findall(r"`relight (restart \w+)`", text))
    await relight(site.stage, *command.split(), "--reason", WHY)
    await site.whole(before)
    before = site.pids()
    # The front loses only its supervisor, the worker both, while the restart waits for a transaction.
    async with blocking(site) as pid:
        await relight(site.stage, "restart", SYSTEM, "--reason", "while things die")
        await says(site.stage, f"pid {pid}", "drain:orders")
        for number in (site.process("front").supervisor, site.process("worker").supervisor, before["worker"]):
            os.kill(number, signal.SIGKILL)
        await site.ended(before["worker"])
        assert f"runs as pid {before['front']}; its supervisor is gone" in await doctor(site)
    await site.whole(before)


async def doctor(site: Site) -> str:
    """What `relight doctor` says, without the columns."""
    return " ".join((await relight(site.stage, "doctor", "--systems", str(site.stage.file), status=None)).split())
