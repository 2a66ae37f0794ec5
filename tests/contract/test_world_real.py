"""What only the real adapters can show: servers that are away, programs that hang, secrets that must not leak."""

import asyncio
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from service.adapters.databases import PostgresDatabases
from service.adapters.files import FileStorage
from service.adapters.processes import record
from service.adapters.programs import KEPT, LocalPrograms
from service.adapters.secrets import References
from service.errors import Permanent, Retry

LONG = timedelta(seconds=10)


async def test_open_session_is_named_by_pid_user_state_age_and_query(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url, server_settings={"application_name": "shop.worker"})
    try:
        await connection.execute("select  'what it did last'")
        (line,) = await PostgresDatabases().sessions(postgres_url, "shop.worker")
        pid = connection.get_server_pid()
        assert line.startswith(f"pid {pid}, ")
        assert "idle, 00:00:0" in line
        assert line.endswith("select 'what it did last'")
    finally:
        await connection.close()


async def test_check_cannot_change_anything(postgres_url: str) -> None:
    with pytest.raises(Permanent, match="read-only"):
        await PostgresDatabases().value(postgres_url, "create table t as select 1", LONG)


async def test_query_that_takes_too_long_is_ended_in_the_server_too(postgres_url: str) -> None:
    began = time.monotonic()
    with pytest.raises(Retry):
        await PostgresDatabases().value(postgres_url, "select pg_sleep(30)", timedelta(milliseconds=300))
    assert time.monotonic() - began < 5
    left = "select count(*) from pg_stat_activity where query = 'select pg_sleep(30)' and state = 'active'"
    async with asyncio.timeout(5):
        while await PostgresDatabases().value(postgres_url, left, LONG):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("select 1.5::numeric", 1.5),
        ("select 12::numeric", 12),
        ("select null", None),
        ("select 'x' where false", None),
        ("select array[1, 2]", [1, 2]),
        ("select timestamptz '2026-01-02 03:04:05+00'", "2026-01-02 03:04:05+00:00"),
    ],
)
async def test_values_become_json(postgres_url: str, query: str, value: object) -> None:
    assert await PostgresDatabases().value(postgres_url, query, LONG) == value


async def test_database_that_is_away_is_tried_again_and_its_password_is_not_said() -> None:
    with pytest.raises(Retry) as away:
        await PostgresDatabases().value("postgresql://me:hush@127.0.0.1:1/x", "select 1", LONG)
    assert "hush" not in str(away.value)


async def test_wrong_password_is_permanent_and_not_said(postgres_url: str) -> None:
    user = postgres_url.split("://")[1].split(":", maxsplit=1)[0]
    wrong = f"postgresql://{user}:hush@{postgres_url.rsplit('@', 1)[1]}"
    with pytest.raises(Permanent) as refused:
        await PostgresDatabases().value(wrong, "select 1", LONG)
    assert "hush" not in str(refused.value)


async def test_dsn_that_is_none_is_permanent_and_not_said() -> None:
    with pytest.raises(Permanent) as refused:
        await PostgresDatabases().value("hush://nonsense", "select 1", LONG)
    assert "hush" not in str(refused.value)


async def test_program_that_hangs_is_ended_with_all_its_children(tmp_path: Path) -> None:
    with pytest.raises(Retry, match="did not end within"):
        await LocalPrograms().run(
            ["sh", "-c", "sleep 300 & echo $! > child; wait"], {}, str(tmp_path), timedelta(milliseconds=500)
        )
    pid = int((tmp_path / "child").read_text())
    async with asyncio.timeout(5):
        while record.start_time(pid) is not None:
            await asyncio.sleep(0.02)


async def test_cancelled_program_is_ended_with_all_its_children(tmp_path: Path) -> None:
    running = asyncio.create_task(
        LocalPrograms().run(["sh", "-c", "sleep 300 & echo $! > child; wait"], {}, str(tmp_path), LONG)
    )
    async with asyncio.timeout(5):
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
            await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    pid = int((tmp_path / "child").read_text())
    async with asyncio.timeout(5):
        while record.start_time(pid) is not None:
            await asyncio.sleep(0.02)


async def test_program_that_leaves_something_in_the_background_has_ended_and_so_has_that(tmp_path: Path) -> None:
    command = ["sh", "-c", "sleep 300 & echo $! > child; echo done"]
    assert await LocalPrograms().run(command, {}, str(tmp_path), LONG) == (0, "done\n", "")
    pid = int((tmp_path / "child").read_text())
    async with asyncio.timeout(5):
        while record.start_time(pid) is not None:
            await asyncio.sleep(0.02)


async def test_talkative_program_ends_and_only_the_head_is_kept(tmp_path: Path) -> None:
    code = "import sys; sys.stdout.write('x' * 1_000_000); sys.stderr.write('y' * 1_000_000)"
    status, output, errors = await LocalPrograms().run([sys.executable, "-c", code], {}, str(tmp_path), LONG)
    assert (status, len(output), len(errors)) == (0, KEPT, KEPT)


async def test_document_on_a_closed_place_is_permanent_and_leaves_nothing_half(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Permanent, match=r"Not a directory|File exists"):
        await FileStorage().write((tmp_path / "file" / "x.json").as_uri(), b"x")
    assert os.listdir(tmp_path) == ["file"]


def test_path_of_a_secret_may_name_a_variable_and_is_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "me.url").write_text("amqp://me:hush@127.0.0.1/\n")
    references = References({"USERS": str(tmp_path / "users")})
    assert references.resolve("file:${USERS}/me.url", "/elsewhere") == "amqp://me:hush@127.0.0.1/"
    assert references.resolve("file:users/me.url", str(tmp_path)) == "amqp://me:hush@127.0.0.1/"
    with pytest.raises(Permanent, match="OTHER is not set"):
        references.resolve("file:${OTHER}/me.url", "/elsewhere")


def test_empty_secret_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(Permanent, match="is empty"):
        References({}).resolve("file:empty", str(tmp_path))


async def test_session_that_our_role_may_not_look_into_is_a_session(postgres_url: str) -> None:
    role = f"reader_{os.getpid()}"
    connection = await asyncpg.connect(postgres_url, server_settings={"application_name": "shop.worker"})
    try:
        await connection.execute(f"create role {role} login password 'hush'")
        mine = f"postgresql://{role}:hush@{postgres_url.split('@', 1)[1]}"
        (line,) = await PostgresDatabases().sessions(mine, "shop.worker")
        assert line.startswith(f"pid {connection.get_server_pid()}, ")
    finally:
        await connection.execute(f"drop role if exists {role}")
        await connection.close()
