"""A hundred hostile names and values through every action that runs a command: each arrives as it is, or is refused.

Whatever interpreted one would make a file in the folder of the test, or end a session at the database: neither happens.
"""

import ast
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import ValidationError

from schemas.system import System
from service.adapters.files import FileStorage
from service.adapters.local_files import LocalFiles
from service.adapters.pg_tools import PostgresDumps
from service.adapters.pg_tools.access import access
from service.adapters.processes.local import SupervisedProcesses
from service.adapters.programs import LocalPrograms
from service.clock import SystemClock
from service.errors import Permanent, RelightError, Retry
from tests.servers import Databases, reachable_directory, unique

ROOT = Path(__file__).resolve().parents[2]
LONG = timedelta(seconds=60)
RECORDER = """
import json, os, sys
given = {"argv": sys.argv[2:], "env": os.environ.get("HOSTILE"), "at": os.getcwd()}
with open(sys.argv[1], "a") as file:
    file.write(json.dumps(given) + chr(10))
"""
"""Writes down what it was given: how many arguments, which, and where it stands."""

TOUCH = "touch EVIDENCE"
HOSTILE = (
    # Shells: what one of them would run.
    *(form.replace("{}", TOUCH) for form in (
        "$({})", "`{}`", ";{}", "; {};", "|{}", "||{}", "&{}", "&& {}", "\n{}", "\n{}\n", "\r\n{}", "x'; {}; '",
        'x"; {}; "', "$({})$({})", ">EVIDENCE", ">>EVIDENCE", "<({})",
        "{{},}", "$IFS;{}", "${IFS};{}", "x;{}#", "%0a{}",
        "'$({})'", '"$({})"', "\\$({})", "!{}", "~;{}", "*;{}", "?", "[a-z]*", "$HOME", "$PATH", "%PATH%", "$0", "$@",
    )),
    # Options: what a program would take for one.
    "-f", "--file=EVIDENCE", "-fEVIDENCE", "--host=evil.example.org", "-hevil.example.org", "--", "-", "--version",
    "--help", "-c", "--dbname=postgres", "-d postgres", "-W", "--output EVIDENCE", "@EVIDENCE", "--jobs=999999", "-o-",
    # Paths.
    "../EVIDENCE", "../../../../etc/passwd", "/etc/passwd", "./EVIDENCE", "a/b", "..", ".", "~", "~root", "con:",
    "EVIDENCE/../x", "file:///etc/passwd", "\\\\host\\share", "/dev/stdout", "/proc/self/environ",
    # SQL, conninfo, URLs.
    "'; drop table sheep; --", '"; drop table sheep; --', "x' or '1'='1", "$$; drop table sheep; $$", "o'); drop table",
    "dbname=postgres host=127.0.0.1", "host=evil.example.org", "postgresql://user:pass@evil.example.org/x",
    "service=evil", "postgres://%2e%2e", "user:pass@host", "http://127.0.0.1:1/", "x?sslmode=disable&host=evil", "x#y",
    # Formats, templates, escapes.
    "%27%3B", "%%", "a%sb", "%s%s%s%n", "%n%n", "{0}", "{self.__class__}", "{{7*7}}", "${7*7}", "<%= 7 %>", "%(x)s",
    "\\x41\\n", "\\", "\\\\", "'", '"',
    # Terminals and letters.
    "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\x9b2J", "\x08\x08", "\t", " ", "  two  spaces  ", " lead", "trail ",
    "\u202egnp.exe", "\u2066x\u2069", "\ufeffbom", "\u200bzero", "日本語", "é", "e\u0301", "👍🏽", "\U000e0041",
    "A" * 4000, "x" * 63, "é" * 31,
)  # fmt: skip
"""Over a hundred; NUL and what is no Unicode stand apart, since no argument can hold them."""
IMPOSSIBLE = ("\0", f"a\0; {TOUCH}", "\0$(touch EVIDENCE)")


def test_there_are_a_hundred_of_them() -> None:
    assert len(set(HOSTILE)) >= 100


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything is started. Nothing but what a test writes itself may be in it, or in any folder above."""
    (tmp_path / "a/b/c").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b/c")
    (tmp_path / "recorder.py").write_text(RECORDER)
    return tmp_path


def untouched(folder: Path) -> bool:
    return not list(folder.rglob("EVIDENCE*"))


def recorded(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "recorded").read_text().splitlines()]


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, str(folder / "recorder.py"), str(folder / "recorded"), *words]


# --- programs of participants, and what stops and starts -------------------------------------------------------------


async def test_program_gets_every_hostile_word_as_one_argument_and_one_variable(folder: Path) -> None:
    programs, here = LocalPrograms(), str(folder / "a/b/c")
    whole = await programs.run(command(folder, *HOSTILE), {"HOSTILE": "x"}, here, LONG)
    assert whole[0] == 0, whole[2]
    for word in HOSTILE[::6]:
        assert (await programs.run(command(folder, word, "last"), {"HOSTILE": word}, here, LONG))[0] == 0
    first, *rest = recorded(folder)
    assert first["argv"] == list(HOSTILE)
    assert [one["argv"] for one in rest] == [[word, "last"] for word in HOSTILE[::6]]
    assert [one["env"] for one in rest] == list(HOSTILE[::6])
    assert untouched(folder)


async def test_environment_of_a_program_holds_every_hostile_value_verbatim(folder: Path) -> None:
    names = {f"H{number}": word for number, word in enumerate(HOSTILE)}
    tell = "import os,json; print(json.dumps({k: v for k, v in os.environ.items() if k[0] == 'H' and k[1:].isdigit()}))"
    status, output, errors = await LocalPrograms().run([sys.executable, "-c", tell], names, str(folder), LONG)
    assert status == 0, errors
    assert json.loads(output) == names
    assert untouched(folder)


@pytest.mark.parametrize("word", IMPOSSIBLE)
async def test_value_that_no_argument_can_hold_is_refused_and_nothing_runs(folder: Path, word: str) -> None:
    programs, processes = LocalPrograms(), SupervisedProcesses(folder / "home", SystemClock())
    for words, environment in ((command(folder, word), {}), (command(folder), {"HOSTILE": word})):
        with pytest.raises(Permanent, match="cannot be run"):
            await programs.run(words, environment, str(folder), LONG)
        with pytest.raises(Permanent, match="could not be started"):
            await processes.start("farm.dog", words, environment, str(folder))
    assert not (folder / "recorded").exists()
    assert untouched(folder)


async def test_program_named_like_a_command_line_is_no_program(folder: Path) -> None:
    programs, processes = LocalPrograms(), SupervisedProcesses(folder / "home", SystemClock())
    for number, word in enumerate(HOSTILE):
        with pytest.raises((Permanent, Retry)):
            await programs.run([f"no-such-{word}"], {}, str(folder), LONG)
        if number % 12 == 0:
            with pytest.raises(Permanent, match="could not be started"):
                await processes.start("farm.dog", [f"no-such-{word}"], {}, str(folder))
    assert untouched(folder)


async def test_supervised_process_gets_every_hostile_word_as_it_is_in_a_hostile_folder(folder: Path) -> None:
    processes = SupervisedProcesses(folder / "home", SystemClock())
    for number, name in enumerate((f"$({TOUCH})", f"; {TOUCH}; ", "-f", "\n\x1b[2J 日本")):
        here = folder / name
        here.mkdir()
        words = command(folder, *HOSTILE)
        await processes.start(f"farm.dog{number}", words, {"HOSTILE": HOSTILE[number]}, str(here))
        state = await processes.wait_stopped(f"farm.dog{number}", LONG)
        assert state.exit_status == 0
        told = recorded(folder)[-1]
        assert (told["argv"], told["env"], told["at"]) == (list(HOSTILE), HOSTILE[number], str(here))
    assert untouched(folder)


async def test_process_of_a_hostile_name_is_refused_before_any_folder_is_made(folder: Path) -> None:
    processes = SupervisedProcesses(folder / "home", SystemClock())
    for word in (one for one in (*HOSTILE, *IMPOSSIBLE) if one != "x" * 63):
        for ask in (processes.state, lambda name: processes.tell(name, "TERM")):
            with pytest.raises(Permanent, match="no name of a process"):
                await ask(f"farm.{word}")
        with pytest.raises(Permanent, match="no name of a process"):
            await processes.start(f"{word}.dog", command(folder), {}, str(folder))
    assert not (folder / "home").exists()
    assert untouched(folder)


# --- files -----------------------------------------------------------------------------------------------------------


async def test_file_of_a_hostile_name_is_that_very_file_or_a_clear_refusal(folder: Path) -> None:
    here = folder / "files"
    here.mkdir()
    for word in (*HOSTILE, *IMPOSSIBLE):
        path = here / "in" / word if "/" not in word else None
        plain = path is not None and word not in (".", "..") and "\0" not in word and len(word.encode()) < 200
        if path is not None and plain:
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
            assert not (await LocalFiles().tried(str(path), write=True)).folder
            url = f"file://{quote(str(here / 'kept' / word))}"
            await FileStorage().write(url, word.encode())
            assert await FileStorage().read(url) == word.encode()
            assert (here / "kept" / word).read_bytes() == word.encode()
        else:
            with contextlib.suppress(RelightError):
                await LocalFiles().tried(f"{here}/none/{word}", write=False)
    for word in IMPOSSIBLE:
        with pytest.raises(Permanent, match="NUL"):
            await LocalFiles().tried(f"{here}/{word}", write=True)
        with pytest.raises(RelightError):
            await FileStorage().write(f"file://{here}/{quote(word)}", b"x")
    assert untouched(folder) or {path.parent.name for path in folder.rglob("EVIDENCE*")} <= {"in", "kept"}


# --- the system's file -----------------------------------------------------------------------------------------------


def described(**more: Any) -> dict[str, Any]:
    return {
        "system": "farm",
        "storage": {"state": "file:///var/farm"},
        "components": {"dog": {"process": ["dog"]}},
        "verify": [{"files": "/var/farm"}],
        **more,
    }


FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "system": lambda word: described(system=word),
    "components": lambda word: described(components={word: {"process": ["dog"]}}),
    "databases": lambda word: described(databases={word: {"url": "env:DSN"}}),
    "mcp": lambda word: described(mcp={word: {"url": "http://127.0.0.1:1/mcp"}}),
    "env": lambda word: described(components={"dog": {"process": ["dog"], "env": {word: "x"}}}),
    "signal": lambda word: described(
        components={"dog": {"process": ["d"], "participant": {"pause": {"signal": word}}}}
    ),
    "identity": lambda word: described(databases={"wool": {"url": "env:DSN"}}, identity={"wool": word}),
    "url": lambda word: described(databases={"wool": {"url": f"env:{word}"}}),
    "headers": lambda word: described(
        components={"dog": {"process": ["d"], "participant": {"pause": {"http": "POST :80/", "headers": {word: "x"}}}}}
    ),
}


@pytest.mark.parametrize("field", FIELDS)
def test_hostile_name_is_refused_by_the_systems_file_and_the_field_is_named(field: str) -> None:
    for word in (*HOSTILE, *IMPOSSIBLE):
        if word == "x" * 63 or (field in ("env", "url", "headers") and word == "A" * 4000):
            continue  # long, and as harmless as a name can be
        with pytest.raises(ValidationError) as refused:
            System.model_validate(FIELDS[field](word))
        assert field in str(refused.value).lower(), word


def test_header_cannot_smuggle_another_one() -> None:
    for value in ("x\r\nHost: evil", "x\nX: y", "a\0b"):
        told = {"http": "POST :80/", "headers": {"X-Token": value}}
        with pytest.raises(ValidationError, match="headers"):
            System.model_validate(described(components={"dog": {"process": ["d"], "participant": {"pause": told}}}))


# --- PostgreSQL's programs -------------------------------------------------------------------------------------------


def test_no_hostile_word_of_a_dsn_becomes_an_argument_or_another_servers_address() -> None:
    for word in HOSTILE:
        reached = access(
            f"postgresql://{quote(word, safe='')}:{quote(word, safe='')}@127.0.0.1:5432/{quote(word, safe='')}"
        )
        assert reached.environment["PGHOST"] == "127.0.0.1"
        for variable in ("PGUSER", "PGPASSWORD", "PGDATABASE"):
            assert reached.environment[variable] == word
    with pytest.raises(Permanent, match="cannot be told the parameter 'service'"):
        access("postgresql://u:p@127.0.0.1/db?service=evil")


NAMES = (
    'wool"; drop table sheep; --',
    "dbname=postgres host=evil.example.org",
    "-f EVIDENCE $(touch EVIDENCE)",
    "postgresql://u:p@evil/x?%s",
    "\u202e\x1b[2J'日本\n%n",
)


@pytest.fixture
async def farm(databases: Databases) -> AsyncIterator[tuple[str, str]]:
    """The URL of a database in which hostile ones may be made, and a role with a hostile name."""
    name = unique("farm")
    url = await databases.create_database(name)
    role = f"{name} $(touch EVIDENCE) '\"; --"
    connection = await asyncpg.connect(url)
    await connection.execute(await connection.fetchval("select format('create role %I login', $1::text)", role))
    try:
        yield url, role
    finally:
        for made in NAMES:
            statement = "select format('drop database if exists %I with (force)', $1::text)"
            await connection.execute(await connection.fetchval(statement, f"{name} {made}"[:60]))
        await connection.close()
        await databases.drop_database(name)
        other = await asyncpg.connect(urlunsplit(urlsplit(url)._replace(path="/postgres")))
        await other.execute(await other.fetchval("select format('drop role %I', $1::text)", role))
        await other.close()


async def test_databases_tables_and_roles_of_hostile_names_are_dumped_restored_and_counted(
    farm: tuple[str, str], folder: Path
) -> None:
    url, role = farm
    prefix = urlsplit(url).path[1:]
    server = await asyncpg.connect(url)
    with reachable_directory() as scratch:
        dumps = PostgresDumps(scratch)
        for number, name in enumerate(NAMES):
            database = f"{prefix} {name}"[:60]
            await server.execute(await server.fetchval("select format('create database %I', $1::text)", database))
            reached = urlunsplit(urlsplit(url)._replace(path=f"/{quote(database, safe='')}"))
            connection = await asyncpg.connect(reached)
            for statement in (
                "create table public.sheep (id int primary key)",
                "create schema %I authorization %I",
                "create table %1$I.%1$I (%1$I int primary key)",
                "insert into %1$I.%1$I values (7)",
                "alter table %1$I.%1$I owner to %2$I",
            ):
                made = await connection.fetchval("select format($3::text, $1::text, $2::text)", name, role, statement)
                await connection.execute(made)
            await connection.close()
            kept = folder / f"{number}.dump"

            async def sink(chunks: AsyncIterator[bytes], kept: Path = kept) -> int:
                with kept.open("wb") as file:
                    return sum([file.write(chunk) async for chunk in chunks])

            async def chunks(kept: Path = kept) -> AsyncIterator[bytes]:
                yield kept.read_bytes()

            contents, size = await dumps.dump(reached, sink, LONG)
            assert size > 0
            assert contents.tables[f"{name}.{name}"].owner == role
            assert "public.sheep" in contents.tables, "nobody has dropped it"
            await dumps.readable(chunks(), LONG)
            if number in (0, 4):  # the names are those of the dump from here on; a server each is enough
                assert contents.differences(await dumps.restored(chunks(), contents, LONG)) == []
    await server.close()
    assert untouched(folder)


# --- and no shell anywhere -------------------------------------------------------------------------------------------


def test_nothing_in_relight_starts_a_shell() -> None:
    wrong = []
    for file in [*(ROOT / "service").rglob("*.py"), *(ROOT / "client").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                shell = [word for word in node.keywords if word.arg == "shell"]
                if (
                    shell
                    or called in SHELLS
                    or called.endswith(("create_subprocess_shell", "subprocess_shell", "getoutput"))
                ):
                    wrong.append(f"{file.name}:{node.lineno}: {called}")
            if isinstance(node, ast.Constant) and node.value in ("/bin/sh", "/bin/bash", "sh -c", "bash -c"):
                wrong.append(f"{file.name}:{node.lineno}: {node.value}")
    assert wrong == []


SHELLS = frozenset(
    {"os.system", "os.popen", "os.execl", "os.execlp", "os.spawnl", "os.spawnlp", "commands.getoutput", "pty.spawn"}
)
