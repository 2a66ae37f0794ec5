"""Secrets of every kind, planted before a real restart and a failing one, and looked for in everything that is left.

One system lives through the file. The last stories show that the search finds what is really there.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import aio_pika
import asyncpg
import pytest
import pytest_asyncio
import yaml

from service.adapters.processes.local import SupervisedProcesses
from service.clock import SystemClock
from service.embedded import RabbitServer
from service.embedded.programs import postgres_programs
from service.errors import RelightError
from tests.acceptance import gossip
from tests.acceptance.canaries import Canary, Watcher, sightings
from tests.acceptance.harness import INSTANCE, SYSTEM, House
from tests.acceptance.heard import Heard, ended, entered
from tests.faults.load import status_log
from tests.mcp_process import McpProcess, mcp_server
from tests.receivers import Hook, Mail, hook, mail
from tests.servers import Databases, reachable_directory, unique
from tests.storages import BUCKET, bucket, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

KINDS = (
    "trading dsn", "wrong dsn", "relight postgres", "relight amqp", "s3 key", "mail password", "hook token",
    "mcp url", "mcp token", "http url", "http header", "command env",
)  # fmt: skip
PLANTED = Canary.make("planted by hand")

LOUD_DUMP = """#!/bin/sh
[ "$1" = --version ] && exec "$REAL/pg_dump" "$@"
# Whoever watches the processes has to look at this one, too.
n=0; while [ ! -e "$HERE/seen/pg_dump" ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n + 1)); done
if [ -e "$HERE/loud" ]; then
    echo "pg_dump: could not connect with $PGPASSWORD ($PGUSER:$PGPASSWORD@$PGHOST)" >&2; env >&2; exit 1
fi
exec "$REAL/pg_dump" "$@"
"""
SLOW_RESTORE = """#!/bin/sh
[ "$1" = --version ] && exec "$REAL/pg_restore" "$@"
n=0; while [ ! -e "$HERE/seen/pg_restore" ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n + 1)); done
exec "$REAL/pg_restore" "$@"
"""

LISTENER = """
create function confess() returns int language plpgsql as $$ begin
    if current_setting('canary.loud', true) = 'on' then
        raise exception 'could not connect to %', current_setting('canary.dsn');
    end if;
    return 1;
end $$
"""


class Parrot(ThreadingHTTPServer):
    """Answers with the very path and header it was asked with, and with `status`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Echo)
        self.status, self.asked = 200, list[tuple[str, str]]()


class _Echo(BaseHTTPRequestHandler):
    server: Parrot

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        header = self.headers["Authorization"]
        self.server.asked.append((self.path, header))
        body = json.dumps({"detail": f"you asked {self.path} with {header}"}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        pass


@contextlib.contextmanager
def parrot() -> Iterator[Parrot]:
    with Parrot() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Cage(House):
    """The example with a secret of every kind, each in the place where its owner would keep it."""

    def __init__(self, folder: Path, postgres_url: str, amqp_url: str, canaries: dict[str, Canary]) -> None:
        super().__init__(folder, postgres_url, amqp_url)
        self.canaries, self.more = canaries, dict[str, str]()
        self.kept = self.example / "secrets"
        self.kept.mkdir(mode=0o700)
        self.loud = folder / "programs" / "loud"

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(**self.more, **more)

    def keep(self, name: str, text: str) -> None:
        (self.kept / name).write_text(text + "\n")

    def settle(self, post: Mail, web: Hook, echo: Parrot, server: McpProcess, endpoint: str) -> None:
        """The secrets' files and variables, and a system's file that refers to them."""
        its = self.canaries
        where = f"127.0.0.1:{post.server_address[1]}/?from=a@example.org&to=b@example.org&mode=insecure"
        self.keep("mail", f"mailto://relay:{its['mail password'].quoted}@{where}")
        self.keep("hook", f"json://127.0.0.1:{web.server_address[1]}/{its['hook token'].token}")
        self.keep("pause", f"http://127.0.0.1:{echo.server_address[1]}/pause?key={its['http url'].token}")
        self.keep("header", f"Bearer {its['http header'].token}")
        programs = self.folder / "programs"
        (programs / "seen").mkdir(parents=True)
        real = postgres_programs()
        for program in real.iterdir():
            (programs / program.name).symlink_to(program)
        for name, script in (("pg_dump", LOUD_DUMP), ("pg_restore", SLOW_RESTORE)):
            (programs / name).unlink()
            (programs / name).write_text(script.replace("$REAL", str(real)).replace("$HERE", str(programs)))
            (programs / name).chmod(0o755)
        self.more = {
            "RELIGHT_POSTGRES_BIN": str(programs),
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": its["s3 key"].token,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MCP_URL": f"{server.url}?key={its['mcp url'].token}",
            "MCP_KEY": its["mcp token"].token,
            "GOSSIP_SECRET": its["command env"].password,
        }
        self.rewrite(self._refer)

    def _refer(self, described: dict[str, Any]) -> None:
        described["databases"]["trading"]["url"] = "file:secrets/dsn"
        for component in described["components"].values():
            if "TRADING_DSN" in component.get("env", {}):
                component["env"]["TRADING_DSN"] = "file:secrets/dsn"
        told = {"http": "POST file:secrets/pause", "headers": {"Authorization": "file:secrets/header"}}
        program = str(Path(gossip.__file__).resolve())
        said = {"command": ["python", program, "tell"]}
        described["components"]["gossip"] = {
            "process": ["python", program, "live"],
            "needs": ["trading"],
            "participant": {"pause": told, "resume": told, "disconnect": said, "report": said},
            "on_silence": "proceed",
            "env": {"GOSSIP": "env:GOSSIP_SECRET", "TRADING_DSN": "file:secrets/dsn", "LOUD": str(self.loud)},
        }
        described["storage"]["backups"] = f"s3://{BUCKET}/canaries"
        described["restart"]["backup"] = {"databases": ["trading"]}
        described.setdefault("mcp", {})["canary"] = {"url": "env:MCP_URL", "token": "env:MCP_KEY", "tools": ["search"]}
        described["verify"] += [
            {"sql": "trading", "query": "select confess()", "is": 1},
            {"mcp": "canary"},
        ]
        described["channels"] = {
            "warning": ["file:secrets/mail", "file:secrets/hook"],
            "critical": ["file:secrets/mail"],
        }

    async def give_password(self) -> None:
        """Once the trading database is there: its role gets the canary as password, and only then its DSN is known."""
        dsn = self.example / "var/trading/dsn"
        await self.until("the trading database", lambda: _exists(dsn), 60)
        canary = self.canaries["trading dsn"]
        parts = urlsplit(dsn.read_text())
        assert parts.username is not None
        url = _with(dsn.read_text(), parts.username, canary.quoted)
        connection = await asyncpg.connect(dsn.read_text(), timeout=10)
        try:
            await connection.execute(LISTENER)
            # The server's own log is its own: it is told not to repeat what is raised here.
            for setting, value in (("canary.dsn", url), ("log_min_messages", "panic"), ("canary.loud", "off")):
                await connection.execute(f"alter role {parts.username} set {setting} = '{value}'")
            await connection.execute(f"alter role {parts.username} password '{canary.password}'")
        finally:
            await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn.read_text(), timeout=10)
        dsn.write_text(url)
        self.keep("dsn", url)

    async def end(self) -> None:
        processes = SupervisedProcesses(self.folder / "home" / "processes", SystemClock())
        await super().end()
        with contextlib.suppress(RelightError):
            await processes.tell(f"{SYSTEM}.gossip", "KILL")
            await processes.wait_stopped(f"{SYSTEM}.gossip", timedelta(seconds=10))


def _with(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"))


async def _exists(path: Path) -> bool:
    return path.exists()


@dataclass
class Left:
    """Everything that two restarts have left, and who was seen meanwhile."""

    cage: Cage
    watcher: Watcher
    post: Mail
    web: Hook
    echo: Parrot
    endpoint: str
    errors: dict[str, str] = field(default_factory=dict)
    """What the failing restart said of each step that failed."""

    async def texts(self) -> dict[str, str]:
        return {**self.files(), **await self.rows(), **await self.messages(), **await self.objects(), **self.told()}

    def files(self) -> dict[str, str]:
        """Logs, components' output, records, documents. Not the files where secrets have their place."""
        cage = self.cage
        own = (cage.kept, cage.users, cage.example / "var/trading", cage.folder / "programs")
        return {
            str(path.relative_to(cage.folder)): path.read_bytes().decode("utf-8", "replace")
            for path in cage.folder.rglob("*")
            if path.is_file() and not any(path.is_relative_to(folder) for folder in own)
        }

    async def rows(self) -> dict[str, str]:
        connection = await asyncpg.connect(self.cage.postgres_url, timeout=10)
        try:
            tables = await connection.fetch(
                "select format('%I.%I', table_schema, table_name) as name from information_schema.tables "
                "where table_schema not in ('pg_catalog', 'information_schema')"
            )
            return {
                f"table {table['name']}": "\n".join(
                    row[0] for row in await connection.fetch(f"select t::text from {table['name']} t")
                )
                for table in tables
            }
        finally:
            await connection.close()

    async def messages(self) -> dict[str, str]:
        said = await status_log(self.cage.amqp_url)
        assert said
        return {f"message {number} {note.routing_key}": repr(note) for number, note in enumerate(said)}

    async def objects(self) -> dict[str, str]:
        import aioboto3

        session = aioboto3.Session(aws_access_key_id="tests", aws_secret_access_key="x", region_name="us-east-1")
        async with session.client("s3", endpoint_url=self.endpoint) as s3:
            found = (await s3.list_objects_v2(Bucket=BUCKET)).get("Contents", [])
            return {
                one["Key"]: (await (await s3.get_object(Bucket=BUCKET, Key=one["Key"]))["Body"].read()).decode(
                    "latin-1"
                )
                for one in found
            }

    def told(self) -> dict[str, str]:
        return {"mails": repr(self.post.mails), "posts": repr(self.web.posts)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def left(databases: Databases, rabbit_server: RabbitServer) -> AsyncIterator[Left]:
    """A restart that goes well, and one in which everything fails as loudly as it can."""
    canaries, name = {kind: Canary.make(kind) for kind in KINDS}, unique("secrets")
    patch = pytest.MonkeyPatch()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(patch.undo)
        folder = stack.enter_context(reachable_directory())
        post, web, echo = (stack.enter_context(one()) for one in (mail, hook, parrot))
        endpoint = stack.enter_context(s3_server())
        await bucket(endpoint, patch)
        token = canaries["mcp token"].token
        server = await stack.enter_async_context(mcp_server("search", token=token))
        given, _ = await databases.create_database(name), await rabbit_server.add_vhost(name)
        stack.push_async_callback(rabbit_server.delete_vhost, name)
        stack.push_async_callback(_drop, databases, given, name)
        amqp_url = await rabbit_server.add_user(name, canaries["relight amqp"].password, vhost=name)
        stack.push_async_callback(rabbit_server.delete_user, name)
        cage = Cage(folder, await _owned(given, name, canaries["relight postgres"]), amqp_url, canaries)
        cage.settle(post, web, echo, server, endpoint)  # type: ignore[arg-type]  # the stack knows them as contexts
        stack.push_async_callback(cage.end)
        await cage.move_in(rabbit_server, name)
        watching = stack.enter_context(contextlib.ExitStack())
        watcher = watching.enter_context(Watcher(canaries.values(), folder / "programs/seen"))
        made = Left(cage, watcher, post, web, echo, endpoint)  # type: ignore[arg-type]
        await cage.start()
        await cage.give_password()
        await cage.until("serve is ready", cage.ready)
        heard = await stack.enter_async_context(Heard(amqp_url, SYSTEM))
        await cage.until("operational for the first time", lambda: _is(cage, "operational"), 60)
        for person in cage.people.values():
            await person.connect()
        await _goes_well(cage, heard)
        await _fails(made, heard)
        watching.close()
        yield made


async def _goes_well(cage: Cage, heard: Heard) -> None:
    mark = len(heard.notes)
    await cage.say("svc-deploy", "restart.requested", {"reason": "a new release"})
    await heard.until("up again", entered("operational"), mark)
    assert "starting_up.restoring" in heard.moves(mark), heard.tell(mark)


async def _fails(left: Left, heard: Heard) -> None:
    """pg_dump, the database, the HTTP participant, the program and the password: each fails and says why."""
    cage, mark = left.cage, len(heard.notes)
    cage.loud.touch()
    left.echo.status = 500
    await cage.trading("alter role metrics set canary.loud = 'on'")
    await cage.say("svc-deploy", "restart.requested", {"reason": "it will fail"})
    await heard.until("the backup failed", ended("backup:trading", "failed"), mark)
    canary = cage.canaries["wrong dsn"]
    cage.keep("dsn", _with((cage.example / "var/trading/dsn").read_text(), "metrics", canary.quoted))
    await heard.until("it is degraded", entered("degraded"), mark)
    left.errors = {f"{n}": note.data["error"] for n, note in enumerate(heard.notes[mark:]) if note.data.get("error")}


async def _is(house: House, state: str) -> bool:
    return await house.state() == state


async def _owned(url: str, name: str, canary: Canary) -> str:
    """The URL of that database for a role of its own, which really has the canary as its password."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(f"create role {name} login password '{canary.password}'")
        await connection.execute(f'alter database "{name}" owner to {name}')
    finally:
        await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(_with(url, name, "wrong"), timeout=10)
    return _with(url, name, canary.quoted)


async def _drop(databases: Databases, url: str, name: str) -> None:
    await databases.drop_database(name)
    connection = await asyncpg.connect(urlunsplit(urlsplit(url)._replace(path="/postgres")), timeout=10)
    try:
        await connection.execute(f"drop role {name}")
    finally:
        await connection.close()


# --- what is left ----------------------------------------------------------------------------------------------------


async def test_every_failing_part_really_said_its_secret_and_it_was_masked(left: Left) -> None:
    said = "\n".join(left.errors.values())
    assert "pg_dump ended with status 1" in said
    assert "could not connect with ***" in said
    assert "password authentication failed" in said
    assert left.echo.asked, "the participant over HTTP was asked"
    assert all(left.cage.canaries["http url"].token in path for path, _ in left.echo.asked)
    assert all(left.cage.canaries["http header"].token in header for _, header in left.echo.asked)
    rows = (await left.rows())["table relight.steps"]
    assert "I know *** and ***" in rows, "the program's own words, without the secret"
    assert "you asked /pause?key=*** with ***" in rows


async def test_no_secret_is_left_in_any_file_row_message_document_or_mail(left: Left) -> None:
    texts = await left.texts()
    for place in ("serve.log", "home/processes/metrics.gossip/output.log", "table relight.steps", "table relight.log"):
        assert place in texts
    assert any(place.endswith(".dump") for place in texts)
    assert any(place.endswith("latest.json") for place in texts)
    assert any("/snapshots/" in place for place in texts)
    assert left.post.mails
    assert sightings(left.cage.canaries.values(), texts) == []


async def test_no_secret_is_in_what_any_command_prints(left: Left) -> None:
    texts = await asyncio.to_thread(_printed, left.cage)
    assert "a new release" in "\n".join(text for words, text in texts.items() if words.startswith("history"))
    assert sum("✗" in text for words, text in texts.items() if words.startswith("doctor")) == 1
    assert sightings(left.cage.canaries.values(), texts) == []


def _printed(cage: Cage) -> dict[str, str]:
    """Every looking command in both forms, and a doctor who finds everything wrong: addresses, passwords, URLs."""
    wrong, worse = cage.canaries["wrong dsn"], cage.example / "worse.yaml"
    described = yaml.safe_load(cage.file.read_text())
    cage.keep("away", f"postgresql://metrics:{wrong.quoted}@127.0.0.1:1/nowhere")
    cage.keep("raw", f"postgresql://metrics:{wrong.password}@127.0.0.1:1/nowhere")
    cage.keep("noise", f"no-url {wrong.password}")
    cage.keep("mcp", f"http://metrics:{wrong.quoted}@127.0.0.1:1/{wrong.token}/mcp?key={wrong.token}")
    described["databases"] |= {name: {"url": f"file:secrets/{name}"} for name in ("away", "raw", "noise")}
    described["mcp"]["far"] = {"url": "file:secrets/mcp", "token": "env:GOSSIP_SECRET"}
    described["channels"]["info"] = ["file:secrets/noise", "file:secrets/raw"]
    worse.write_text(yaml.safe_dump(described))
    looks = [("status",), ("history", INSTANCE), ("plan", "restart", SYSTEM), ("doctor", "--systems", str(worse))]
    calls = [((*look, *form), dict[str, str]()) for look in looks for form in ((), ("--json",))]
    calls += [(("dead", "list"), {}), (("report", INSTANCE), {})]
    for variable, kind in (("RELIGHT_POSTGRES_URL", "relight postgres"), ("RELIGHT_AMQP_URL", "relight amqp")):
        its, given = cage.canaries[kind], cage.environment()[variable]
        calls += [
            (("status",), {variable: given.replace(its.quoted, text)}) for text in (f"{its.quoted}x", its.password)
        ]

    def call(one: tuple[tuple[str, ...], dict[str, str]]) -> tuple[str, str]:
        words, more = one
        done = cage.command(*words, **more)
        assert "Traceback" not in done.stderr, done.stderr
        return f"{' '.join(words)} {list(more)} {len(str(more))}", f"{done.stdout}\n{done.stderr}"

    with ThreadPoolExecutor(3) as pool:
        return dict(pool.map(call, calls))


async def test_no_argument_list_ever_held_a_secret(left: Left) -> None:
    assert {
        "service.cli",
        "pg_dump",
        "pg_restore",
        "postgres",
        "service.adapters.processes.supervisor",
        "gossip.py",
    } <= (left.watcher.programs)
    assert left.watcher.arguments == set()


async def test_environment_of_a_process_holds_only_the_secrets_it_needs(left: Left) -> None:
    mine = {"service.cli"}
    using = {"pg_dump", "metrics.calculator", "metrics.reporter", "gossip.py", "sleep"}  # the last: in our own pg_dump
    allowed = {
        "trading dsn": using,
        "wrong dsn": using,
        "relight postgres": mine,
        "relight amqp": mine,
        "s3 key": mine,
        "mcp url": mine,
        "mcp token": {*mine, "tests.mcp_server"},
        "command env": {*mine, "gossip.py"},
    }
    found = {kind: sorted(programs - allowed.get(kind, set())) for kind, programs in left.watcher.holders.items()}
    assert {kind: programs for kind, programs in found.items() if programs} == {}
    assert left.watcher.holders["trading dsn"] >= {"pg_dump", "metrics.calculator", "gossip.py"}, "they were looked at"


# --- the search itself -----------------------------------------------------------------------------------------------


async def test_search_finds_what_is_really_there(left: Left) -> None:
    cage = left.cage
    planted = {
        "serve.log": cage.log,
        "home/processes/metrics.gossip/output.log": cage.folder / "home/processes/metrics.gossip/output.log",
        "metrics/var/state/planted.md": cage.example / "var/state/planted.md",
    }
    for number, path in enumerate(planted.values()):
        with path.open("a") as file:
            file.write((PLANTED.password, PLANTED.quoted, PLANTED.second[8:])[number])
    connection = await asyncpg.connect(cage.postgres_url, timeout=10)
    await connection.execute("create table relight.planted (body bytea)")
    await connection.execute("insert into relight.planted values ($1)", PLANTED.password.encode())
    await connection.close()
    broker = await aio_pika.connect(cage.amqp_url, timeout=10)
    exchange = await (await broker.channel()).get_exchange("relight.status")
    note = {"id": "planted", "type": "relight.planted", "data": {"error": PLANTED.first[:8]}}
    await exchange.publish(aio_pika.Message(json.dumps(note).encode()), "metrics.planted")
    await broker.close()
    left.post.mails.append((("ops",), "subject", PLANTED.token))
    texts = await left.texts()
    found = {line.split(": ")[0] for line in sightings([PLANTED], texts)}
    assert found >= {*planted, "table relight.planted", "mails"}
    assert any(place.startswith("message ") for place in found)


async def test_watcher_finds_a_secret_in_arguments_and_in_an_environment() -> None:
    with Watcher([PLANTED]) as watcher:
        loose = [sys.executable, "-c", "import time; time.sleep(60)"]
        ended = [
            subprocess.Popen([*loose, f"--password={quote(PLANTED.password)}"]),
            subprocess.Popen(loose, env={**os.environ, "PGPASSWORD": PLANTED.password}),
        ]
        try:
            async with asyncio.timeout(20):
                while not (watcher.arguments and watcher.holders):
                    await asyncio.sleep(0.02)
        finally:
            for process in ended:
                process.kill()
                process.wait()
    assert all(line.startswith(PLANTED.kind) for line in watcher.arguments)
    assert set(watcher.holders) == {PLANTED.kind}
