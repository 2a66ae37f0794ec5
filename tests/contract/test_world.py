"""The world of the steps: the doubles in memory and the real adapters keep the same promises."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from service.adapters.databases import PostgresDatabases
from service.adapters.files import FileStorage
from service.adapters.memory.processes import ProcessScript
from service.adapters.memory.world import MemoryWorld
from service.adapters.processes.local import SupervisedProcesses
from service.adapters.programs import LocalPrograms
from service.adapters.secrets import References
from service.clock import SystemClock
from service.errors import Permanent, Retry
from service.ports import Databases, Processes, Programs, Secrets, Storage

NAME = "shop.worker"
SOON = timedelta(milliseconds=200)
LONG = timedelta(seconds=10)


@dataclass(frozen=True)
class Parts:
    """Every port, and how to make a process that ignores TERM, a command that says `said` and ends with 7, a secret."""

    processes: Processes
    storage: Storage
    programs: Programs
    secrets: Secrets
    place: str
    well: list[str]
    stubborn: Callable[[], list[str]]
    fails: list[str]


@pytest.fixture(params=["memory", "real"])
async def parts(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Parts]:
    if request.param == "memory":
        memory = MemoryWorld(SystemClock())
        memory.programs.scripts["fails",] = (7, "said\n", "")
        memory.secrets.values |= {"env:THERE": "value", "file:there": "in the file"}

        def stubborn() -> list[str]:
            memory.processes.scripts[NAME] = ProcessScript(ignores=frozenset({"TERM"}))
            return ["stubborn"]

        world = memory.world()
        yield Parts(
            world.processes,
            world.storage,
            world.programs,
            world.secrets,
            "file:///place",
            ["well"],
            stubborn,
            ["fails"],
        )
        return
    (tmp_path / "there").write_text("in the file\n")
    processes = SupervisedProcesses(tmp_path / "processes", SystemClock())
    yield Parts(
        processes,
        FileStorage(),
        LocalPrograms(),
        References({"THERE": "value"}),
        (tmp_path / "documents").as_uri(),
        ["sleep", "60"],
        lambda: ["sh", "-c", "trap '' TERM; touch up; while :; do sleep 0.05; done"],
        ["sh", "-c", "echo said; exit 7"],
    )
    if (await processes.state(NAME)).running:
        await processes.tell(NAME, "KILL")


async def test_unknown_process_does_not_run_and_cannot_be_told(parts: Parts) -> None:
    state = await parts.processes.state(NAME)
    assert (state.running, state.pid) == (False, None)
    with pytest.raises(Retry, match="does not run"):
        await parts.processes.tell(NAME, "TERM")


async def test_second_start_adopts_the_running_process(parts: Parts, tmp_path: Path) -> None:
    first = await parts.processes.start(NAME, parts.well, {}, str(tmp_path))
    again = await parts.processes.start(NAME, parts.well, {}, str(tmp_path))
    assert first.running
    assert (first.pid, first.started) == (again.pid, again.started)


async def test_start_after_the_end_is_another_process(parts: Parts, tmp_path: Path) -> None:
    first = await parts.processes.start(NAME, parts.well, {}, str(tmp_path))
    await parts.processes.tell(NAME, "TERM")
    ended = await parts.processes.wait_stopped(NAME, LONG)
    assert (ended.running, ended.pid, ended.started) == (False, first.pid, first.started)
    second = await parts.processes.start(NAME, parts.well, {}, str(tmp_path))
    assert (second.running, second.ending) == (True, False)
    assert (second.pid, second.started) != (first.pid, first.started)


async def test_kill_ends_what_ignores_term(parts: Parts, tmp_path: Path) -> None:
    await parts.processes.start(NAME, parts.stubborn(), {}, str(tmp_path))
    while parts.well != ["well"] and not (tmp_path / "up").exists():
        await SystemClock().sleep(0.02)
    await parts.processes.tell(NAME, "TERM")
    assert (await parts.processes.wait_stopped(NAME, SOON)).ending
    with pytest.raises(Retry, match="was told to end: it is not taken for a new one"):
        await parts.processes.start(NAME, parts.stubborn(), {}, str(tmp_path))
    await parts.processes.tell(NAME, "KILL")
    ended = await parts.processes.wait_stopped(NAME, LONG)
    assert (ended.running, ended.exit_status) == (False, -9)


async def test_program_that_is_not_there_is_permanent(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="no-such-program"):
        await parts.processes.start(NAME, ["no-such-program"], {}, str(tmp_path))


async def test_document_is_read_as_it_was_written_and_replaced_as_a_whole(parts: Parts) -> None:
    url = f"{parts.place}/deep/in%20here/one.json"
    await parts.storage.write(url, b"first, and longer")
    await parts.storage.write(url, b"\x00second\xff")
    assert await parts.storage.read(url) == b"\x00second\xff"


async def test_missing_document_is_permanent(parts: Parts) -> None:
    with pytest.raises(Permanent, match="No such file"):
        await parts.storage.read(f"{parts.place}/nothing.json")


@pytest.mark.parametrize("url", ["http://127.0.0.1/x", "file://relative/x", "/plain/path"])
async def test_place_that_is_no_absolute_file_is_refused(parts: Parts, url: str) -> None:
    with pytest.raises(Permanent, match="no place for documents"):
        await parts.storage.write(url, b"")


async def test_program_ends_with_its_status_and_words(parts: Parts, tmp_path: Path) -> None:
    assert await parts.programs.run(parts.fails, {}, str(tmp_path), LONG) == (7, "said\n", "")


async def test_references_are_resolved_and_other_text_is_itself(parts: Parts, tmp_path: Path) -> None:
    found = [parts.secrets.resolve(text, str(tmp_path)) for text in ("env:THERE", "file:there", "plain")]
    assert found == ["value", "in the file", "plain"]
    with pytest.raises(Permanent, match="env:MISSING"):
        parts.secrets.resolve("env:MISSING", str(tmp_path))


@pytest.fixture(params=["memory", "real"])
def database(request: pytest.FixtureRequest) -> tuple[Databases, str]:
    if request.param == "memory":
        memory = MemoryWorld(SystemClock())
        memory.databases.answers["select true"] = True
        memory.databases.open_sessions["shop.worker"] = ("pid 1, shop, idle, 00:01:00: select 1",)
        return memory.databases, "memory"
    return PostgresDatabases(), request.getfixturevalue("postgres_url")


async def test_value_is_the_first_column_of_the_first_row(database: tuple[Databases, str]) -> None:
    databases, dsn = database
    assert await databases.value(dsn, "select 1", LONG) == 1
    assert await databases.value(dsn, "select true", LONG) is True


async def test_wrong_query_is_permanent(database: tuple[Databases, str]) -> None:
    databases, dsn = database
    with pytest.raises(Permanent, match="refused the question"):
        await databases.value(dsn, "select nothing_like_this", LONG)


async def test_application_without_sessions_has_none(database: tuple[Databases, str]) -> None:
    databases, dsn = database
    assert await databases.sessions(dsn, "shop.nobody") == ()
