"""The example system, really run: what it holds in memory is lost by a kill and kept by a flush."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import aio_pika
import asyncpg
import psutil
import pytest
import pytest_asyncio
import yaml

from schemas.base import Json
from schemas.events import ParticipantAnswered
from schemas.system import System
from service.adapters.databases import PostgresDatabases
from service.adapters.files import FileStorage
from service.adapters.local_files import LocalFiles
from service.adapters.memory.world import MemoryWorld
from service.adapters.processes.local import SupervisedProcesses
from service.adapters.programs import LocalPrograms
from service.adapters.rabbitmq import RabbitBroker
from service.adapters.secrets import References
from service.clock import SystemClock
from service.embedded import RabbitServer
from service.embedded.users import BrokerUser, rights
from service.errors import Permanent, Retry
from service.ports import SILENT, Waiting
from tests.example import without_research
from tests.performing import Bench
from tests.servers import reachable_directory, unique

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLE = Path(__file__).parents[2] / "examples" / "metrics"
EQUAL = ("trades", "last_trade", "win_rate", "pnl", "sharpe")
CALCULATOR = "metrics.calculator"


class Answers:
    """Hears what the participants answer, as Relight's intake would; `users` are those the broker verified."""

    def __init__(self) -> None:
        self.heard: dict[str, dict[str, Any]] = {}
        self.users: list[str | None] = []
        self._news = asyncio.Event()

    async def on_message(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        async with message.process():
            data = json.loads(message.body)["data"]
            ParticipantAnswered.model_validate(data)
            self.users.append(message.user_id)
            self.heard[data["commandid"]] = data
            self._news.set()

    async def wait(self, commandid: str, waiting: Waiting) -> Mapping[str, Json]:
        left = (waiting.until - datetime.now(waiting.until.tzinfo)).total_seconds()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                while commandid not in self.heard:
                    self._news.clear()
                    await self._news.wait()
        return self.heard.pop(commandid, SILENT)


class Example:
    """The system in a folder of its own, with its broker user and everything Relight's actions need."""

    def __init__(self, bench: Bench, processes: SupervisedProcesses, answers: Answers, folder: Path) -> None:
        self.bench, self.processes, self.answers, self.folder = bench, processes, answers, folder
        self.perform = bench.perform

    async def start(self, *, paused: bool = False) -> dict[str, Mapping[str, Json]]:
        """All components in the order of their needs; the evidence of each."""
        self.bench.entry += 1
        order = self.bench.system.start_order()
        return {name: await self.perform("component.start", name, timeout=60, paused=paused) for name in order}

    async def values(self) -> dict[str, Any]:
        """What the calculator measures of itself now."""
        self.bench.entry += 1
        reported = await self.perform("participant.report", "calculator")
        values = reported["values"]
        assert isinstance(values, dict)
        return values

    async def counted(self, trades: int) -> dict[str, Any]:
        """The values, once it has counted that many."""
        async with asyncio.timeout(30):
            while (values := await self.values())["trades"] < trades:
                await asyncio.sleep(0.1)
        return values

    async def database(self, query: str) -> Any:
        connection = await asyncpg.connect((self.folder / "var/trading/dsn").read_text())
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    async def kill(self, name: str) -> None:
        await self.processes.tell(name, "KILL")
        assert not (await self.processes.wait_stopped(name, timedelta(seconds=10))).running

    async def end(self, *names: str) -> None:
        """In order if they can, else at once."""
        for name in names:
            with contextlib.suppress(Retry):
                await self.processes.tell(f"metrics.{name}", "TERM")
        for name in names:
            state = await self.processes.wait_stopped(f"metrics.{name}", timedelta(seconds=15))
            if state.running:
                await self.processes.tell(f"metrics.{name}", "KILL")

    async def take_down(self) -> None:
        """Pause, flush, seal, verify, stop, confirm: as the lifecycle plans them."""
        bench = self.bench
        bench.entry, bench.state = bench.entry + 1, "preparing_for_restart.preserving"
        bench.data["restart"], bench.results = {"id": "r1"}, {}
        for name in ("reporter", "calculator"):
            bench.results[f"pause:{name}"] = await self.perform("participant.pause", name, lease=60)
        bench.results["flush:calculator"] = await self.perform("participant.flush", "calculator")
        bench.results["seal"] = await self.perform("snapshot.seal")
        assert (await self.perform("snapshot.verify"))["verified"] is True
        seal = bench.results["seal"]
        bench.data["system_snapshot"] = {key: seal[key] for key in ("url", "sha256")}
        bench.data["digests"] = {"calculator": bench.results["flush:calculator"]["digest"]}
        for name in ("reporter", "calculator"):
            stopped = await self.perform("component.stop", name, timeout=20)
            assert (stopped["running"], stopped["killed"]) == (False, False), stopped
        await self.perform("component.confirm_stopped")

    async def bring_up(self) -> dict[str, Mapping[str, Json]]:
        """Start paused, compare, check, resume."""
        self.bench.state = "starting_up.verifying"
        started = await self.start(paused=True)
        await self.perform("snapshot.compare")
        for index in range(len(self.bench.system.verify)):
            self.bench.entry += 1
            assert (await self.perform("check.run", check=index))["passed"] is True
        self.bench.entry += 1
        for name in ("calculator", "reporter"):
            await self.perform("participant.resume", name)
        return started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker_url(rabbit_server: RabbitServer) -> AsyncIterator[tuple[str, str]]:
    """A vhost: the administrator's URL, and that of a user with no more rights than a component gets."""
    vhost = unique("example")
    admin = await rabbit_server.add_vhost(vhost)
    user = BrokerUser(CALCULATOR, ("metrics", "calculator"))
    url = await rabbit_server.add_user(CALCULATOR, "its own", vhost=vhost)
    given = rights(user)
    await rabbit_server.set_permissions(
        CALCULATOR, vhost=vhost, configure=given.configure, write=given.write, read=given.read
    )
    topic = {"exchange": "relight.commands", "write": "^$", "read": given.topic}
    await rabbit_server.management().put(f"/topic-permissions/{quote(vhost, safe='')}/{quote(CALCULATOR)}", topic)
    yield admin, url
    await rabbit_server.delete_vhost(vhost)
    await rabbit_server.delete_user(CALCULATOR)


@pytest_asyncio.fixture(loop_scope="module")
async def example(place: Example) -> AsyncIterator[Example]:
    """The database goes on from test to test, for making it takes long; whoever works on it begins anew."""
    bench, system = place.bench, place.bench.system
    yield place
    await place.end("reporter", "calculator")
    bench.system, bench.state, bench.entry = system, "starting_up.verifying", bench.entry + 1
    bench.data, bench.results = {}, {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(broker_url: tuple[str, str]) -> AsyncIterator[Example]:
    admin, own = broker_url
    with reachable_directory() as place:
        folder = place / "metrics"
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("var", "__pycache__"))
        users = place / "users"
        users.mkdir(mode=0o700)
        (users / f"{CALCULATOR}.url").write_text(own + "\n")
        file = yaml.safe_load((folder / "system.yaml").read_text())
        without_research(file)
        system = System.model_validate({**file, "folder": str(folder)})
        processes = SupervisedProcesses(place / "processes", SystemClock())
        async with RabbitBroker(admin, clock=SystemClock()) as broker, broker.commands() as commands:
            await broker.declare(["metrics"], {"metrics": 0})
            connection = await aio_pika.connect(admin)
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind("relight.events", "metrics.participant.answered")
            answers = Answers()
            await queue.consume(answers.on_message)
            # What the example has no use for stays in memory.
            world = replace(
                MemoryWorld(SystemClock()).world(),
                processes=processes,
                databases=PostgresDatabases(),
                files=LocalFiles(),
                storage=FileStorage(),
                commands=commands,
                programs=LocalPrograms(),
                secrets=References({"RELIGHT_USERS": str(users)}),
            )
            made = Example(Bench(system, world, SystemClock(), answers.wait), processes, answers, folder)
            try:
                yield made
            finally:
                await made.end("reporter", "calculator", "trading-server")
                await connection.close()


async def test_flushed_metrics_are_the_same_after_a_restart(example: Example) -> None:
    started = await example.start()
    assert started["reporter"]["adopted"] is False
    await example.counted(8)
    before = {name: state.pid for name in ("trading-server", "calculator") if (state := await _state(example, name))}
    await example.take_down()
    flushed = example.bench.results["flush:calculator"]
    # New trades go on appearing while the system is down: what was not counted then is counted afterwards.
    booked = await example.database("select max(id) from trades")
    up = await example.bring_up()
    assert up["calculator"]["digest"] == flushed["digest"]
    assert up["calculator"]["values"] == flushed["values"]
    assert up["calculator"]["compared"] is True
    after = {name: state.pid for name in ("trading-server", "calculator") if (state := await _state(example, name))}
    assert after["trading-server"] == before["trading-server"], "a kept component was restarted"
    assert after["calculator"] != before["calculator"]
    values = flushed["values"]
    assert isinstance(values, dict)
    grown = await example.counted(int(str(values["trades"])) + 3)
    # Without a gap: as many more trades as ids.
    assert grown["trades"] - values["trades"] == grown["last_trade"] - values["last_trade"]
    assert grown["last_trade"] >= booked
    assert set(example.answers.users) == {CALCULATOR}


async def test_metrics_kept_in_memory_are_those_that_sql_computes_over_the_same_trades(example: Example) -> None:
    await example.start()
    await example.counted(10)
    example.bench.entry += 1
    await example.perform("participant.pause", "calculator", lease=60)
    values = await example.values()
    first = values["last_trade"] - values["trades"] + 1
    where = f"from trades where id between {first} and {values['last_trade']}"
    won = await example.database(f"select avg((pnl > 0)::int)::float8 {where}")
    assert values["win_rate"] == pytest.approx(won, rel=1e-9)
    assert values["pnl"] == pytest.approx(await example.database(f"select sum(pnl) {where}"), rel=1e-9)
    sharpe = "avg(pnl / (entry * quantity)) / stddev_samp(pnl / (entry * quantity))"
    assert values["sharpe"] == pytest.approx(await example.database(f"select {sharpe} {where}"), rel=1e-9)


async def test_killed_calculator_has_lost_what_it_held(example: Example) -> None:
    await example.start()
    before = await example.counted(10)
    await example.kill(CALCULATOR)
    await example.start()
    after = await example.values()
    assert after["trades"] < before["trades"]
    assert after["last_trade"] >= before["last_trade"], "it counts from its new start only"


async def test_paused_calculator_takes_in_nothing_and_the_pause_ends_when_it_is_not_renewed(example: Example) -> None:
    await example.start()
    await example.counted(2)
    example.bench.entry += 1
    await example.perform("participant.pause", "calculator", lease=2)
    first = await example.values()
    await asyncio.sleep(1)
    assert await example.values() == first
    assert (await example.counted(first["trades"] + 1))["trades"] > first["trades"]
    # What was flushed after a lapsed pause would change under our eyes.
    with pytest.raises(Permanent, match="a flush needs a pause"):
        await example.perform("participant.flush", "calculator")


async def test_repeated_command_is_answered_again_and_not_done_again(example: Example) -> None:
    await example.start()
    await example.counted(2)
    bench = example.bench
    await example.perform("participant.pause", "calculator", lease=60)
    first, entry = await example.perform("participant.flush", "calculator"), bench.entry
    bench.entry += 1
    await example.perform("participant.resume", "calculator")
    await example.counted(4)
    bench.entry = entry
    # The same command id: a crash between effect and record leads here. It runs by now, and would refuse a new flush.
    assert await example.perform("participant.flush", "calculator") == first


async def test_lower_token_and_expired_command_are_refused(example: Example) -> None:
    await example.start()
    bench = example.bench
    bench.token = 1000
    await example.perform("participant.resume", "calculator")
    bench.token = 10
    bench.entry += 1
    with pytest.raises(Permanent, match=r"token 11 is lower than 10\d\d"):
        await example.perform("participant.pause", "calculator", lease=60)


async def test_reporter_pauses_by_signal_and_starts_paused(example: Example) -> None:
    await example.start()
    report = example.folder / "var/reports/metrics.md"
    async with asyncio.timeout(15):
        while not report.exists():
            await asyncio.sleep(0.1)
    assert "profit and loss" in report.read_text()
    paused = await example.perform("participant.pause", "reporter")
    assert (paused["by"], paused["sent"]) == ("signal", "USR1")
    await asyncio.sleep(1.2)
    said = await example.perform("participant.report", "reporter")
    assert said["values"] == {"reports": said["values"]["reports"], "paused": True}  # type: ignore[index,call-overload]
    text = report.read_text()
    await asyncio.sleep(1.5)
    assert report.read_text() == text
    await example.perform("participant.resume", "reporter")
    async with asyncio.timeout(10):
        while report.read_text() == text:
            await asyncio.sleep(0.1)


async def test_changed_flush_is_found_when_it_is_read_back_and_when_it_is_loaded(example: Example) -> None:
    await example.start()
    await example.counted(2)
    await example.take_down()
    where = Path(unquote(urlsplit(str(example.bench.results["flush:calculator"]["where"])).path))
    state = json.loads(where.read_text())
    where.write_text(json.dumps({**state, "pnl": state["pnl"] + 1000}))
    lying = hashlib.sha256(where.read_bytes()).hexdigest()
    with pytest.raises(Permanent, match=f"but says it loaded {lying}"):
        await example.start(paused=True)


async def test_calculator_comes_back_to_a_broker_that_was_away(example: Example, rabbit_server: RabbitServer) -> None:
    await example.start()
    before = await example.counted(2)
    # The broker closes every connection of this user, as a restart would.
    api = rabbit_server.management()
    async with asyncio.timeout(20):
        while not (mine := [c for c in await api.get("/connections") if c.get("user") == CALCULATOR]):
            await asyncio.sleep(0.2)
    for connection in mine:
        await api.delete(f"/connections/{quote(connection['name'], safe='')}")
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Retry):
                after = await example.values()
                break
            await asyncio.sleep(0.2)
    assert after["trades"] >= before["trades"], "the connection was lost, not the memory"


async def test_killed_trading_server_leaves_no_postgres_behind_and_starts_again_on_its_data(example: Example) -> None:
    await example.start()
    booked = await example.database("select count(*) from trades")
    home = example.folder / "var/trading/server/data"
    state = await _state(example, "trading-server")
    assert state.pid is not None
    os.kill(state.pid, signal.SIGKILL)
    async with asyncio.timeout(15):
        while any(_stands_in(process, home) for process in psutil.process_iter()):
            await asyncio.sleep(0.1)
    await example.start()
    assert await example.database("select count(*) from trades") >= booked


async def test_component_that_cannot_start_is_shown_with_its_status_and_last_words(example: Example) -> None:
    await example.perform("component.start", "trading-server", timeout=60)
    system = example.bench.system
    broken = system.components["calculator"].model_copy(
        update={"process": [sys.executable, "-c", "import os; raise SystemExit('no: ' + os.environ['TRADING_DSN'])"]}
    )
    example.bench.system = system.model_copy(update={"components": {**system.components, "calculator": broken}})
    with pytest.raises(Retry, match=r"(?s)calculator ended right after its start \(exit status 1\).*no: \*\*\*"):
        await example.perform("component.start", "calculator", timeout=20)


async def test_trades_are_the_same_every_time_and_many() -> None:
    code = "from metrics.prices import history; h = history(); print(len(h), repr(h[-1]))"
    run = LocalPrograms().run
    runs = [await run([sys.executable, "-c", code], os.environ, str(EXAMPLE), timedelta(seconds=30)) for _ in "ab"]
    assert runs[0] == runs[1]
    assert int(runs[0][1].split()[0]) > 300


async def _state(example: Example, name: str) -> Any:
    return await example.processes.state(f"metrics.{name}")


def _stands_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd() == str(folder)
    except psutil.Error:
        return False
