"""What Relight stands on is never stopped: its own PostgreSQL as a component's child, its broker, its own processes."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from schemas.base import Json
from schemas.components import OnSilence
from schemas.system import System
from service.adapters.databases import PostgresDatabases
from service.adapters.grounds import HostGrounds, HostSockets
from service.adapters.memory.world import MemoryWorld
from service.adapters.processes.local import SupervisedProcesses
from service.clock import SystemClock
from service.embedded import PostgresServer
from service.embedded.place import Account
from service.embedded.ports import free_port
from service.embedded.programs import postgres_programs
from service.errors import Permanent, Retry
from service.steps.ending import kill
from service.steps.grounds import IDENTIFIER
from tests.performing import Bench
from tests.servers import reachable_directory, wait_for

SOON = timedelta(seconds=10)


async def nobody(*_: object) -> dict[str, str]:
    raise AssertionError("nothing waits for an answer here")


class House:
    """A system with one component that really runs; `own` are the servers that Relight stands on, by URL."""

    def __init__(self, folder: Path, process: list[str], database: str, identity: Mapping[str, Json] | None = None):
        self.databases = PostgresDatabases()
        self.processes = SupervisedProcesses(folder, SystemClock())
        self.url = database
        file = {
            "system": "shop",
            "folder": str(folder),
            "storage": {"state": "file:///var/shop"},
            "databases": {"orders": {"url": "env:ORDERS"}},
            "identity": dict(identity or {}),
            "components": {"server": {"process": process, "on_silence": "kill"}},
            "verify": [{"sql": "orders", "query": "select true"}],
        }
        self.system = System.model_validate(file)

    def bench(self, own: Mapping[str, str], identifier: Callable[[], Awaitable[str]] | None = None) -> Bench:
        memory = MemoryWorld(clock := SystemClock())
        memory.secrets.values["env:ORDERS"] = self.url

        async def other() -> str:
            return "1"

        world = replace(
            memory.world(),
            processes=self.processes,
            databases=self.databases,
            sockets=HostSockets(),
            grounds=HostGrounds(own, identifier or other),
        )
        return Bench(self.system, world, clock, nobody)

    async def identifier(self) -> str:
        return str(await self.databases.value(self.url, IDENTIFIER, SOON))

    async def runs(self) -> bool:
        return (await self.processes.state("shop.server")).running

    async def answers(self) -> bool:
        return await self.databases.value(self.url, "select 1", SOON) == 1


@pytest.fixture(scope="module")
def initialised() -> Iterator[PostgresServer]:
    """A data directory that has been started once and stands still."""
    with reachable_directory() as directory:
        server = PostgresServer(directory)
        wait_for(server.start())
        wait_for(server.stop())
        yield server
        wait_for(server.destroy())


@pytest.fixture
async def house(initialised: PostgresServer, tmp_path: Path) -> AsyncIterator[House]:
    """PostgreSQL as the child of a component's process: what a hasty system's file could hold."""
    async with postgres_component(initialised, tmp_path) as made:
        yield made


@asynccontextmanager
async def postgres_component(
    server: PostgresServer, folder: Path, identity: Mapping[str, Json] | None = None
) -> AsyncIterator[House]:
    account = Account.current()
    as_user = (
        ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"] if account.switch else []
    )
    command = [*as_user, str(postgres_programs() / "postgres"), "-D", str(server._data)]
    parent = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    made = House(folder, [sys.executable, "-c", parent, *command], server.url, identity)
    await made.bench({}).perform("component.start", "server")
    try:
        async with asyncio.timeout(30):
            while not await _answers(made):
                await asyncio.sleep(0.1)
        yield made
    finally:
        await server.stop()
        with contextlib.suppress(Retry):  # its child has ended, so it may be ending by itself at this very moment
            await made.processes.tell("shop.server", "KILL")


async def _answers(house: House) -> bool:
    try:
        return await house.answers()
    except Retry:
        return False


async def test_parent_of_relights_own_postgresql_is_neither_stopped_nor_killed(house: House) -> None:
    desk = house.bench({"the PostgreSQL server of Relight's own tables": house.url})
    with pytest.raises(Permanent, match=r"server was not stopped, because Relight stands on it: the PostgreSQL server"):
        await desk.perform("component.stop", "server", timeout=10.0, on_silence=OnSilence.KILL)
    with pytest.raises(Permanent, match="Relight stands on it"):
        await kill(desk.context("component.stop", "server"), "server")
    assert await house.runs()
    assert await house.answers()


async def test_it_is_found_before_the_point_of_no_return(house: House) -> None:
    desk = house.bench({"the PostgreSQL server of Relight's own tables": house.url})
    with pytest.raises(Permanent, match="Relight stands on it"):
        await desk.perform("identity.check")


async def test_own_server_behind_another_address_is_known_by_its_system_identifier(house: House) -> None:
    elsewhere = f"postgresql://relight@127.0.0.1:{free_port()}/relight"
    desk = house.bench({"the PostgreSQL server of Relight's own tables": elsewhere}, house.identifier)
    with pytest.raises(
        Permanent, match=f"server of Relight's own tables \\(system_identifier {await house.identifier()}"
    ):
        await desk.perform("component.stop", "server", timeout=10.0)
    assert await house.runs()


async def test_postgresql_that_relight_does_not_stand_on_is_stopped(
    house: House, postgres_server: PostgresServer
) -> None:
    async def own() -> str:
        return str(await house.databases.value(postgres_server.url, IDENTIFIER, SOON))

    desk = house.bench({"the PostgreSQL server of Relight's own tables": postgres_server.url}, own)
    assert (await desk.perform("identity.check"))["stands_on"] == []
    await desk.perform("component.stop", "server", timeout=20.0, on_silence=OnSilence.KILL)
    assert not await house.runs()


async def test_another_server_than_the_pinned_one_stops_everything(initialised: PostgresServer, tmp_path: Path) -> None:
    async with postgres_component(initialised, tmp_path, {"orders": "7000000000000000000"}) as house:
        desk = house.bench({})
        for action, component in (("identity.check", None), ("component.stop", "server")):
            with pytest.raises(Permanent, match="but identity: pins 7000000000000000000"):
                await desk.perform(action, component, timeout=10.0)
        assert await house.runs()


async def test_pinned_server_is_recognised(initialised: PostgresServer, tmp_path: Path) -> None:
    async with postgres_component(initialised, tmp_path) as house:
        pinned = await house.identifier()
        house.system = house.system.model_copy(update={"identity": {"orders": pinned}})
        result = await house.bench({}).perform("identity.check")
        assert result["identities"] == {"orders": pinned}


async def test_process_that_listens_where_relights_broker_is_is_not_stopped(tmp_path: Path) -> None:
    port = free_port()
    house = House(
        tmp_path,
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)],
        f"postgresql://127.0.0.1:{free_port()}/x",
    )
    desk = house.bench({"Relight's own RabbitMQ broker": f"amqp://relight:hush@localhost:{port}/vhost"})
    await desk.perform("component.start", "server")
    try:
        async with asyncio.timeout(20):
            while not _listens(port):
                await asyncio.sleep(0.05)
        with pytest.raises(Permanent, match="Relight's own RabbitMQ broker") as refused:
            await desk.perform("component.stop", "server", timeout=10.0)
        assert "hush" not in str(refused.value)
        assert await house.runs()
    finally:
        await house.processes.tell("shop.server", "KILL")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_relight_itself_and_what_it_was_started_by_are_known() -> None:
    grounds = HostGrounds({}, nobody)  # type: ignore[arg-type]  # never asked here
    assert any(f"Relight itself (pid {os.getpid()})" in line for line in await grounds.under(os.getpid()))
    above = await grounds.under(os.getppid())
    assert any("a parent of Relight" in line for line in above)
    child = await asyncio.create_subprocess_exec("sleep", "30")
    try:
        assert await grounds.under(child.pid) == ()
    finally:
        child.kill()
        await child.wait()


async def test_local_socket_of_postgresql_is_an_address_too(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / ".s.PGSQL.5433"))
    listener.listen()
    url = f"postgresql:///relight?host={tmp_path}&port=5433"
    with listener:
        assert await HostSockets().serves(os.getpid(), url)
        assert not await HostSockets().serves(os.getpid(), url.replace("5433", "5434"))
