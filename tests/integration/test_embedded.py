"""The private servers, as their users meet them: started, adopted, side by side, and gone without a trace."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import psutil
import pytest

from service.embedded import Embedded, EmbeddedError, PostgresServer, RabbitServer, processes
from service.embedded.place import Account, settle, unsettle
from service.embedded.ports import HIGHEST, LOWEST, answers, free_port, is_free
from tests.servers import reachable_directory, undisturbed

OWNER = """
import asyncio, sys
from pathlib import Path
from service.embedded import Embedded
async def main():
    await Embedded(Path(sys.argv[1])).start()
    print("started", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with reachable_directory() as found:
        yield found


@pytest.fixture
async def postgres(directory: Path) -> AsyncIterator[PostgresServer]:
    server = PostgresServer(directory)
    try:
        await server.start()
        yield server
    finally:
        with undisturbed():
            await server.destroy()


def listening(pids: list[int]) -> set[str]:
    """The addresses on which these processes listen."""
    found = psutil.net_connections("inet")
    return {c.laddr.ip for c in found if c.pid in pids and c.status == psutil.CONN_LISTEN}


def users(pids: list[int]) -> set[int]:
    return {psutil.Process(pid).uids().effective for pid in pids}


async def value(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


# ---- PostgreSQL


async def test_postgres_whose_start_is_cancelled_in_its_first_moment_is_ended(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await postgres.stop()
    loop, start, begun = asyncio.get_running_loop(), processes.start_detached, []

    def cancelled_meanwhile(*words: Any, **how: Any) -> Any:
        loop.call_soon_threadsafe(starting.cancel)
        begun.append(start(*words, **how))
        return begun[-1]

    monkeypatch.setattr(processes, "start_detached", cancelled_meanwhile)
    starting = asyncio.create_task(postgres.start())
    await asyncio.wait({starting})
    assert starting.cancelled()
    assert [server.poll() is not None for server in begun] == [True]
    assert not postgres.pids


async def test_postgres_stops_without_a_trace_and_keeps_its_data(postgres: PostgresServer) -> None:
    await value(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    port, pids = postgres.port, postgres.pids
    assert LOWEST <= port <= HIGHEST
    assert listening(pids) == {"127.0.0.1"}
    await postgres.stop()
    assert postgres.pids == []
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
    assert not answers(port)
    await postgres.start()
    assert postgres.port == port
    assert await value(postgres.url, "SELECT answer FROM kept") == 42


async def test_postgres_survives_a_kill(postgres: PostgresServer) -> None:
    await value(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    await postgres.kill()
    assert not postgres.running()
    await postgres.start()
    assert await value(postgres.url, "SELECT answer FROM kept") == 42
    assert await value(postgres.url, "SHOW fsync") == "on"


async def test_postgres_takes_nobody_without_the_password(postgres: PostgresServer) -> None:
    wrong = postgres.url.replace(postgres.url.split(":")[2].split("@")[0], "wrong")
    for url in (wrong, f"postgresql://postgres@127.0.0.1:{postgres.port}/relight"):
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
            await value(url, "SELECT 1")
    hba = (postgres.home / "data" / "pg_hba.conf").read_text()
    methods = {line.split()[-1] for line in hba.splitlines() if line.strip() and not line.startswith("#")}
    assert methods == {"scram-sha-256"}
    stored = await value(postgres.url, "SELECT rolpassword FROM pg_authid WHERE rolname = 'relight'")
    assert str(stored).startswith("SCRAM-SHA-256$")


async def test_passwords_are_in_files_of_the_owner_only(postgres: PostgresServer, directory: Path) -> None:
    secret = postgres.url.split(":")[2].split("@")[0]
    for file in directory.rglob("*"):
        if file.is_file() and secret.encode() in file.read_bytes():
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    assert not any(secret in " ".join(psutil.Process(pid).cmdline()) for pid in postgres.pids)


async def test_postgres_moves_when_its_port_was_taken_meanwhile(postgres: PostgresServer) -> None:
    port = postgres.port
    await postgres.stop()
    with socket.create_server(("127.0.0.1", port)):
        await postgres.start()
        assert postgres.port != port
        assert await value(postgres.url, "SELECT 1") == 1


async def test_postgres_ignores_a_stranger_that_has_its_old_pid(postgres: PostgresServer) -> None:
    await postgres.kill()
    pid_file = postgres.home / "data" / "postmaster.pid"
    lines = pid_file.read_text().split("\n")
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    assert not postgres.running()
    await postgres.start()
    assert await value(postgres.url, "SELECT 1") == 1


async def test_a_template_is_copied(postgres: PostgresServer) -> None:
    template = await postgres.create_database("seed")
    await value(template, "CREATE TABLE kept AS SELECT 42 AS answer")
    copy = await postgres.create_database("copy", template="seed")
    assert await value(copy, "SELECT answer FROM kept") == 42
    await postgres.drop_database("copy")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await value(copy, "SELECT 1")
    with pytest.raises(EmbeddedError, match="no name for a database"):
        await postgres.create_database('x"; DROP DATABASE relight; --')


async def test_an_interrupted_initdb_is_made_anew(directory: Path) -> None:
    server = PostgresServer(directory)
    half = server.home / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("15")
    try:
        await server.start()
        assert await value(server.url, "SELECT 1") == 1
    finally:
        await server.destroy()
    assert not server.home.exists()


async def test_a_server_that_cannot_start_says_why(directory: Path) -> None:
    server = PostgresServer(directory, settings={"shared_buffers": "'plenty'"})
    try:
        with pytest.raises(EmbeddedError, match=r"(?s)PostgreSQL.*shared_buffers"):
            await server.start()
        assert not server.running()
    finally:
        await server.destroy()


async def test_data_of_a_version_that_is_gone_is_not_touched(postgres: PostgresServer) -> None:
    await postgres.stop()
    version = postgres.home / "data" / "PG_VERSION"
    before = version.read_text()
    version.write_text("14\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 14"):
        await postgres.start()
    version.write_text(before)


# ---- both


async def test_killed_owner_is_followed_by_one_that_adopts(directory: Path) -> None:
    """The whole story in one, because each start of RabbitMQ costs seconds."""
    elsewhere = Path(str(directory) + "-beside")
    elsewhere.mkdir(mode=0o711)
    ours, beside = Embedded(directory), RabbitServer(elsewhere)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        # Two directories at once, side by side.
        await beside.start()
        assert owner.stdout is not None
        line = await asyncio.to_thread(owner.stdout.readline)
        assert line == b"started\n"
        node, database = ours.rabbit.pids, ours.postgres.pids
        assert set(node).isdisjoint(beside.pids)
        assert set(ours.rabbit.ports.all()).isdisjoint(beside.ports.all())

        # A second user: its stop leaves the servers to the first.
        await ours.start()
        await ours.stop()
        assert ours.rabbit.running()
        assert ours.postgres.running()

        owner.send_signal(signal.SIGKILL)
        owner.wait()
        found = await ours.start()
        assert ours.rabbit.pids == node
        assert ours.postgres.pids[0] == database[0]
        assert await value(found.postgres_url, "SELECT 1") == 1
        connection = await aio_pika.connect(found.amqp_url)
        await connection.close()

        everyone = [*ours.rabbit.pids, *ours.postgres.pids, *beside.pids]
        assert listening(everyone) <= {"127.0.0.1", "::1"}
        assert 0 not in users(everyone)
        await nobody_else_gets_in(ours.rabbit)

        held = (*ours.rabbit.ports.all(), ours.postgres.port)
        await ours.stop()
        assert ours.rabbit.pids == ours.postgres.pids == []
        assert all(is_free(port) for port in held)
        assert beside.running()
    finally:
        owner.kill()
        owner.wait()
        with undisturbed():
            await asyncio.gather(ours.destroy(), beside.destroy())
            shutil.rmtree(elsewhere)


async def nobody_else_gets_in(rabbit: RabbitServer) -> None:
    """Not guest, not with a wrong password; but a user that was made."""
    for user, password in (("guest", "guest"), ("relight", "wrong")):
        with pytest.raises((aio_pika.exceptions.ProbableAuthenticationError, ConnectionError)):
            await aio_pika.connect(rabbit.url_for("/", user, password))
    url = await rabbit.add_user("ana", "a password/with signs", vhost=await new_vhost(rabbit))
    connection = await aio_pika.connect(url)
    await connection.close()
    assert "ana" in await rabbit.ctl("list_users")


async def new_vhost(rabbit: RabbitServer) -> str:
    await rabbit.add_vhost("aside")
    return "aside"


async def test_rabbitmq_moves_when_a_port_was_taken_and_keeps_its_queues(directory: Path) -> None:
    server = RabbitServer(directory)
    try:
        await server.start()
        connection = await aio_pika.connect(server.url)
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
        body = aio_pika.Message(b"42", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(body, routing_key="kept")
        await server.write_out()
        await server.kill()
        assert server.pids == []
        before = server.ports
        with socket.create_server(("127.0.0.1", before.amqp)):
            await server.start()
            assert server.ports.amqp != before.amqp
            assert server.ports.epmd == before.epmd
            connection = await aio_pika.connect(server.url)
            queue = await (await connection.channel()).get_queue("kept")
            message = await queue.get(timeout=10)
            assert message.body == b"42"
            await connection.close()
    finally:
        with undisturbed():
            await server.destroy()


# ---- places and ports


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as somebody else")
def test_a_closed_directory_is_left_for_one_that_the_servers_reach(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    account = Account.current()
    assert not account.can_reach(closed)
    real = settle(closed / "servers", account)
    assert account.can_reach(real)
    assert settle(closed / "servers", account) == real
    assert str(real) in (closed / "servers" / "data-is-elsewhere.txt").read_text()
    unsettle(closed / "servers", real)
    assert not real.exists()


def test_free_ports_are_below_the_ephemeral_range_and_differ() -> None:
    chosen: list[int] = []
    for _ in range(20):
        chosen.append(free_port(chosen))
    assert len(set(chosen)) == 20
    assert all(LOWEST <= port <= HIGHEST for port in chosen)
    with socket.create_server(("127.0.0.1", chosen[0])):
        assert not is_free(chosen[0])
        assert answers(chosen[0])
