"""Backups on a real PostgreSQL, into files and into S3: what counts as one, what does not, and what is left behind."""

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import psutil
import pytest

from schemas.backup import Backup
from schemas.base import Json
from schemas.system import System
from service.adapters.memory.world import MemoryWorld
from service.adapters.pg_tools import PostgresDumps
from service.adapters.pg_tools.programs import tools_for
from service.adapters.pg_tools.scratch import scratch_server
from service.adapters.secrets import References
from service.clock import SystemClock
from service.errors import Permanent, Retry
from service.ports import Waiting
from tests.performing import Bench
from tests.servers import unique
from tests.storages import Kept, bucket, on_files, on_s3, s3_server, stream

ROOT = Path(__file__).parents[2]
LONG = timedelta(seconds=90)
RESTART = "20260301T020000-9f3c1a"

TABLES = """
create table trades (id bigint generated always as identity primary key, ts timestamptz not null, pnl numeric);
create table published (calculator text primary key, at timestamptz);
insert into trades (ts, pnl) select '2026-03-01Z'::timestamptz + n * interval '1 s', n from generate_series(1, 5000) n;
"""


class Shop(Bench):
    """A system with one database, its backups on some storage, its scratch servers in a folder of their own."""

    def __init__(self, kept: Kept, dsn: str, scratch: Path) -> None:
        self.kept, self.dsn, self.scratch = kept, dsn, scratch
        self.dumps = PostgresDumps(scratch)
        world = replace(
            MemoryWorld(SystemClock()).world(),
            storage=kept.storage,
            dumps=self.dumps,
            secrets=References({"TRADING": dsn}),
        )
        file = {
            "system": "shop",
            "databases": {"trading": {"url": "env:TRADING"}},
            "storage": {"state": "file:///state", "backups": kept.place},
            "components": {"worker": {"process": ["worker"]}},
            "restart": {"backup": {"databases": ["trading"], "reuse_within": "1h"}},
            "verify": [{"sql": "trading", "query": "select 1", "is": 1}],
        }
        super().__init__(System.model_validate(file), world, SystemClock(), _never_asked)
        self.data = {"restart": {"id": RESTART}}

    async def do(self, line: str) -> Mapping[str, Json]:
        """One line of the table, for the database."""
        result = await self.perform(f"postgres.{line}", timeout=LONG.total_seconds(), database="trading")
        self.results[f"{line}:trading"] = result
        return result

    async def manifest(self) -> Backup:
        url = str(self.results["backup:trading"]["manifest"])
        return Backup.model_validate_json(await self.kept.storage.read(url))

    async def falsify(self, **changes: object) -> None:
        """The stored manifest says something else from now on, and so does the step's result."""
        url = str(self.results["backup:trading"]["manifest"])
        changed = (await self.manifest()).model_copy(update=changes)
        await self.kept.storage.write(url, changed.canonical().encode())
        self.results["backup:trading"] = {**self.results["backup:trading"], "sha256": changed.sha256}

    async def change_dump(self, change: Callable[[bytes], bytes], *, admitted: bool = False) -> None:
        """The stored dump is another; `admitted`: with a manifest that says so, and only pg_restore can tell."""
        url = str(self.results["backup:trading"]["url"])
        size, digest = await self.kept.storage.write_stream(url, stream(change(await self.kept.storage.read(url))))
        if admitted:
            await self.falsify(bytes=size, sha256=digest)

    async def names(self) -> list[str]:
        return [stored.url.rsplit("/", 1)[1] for stored in await self.kept.storage.list(f"{self.kept.place}/")]

    def nothing_is_left(self) -> bool:
        return not list(self.scratch.glob("relight-scratch-*")) and not working_below(self.scratch)


async def _never_asked(command_id: str, waiting: Waiting) -> Mapping[str, Json]:
    raise AssertionError(f"{command_id} waits for {waiting.whom}")


def working_below(folder: Path) -> list[str]:
    """The processes whose working folder is below `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and os.readlink(entry / "cwd").startswith(str(folder)):
                found.append(entry.name)
    return found


def dumping() -> list[int]:
    """The pg_dumps that we have started and that still run; one that is asked for its version is none."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "--format=custom" in child.cmdline():
                found.append(child.pid)
    return found


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that the servers' own user can reach, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def trading(postgres_url: str) -> AsyncIterator[tuple[str, str]]:
    """(DSN, the role that owns `trades`): roles belong to the server, so each test has one of its own."""
    role = unique("keeper")
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"{TABLES}; create role {role}; alter table trades owner to {role}")
    yield postgres_url, role
    await connection.execute(f"reassign owned by {role} to current_user; drop owned by {role}; drop role {role}")
    await connection.close()


@pytest.fixture
async def shop(tmp_path: Path, trading: tuple[str, str], scratch: Path) -> Shop:
    return Shop(on_files(tmp_path), trading[0], scratch)


@pytest.fixture(params=["file", "s3"])
async def anywhere(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    trading: tuple[str, str],
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    if request.param == "file":
        return Shop(on_files(tmp_path), trading[0], scratch)
    await bucket(request.getfixturevalue("endpoint"), monkeypatch)
    return Shop(await on_s3(secrets.token_hex(4)), trading[0], scratch)


async def test_backup_is_the_latest_only_once_it_was_restored_and_compared(
    anywhere: Shop, trading: tuple[str, str]
) -> None:
    made = await anywhere.do("backup")
    assert (made["reused"], made["tables"], made["rows"]) == (False, 2, 5000)
    read_back = await anywhere.do("verify_backup")
    assert (read_back["verified"], read_back["sha256"]) == (True, made["sha256"])
    assert "latest.json" not in await anywhere.names()
    assert (await anywhere.manifest()).restored is None
    tested = await anywhere.do("restore_test")
    assert (tested["restored"], tested["rows"]) == (True, 5000)
    manifest = await anywhere.manifest()
    latest = await anywhere.kept.storage.read(anywhere.system.backup_url("trading", "latest.json"))
    assert Backup.model_validate_json(latest) == manifest
    assert manifest.restored is not None
    trades = manifest.contents.tables["public.trades"]
    assert (trades.owner, trades.rows) == (trading[1], 5000)
    assert trades.newest == {"id": "5000", "ts": "2026-03-01 01:23:20+00"}
    assert manifest.contents.tables["public.published"].newest == {"at": None}
    assert trading[1] in manifest.contents.roles
    assert str(made["url"]).rsplit("/", 1)[1].startswith(RESTART)
    assert anywhere.nothing_is_left()
    assert await anywhere.kept.open_uploads() == 0


async def test_tested_backup_is_reused_and_the_later_steps_answer_at_once(shop: Shop) -> None:
    for line in ("backup", "verify_backup", "restore_test"):
        await shop.do(line)
    first, names = shop.results["backup:trading"], await shop.names()
    shop.data = {"restart": {"id": "20260301T030000-aaaaaa"}}
    reused = await shop.do("backup")
    assert (reused["reused"], reused["url"], reused["sha256"]) == (True, first["url"], first["sha256"])
    began = time.monotonic()
    assert (await shop.do("verify_backup"))["reused"] is True
    assert (await shop.do("restore_test"))["restored_at"] == reused["restored_at"]
    assert time.monotonic() - began < 0.2
    assert await shop.names() == names


async def test_backup_performed_twice_is_made_once(shop: Shop) -> None:
    first = await shop.do("backup")
    assert await shop.do("backup") == first
    assert len(await shop.names()) == 2


async def test_what_an_interrupted_claim_dumped_is_not_kept(shop: Shop) -> None:
    await shop.do("backup")
    await shop.kept.storage.delete(str(shop.results["backup:trading"]["manifest"]))
    again = await shop.do("backup")
    assert [name for name in await shop.names() if name.endswith(".dump")] == [str(again["url"]).rsplit("/", 1)[1]]


async def test_rows_that_arrive_while_it_is_dumped_are_neither_dumped_nor_counted(shop: Shop) -> None:
    async def late(chunks: AsyncIterator[bytes]) -> bytes:
        connection = await asyncpg.connect(shop.dsn)
        await connection.execute("insert into trades (ts, pnl) select now(), 1 from generate_series(1, 100)")
        await connection.close()
        return b"".join([chunk async for chunk in chunks])

    contents, dump = await shop.dumps.dump(shop.dsn, late, LONG)
    found = await shop.dumps.restored(stream(dump), contents, LONG)
    assert found.tables["public.trades"].rows == 5000
    assert contents.differences(found) == []


def cut(dump: bytes) -> bytes:
    return dump[: len(dump) * 6 // 10]


def flip(dump: bytes) -> bytes:
    middle = len(dump) * 6 // 10
    return dump[:middle] + bytes(byte ^ 0xFF for byte in dump[middle : middle + 64]) + dump[middle + 64 :]


@pytest.mark.parametrize("damage", [cut, flip])
async def test_damage_in_storage_is_found_by_the_checksum(anywhere: Shop, damage: Callable[[bytes], bytes]) -> None:
    await anywhere.do("backup")
    await anywhere.change_dump(damage)
    with pytest.raises(Permanent, match="the storage lost or changed it"):
        await anywhere.do("verify_backup")
    assert "latest.json" not in await anywhere.names()


@pytest.mark.parametrize("damage", [cut, flip])
async def test_damage_that_the_checksum_agrees_with_is_found_by_unpacking(
    shop: Shop, damage: Callable[[bytes], bytes]
) -> None:
    await shop.do("backup")
    await shop.change_dump(damage, admitted=True)
    with pytest.raises(Permanent, match="cannot be read: pg_restore ended with status 1"):
        await shop.do("verify_backup")
    with pytest.raises(Permanent, match="cannot be restored: pg_restore ended with status 1"):
        await shop.do("restore_test")
    assert "latest.json" not in await shop.names()
    assert shop.nothing_is_left()


async def test_dump_below_the_floor_is_no_backup(shop: Shop) -> None:
    await shop.do("backup")
    await shop.change_dump(lambda dump: dump[:999], admitted=True)
    with pytest.raises(Permanent, match="has 999 bytes; less than 1000 is no backup"):
        await shop.do("verify_backup")


async def test_restore_without_an_owning_role_is_no_restore(shop: Shop, trading: tuple[str, str]) -> None:
    await shop.do("backup")
    contents = (await shop.manifest()).contents
    roles = [role for role in contents.roles if role != trading[1]]
    await shop.falsify(contents=contents.model_copy(update={"roles": roles}))
    with pytest.raises(Permanent, match=f'role "{trading[1]}" does not exist'):
        await shop.do("restore_test")
    assert "latest.json" not in await shop.names()
    assert shop.nothing_is_left()


async def test_copy_with_other_rows_is_not_published_and_every_difference_is_named(shop: Shop) -> None:
    await shop.do("backup")
    connection = await asyncpg.connect(shop.dsn)
    await connection.execute("delete from trades where id > 4990; create table extra (x int)")
    await connection.close()

    async def whole(chunks: AsyncIterator[bytes]) -> bytes:
        return b"".join([chunk async for chunk in chunks])

    _, other = await shop.dumps.dump(shop.dsn, whole, LONG)
    await shop.change_dump(lambda _: other, admitted=True)
    assert (await shop.do("verify_backup"))["verified"] is True
    with pytest.raises(Permanent) as refused:
        await shop.do("restore_test")
    for words in (
        "table public.extra was not in the backup",
        "table public.trades has 4990 rows, not 5000",
        "table public.trades: the newest id is 4990, not 5000",
    ):
        assert words in str(refused.value)
    assert "latest.json" not in await shop.names()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
async def test_full_storage_is_tried_again_and_keeps_nothing_half(
    tmp_path: Path, trading: tuple[str, str], scratch: Path
) -> None:
    connection = await asyncpg.connect(trading[0])
    await connection.execute("create table noise as select gen_random_uuid() from generate_series(1, 100000)")
    await connection.close()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
    try:
        shop = Shop(on_files(tmp_path), trading[0], scratch)
        with pytest.raises(Retry, match="No space left on device") as full:
            await shop.do("backup")
        assert re.search(rf"the file system at {tmp_path} was full after some \d+ bytes of it", str(full.value))
        # What was half written is gone again; here nobody can be asked how large the database is.
        assert "; 1048576 of its 1048576 bytes are free. How large trading is now cannot be told" in str(full.value)
        assert await shop.names() == []
        assert await shop.kept.open_uploads() == 0
        assert dumping() == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


async def noisy(dsn: str, megabytes: int) -> None:
    """A table that no compression makes smaller."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("create table noise (id int primary key, x bytea)")
    await connection.execute("alter table noise alter x set storage external")
    rows = [(n, secrets.token_bytes(1 << 20)) for n in range(20)]
    await connection.copy_records_to_table("noise", records=rows)
    more = (
        "insert into noise select 100 + n, (select x from noise where id = n % 20) from generate_series(20, $1::int) n"
    )
    await connection.execute(more, megabytes - 1)
    await connection.close()


async def test_pg_dump_killed_in_the_middle_is_no_backup(anywhere: Shop) -> None:
    await noisy(anywhere.dsn, 40)
    working = asyncio.create_task(anywhere.do("backup"))
    async with asyncio.timeout(30):
        while not dumping():
            await asyncio.sleep(0.005)
    os.kill(dumping()[0], signal.SIGKILL)
    with pytest.raises(Retry, match="pg_dump was ended by signal 9"):
        await working
    assert await anywhere.names() == []
    assert await anywhere.kept.open_uploads() == 0


async def test_cancelled_backup_ends_pg_dump_and_keeps_nothing(anywhere: Shop) -> None:
    await noisy(anywhere.dsn, 40)
    working = asyncio.create_task(anywhere.do("backup"))
    async with asyncio.timeout(30):
        while not dumping():
            await asyncio.sleep(0.005)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert dumping() == []
    assert await anywhere.names() == []
    assert await anywhere.kept.open_uploads() == 0


async def test_no_password_is_seen_among_the_arguments_of_any_process(shop: Shop) -> None:
    match = re.search(r"://[^:]+:([^@]+)@", shop.dsn)
    assert match is not None
    await noisy(shop.dsn, 20)
    lines: set[str] = set()

    async def look() -> None:
        while True:
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    lines.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            await asyncio.sleep(0.005)

    looking = asyncio.create_task(look())
    for line in ("backup", "verify_backup", "restore_test"):
        await shop.do(line)
    looking.cancel()
    assert any("pg_dump --format=custom" in line for line in lines)
    assert any("pg_restore --exit-on-error" in line for line in lines)
    assert not [line for line in lines if match[1] in line or "postgresql://" in line]


async def test_what_pg_dump_says_is_repeated_without_the_password(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    fake = tools / "pg_dump"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && { echo "pg_dump (PostgreSQL) 99.1"; exit; }\n'
        'printf PGDMP; echo "cannot log in with $PGPASSWORD" >&2; exit 3\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("RELIGHT_POSTGRES_BIN", str(tools))
    with pytest.raises(Retry, match=r"pg_dump ended with status 3: cannot log in with \*\*\*"):
        await shop.do("backup")
    assert await shop.names() == []


async def test_pg_dump_older_than_the_server_is_named_before_anything_is_done(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "pg_dump").write_text('#!/bin/sh\necho "pg_dump (PostgreSQL) 9.6.24"\n')
    (tools / "pg_dump").chmod(0o755)
    monkeypatch.setenv("RELIGHT_POSTGRES_BIN", str(tools))
    named = r"of PostgreSQL \d+ or newer are needed .* but here are: 9 in .*RELIGHT_POSTGRES_BIN"
    with pytest.raises(Permanent, match=named):
        await shop.do("backup")


KILLED = """
import asyncio, sys
from pathlib import Path
from service.adapters.pg_tools.programs import tools_for
from service.adapters.pg_tools.scratch import scratch_server

async def main():
    tools = tools_for(0, "pg_restore", "initdb", "postgres")
    async with scratch_server(Path(sys.argv[1]), tools, 0):
        print("up", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_scratch_server_of_a_killed_relight_is_ended_by_the_next_test(shop: Shop) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, shop.scratch], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert working_below(shop.scratch)
    await shop.do("backup")
    await shop.do("restore_test")
    assert shop.nothing_is_left()


async def test_scratch_server_that_is_cancelled_again_and_again_while_it_begins_leaves_nothing(shop: Shop) -> None:
    tools = tools_for(0, "pg_restore", "initdb", "postgres")

    async def begin() -> None:
        async with scratch_server(shop.scratch, tools, 0):
            await asyncio.sleep(3600)

    for moment in (0.0, 0.001, 0.002, 0.005, 0.01, 0.1):
        beginning = asyncio.create_task(begin())
        await asyncio.sleep(moment)
        for _ in range(3):
            beginning.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await beginning
        assert shop.nothing_is_left(), moment


async def test_scratch_server_of_a_living_relight_is_left_alone(shop: Shop) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, shop.scratch], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        others = set(working_below(shop.scratch))
        await shop.do("backup")
        await shop.do("restore_test")
        assert set(working_below(shop.scratch)) & others
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    await shop.do("restore_test")
    await shop.falsify(restored=None)
    await shop.do("restore_test")
    assert shop.nothing_is_left()


@pytest.mark.timeout(400)  # 120 MB written, dumped, sent and restored, beside other workers
@pytest.mark.slow
async def test_memory_stays_bounded_however_large_the_database(
    trading: tuple[str, str], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 MB, twice the memory it may take, through us and back, to an S3 server that is another process."""
    await noisy(trading[0], 120)
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        await bucket(json.loads(server.stdout.readline()), monkeypatch)
        kept = await on_s3(secrets.token_hex(4))
        shop = Shop(kept, trading[0], scratch)
        await kept.storage.write(f"{kept.place}/warm", b"")
        before, most = psutil.Process().memory_info().rss, 0

        async def look() -> None:
            nonlocal most
            while True:
                most = max(most, psutil.Process().memory_info().rss)
                await asyncio.sleep(0.01)

        looking = asyncio.create_task(look())
        made = await shop.do("backup")
        assert int(str(made["bytes"])) > 120e6
        await shop.do("verify_backup")
        looking.cancel()
        server.kill()
    assert most - before < 60e6


SERVER = """
import json, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(json.dumps(f"http://127.0.0.1:{server.get_host_and_port()[1]}"), flush=True)
time.sleep(300)
"""
